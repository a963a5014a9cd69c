"""Messages a second from the first byte in to the last message out, and processor time for each.

smtp-source -> contender -> smtp-sink. A run begins with a fresh queue and a warm-up, contenders take
turns (forwards, then backwards), and the median of the runs counts.
"""

import functools
import os
import time

from rows import contenders, ends
from rows.measure import Account, median, sign_us
from rows.report import Line

WARM_UP = 1000


class Load:
    """What is sent: sessions at once, octets of body, and whether a session sends many messages."""

    def __init__(self, sessions=20, length=4096, reuse=False, sink=ends.SmtpSink, sink_options=None):
        self.sessions, self.length, self.reuse = sessions, length, reuse
        self._sink, self._options = sink, sink_options or {}

    def source(self, address, messages):
        ends.source(address, messages, self.sessions, self.length, self.reuse)

    def sink(self, target, messages):
        if self._sink is ends.SmtpSink:
            return ends.SmtpSink(target, messages)
        return ends.BenchSink([target], messages, **self._options)


class FastLoad(Load):
    """The same by bench_source (which pipelines) and bench_sink: less is spent at the ends."""

    def __init__(self, sessions=20, length=4096, reuse=False):
        super().__init__(sessions, length, reuse, sink=ends.BenchSink)

    def source(self, address, messages):
        ends.bench_source(address, messages, sessions=self.sessions, length=self.length,
                          reuse=self.reuse)


def run_load(contender, account, target, load, messages):
    """(messages a second, CPU us a message) of one load on a contender that has been started."""
    # smtp-sink ends without a word at its last message: a source that is connected to it fails.
    sink = load.sink(target, 0 if contender.direct else messages)
    try:
        os.sync()  # nothing is left to write from before
        spent, begun = account.seconds(), time.monotonic()
        load.source((contender.address, contender.port), messages)
        took = (time.monotonic() if contender.direct else sink.wait()) - begun
        spent = account.seconds() - spent
    finally:
        sink.stop()
    return messages / took, spent / messages * 1e6


def once(contender, target, load, messages):
    """The same for a fresh contender, after a warm-up: processes forked, connections open."""
    contender.start()
    account = Account(contender.pids())
    try:
        run_load(contender, account, target, load,
                 max(load.sessions, min(WARM_UP, messages // 4)))
        return run_load(contender, account, target, load, messages)
    finally:
        account.close()
        contender.stop()


def compare(context, makers, load, factor=1.0):
    """{name: {"per_s", "cpu_us", "runs", "messages"}} of the contenders, medians."""
    target = (context.world.take(), 2500)
    found = {}
    for run in range(context.runs):
        for make in makers if run % 2 == 0 else reversed(makers):
            contender = make(context.world, target)
            messages = context.scaled(contender.messages * factor, 2 * load.sessions)
            rate, cpu = once(contender, target, load, messages)
            seen = found.setdefault(contender.name, {"messages": messages, "seen": []})
            seen["seen"].append((rate, cpu))
            context.say(f"{contender.name}: {rate:,.0f}/s, {cpu:,.0f} us CPU a message")
    return {name: {"per_s": median([r for r, _ in f["seen"]]),
                   "cpu_us": median([c for _, c in f["seen"]]),
                   "runs": [round(r, 1) for r, _ in f["seen"]],
                   "cpu_runs": [round(c, 1) for _, c in f["seen"]], "messages": f["messages"]}
            for name, f in found.items()}


def shown(name, figures):
    return f"{name} {figures['per_s']:,.0f}/s {figures['cpu_us']:,.0f} us".strip()


def line(row, found, ours, peer, goal_ratio, extra=None):
    """A line that compares two of compare()'s, with the ceiling when it was measured."""
    a, b = found[ours], found[peer]
    ratio = a["per_s"] / b["per_s"]
    top = found.get("no relay")
    return Line(row, shown("", a), shown(peer, b), ratio,
                f"{top['per_s']:,.0f}/s" if top else "",
                f">= {goal_ratio:g}x" if goal_ratio else "",
                ratio >= goal_ratio if goal_ratio else None, {**found, **(extra or {})})


# -- rows

def plain(context, row, sessions, length, reuse, goal_ratio):
    """A plain relay beside Postfix; the classical case beside Exim too, with relayd's own cost."""
    classical = (sessions, length, reuse) == (20, 4096, False)
    makers = [contenders.Relayd, functools.partial(contenders.Postfix, sessions=sessions),
              contenders.Nobody]
    if classical and contenders.Exim.usable(context.world):
        makers.append(contenders.Exim)
    found = compare(context, makers, Load(sessions, length, reuse))
    lines = [line(row, found, "relayd", "Postfix", goal_ratio)]
    if "Exim" in found:
        lines.append(line(f"{row} (Exim)", found, "relayd", "Exim", None))
    if classical:
        ours, theirs = found["relayd"]["cpu_us"], found["Postfix"]["cpu_us"]
        speed = median([sign_us("rsa") for _ in range(context.runs)])
        lines.append(Line(f"{row} CPU", f"{ours:,.0f} us", f"Postfix {theirs:,.0f} us",
                          ours / theirs, f"rsa2048 {speed:,.0f} us", "<= 150 us", ours <= 150,
                          {"openssl_speed_us": speed}))
    return lines


def signed_rsa(context, row, reuse, goal_ratio, key):
    """Signing with RSA-2048 beside Postfix with opendkim, and what it costs beside openssl."""
    makers = [contenders.Relayd, functools.partial(contenders.Relayd, key=key("rsa")),
              functools.partial(contenders.Postfix, key=key("rsa")), contenders.Nobody]
    if not reuse and contenders.Exim.usable(context.world):
        makers.append(functools.partial(contenders.Exim, key=key("rsa")))
    found = compare(context, makers, Load(reuse=reuse))
    alone = median([sign_us("rsa") for _ in range(context.runs)])
    cost = found["relayd rsa"]["cpu_us"] - found["relayd"]["cpu_us"]
    lines = [line(row, found, "relayd rsa", "Postfix+opendkim", goal_ratio),
             Line(f"{row} CPU", f"+{cost:,.0f} us", f"openssl speed {alone:,.0f} us",
                  cost / alone, "", "<= 1.35x", cost <= 1.35 * alone,
                  {"openssl_speed_us": alone, "cost_us": cost})]
    if "Exim+DKIM" in found:
        lines.insert(1, line(f"{row} (Exim)", found, "relayd rsa", "Exim+DKIM", None))
    return lines


def signed_ed25519(context, row, reuse, key):
    """Signing with Ed25519 beside the plain relay (Debian's opendkim signs RSA only)."""
    makers = [contenders.Relayd, functools.partial(contenders.Relayd, key=key("ed25519")),
              contenders.Nobody]
    found = compare(context, makers, Load(reuse=reuse))
    cost = found["relayd ed25519"]["cpu_us"] - found["relayd"]["cpu_us"]
    alone = median([sign_us("ed25519") for _ in range(context.runs)])
    compared = line(row, found, "relayd ed25519", "relayd", 0.75)
    compared.peer = compared.peer.replace("relayd", "relayd, plain")
    return [compared, Line(f"{row} CPU", f"+{cost:,.0f} us", f"openssl speed {alone:,.0f} us",
                           cost / alone, goal="<= 80 us", met=cost <= 80,
                           details={"openssl_speed_us": alone, "cost_us": cost})]


def big(context, row, sink, goals):
    """Messages of 1 MiB: beside Postfix, and beside octets that are only passed on.

    smtp-sink looks at every octet and is all that is measured of a pass-through; bench_sink takes
    what comes, so that beside it the disk counts: everything is written there before the 250.
    """
    found = compare(context, [contenders.Relayd, contenders.Postfix, contenders.PassThrough,
                              contenders.Nobody], Load(length=1 << 20, sink=sink), factor=0.05)
    lines = []
    for peer, goal in zip(("Postfix", "pass-through"), goals):
        each = line(row if peer == "Postfix" else f"{row} (pass)", found, "relayd", peer, goal)
        each.ours = f"{found['relayd']['per_s']:,.0f} MiB/s {found['relayd']['cpu_us']:,.0f} us"
        each.peer = f"{peer} {found[peer]['per_s']:,.0f} MiB/s {found[peer]['cpu_us']:,.0f} us"
        each.ceiling = f"{found['no relay']['per_s']:,.0f} MiB/s"
        lines.append(each)
    return lines


def slow_disk(context, row, sessions):
    """5 ms more for every sync, for both (slow_sync.c)."""
    slow = ends.slow_sync(context.world.dir)
    found = compare(context, [functools.partial(contenders.Relayd, slow=slow),
                              functools.partial(contenders.Postfix, slow=slow, sessions=sessions)],
                    Load(sessions))
    return [line(row, found, "relayd", "Postfix", 10)]


def fast_ends(context, row, reuse):
    """As plain-4k, with ends that take less of the two cores from the relay."""
    found = compare(context, [contenders.Relayd, contenders.Postfix, contenders.Nobody],
                    FastLoad(reuse=reuse))
    return [line(row, found, "relayd", "Postfix", None)]


def generator(context, row):
    """The generators alone, in the shapes of the other rows."""
    lines = []
    for sessions, length, reuse in ((20, 4096, False), (20, 4096, True), (100, 4096, False),
                                    (100, 4096, True), (20, 10240, False), (20, 1 << 20, False)):
        factor = 0.05 if length > 100000 else 1
        found = compare(context, [contenders.Nobody], Load(sessions, length, reuse), factor)
        shape = f"{sessions} sessions, {length >> 10} KiB, {'reused' if reuse else 'new'}"
        lines.append(Line(row, f"{found['no relay']['per_s']:,.0f}/s", shape, details=found))
    return lines


def tls_hop(context, row):
    """To a hop over TLS with AUTH, beside the same sink in clear. The sink is bench_sink."""
    world = context.world
    secret = world.dir / "hop.secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    target = (world.take(), 2500)
    certificate = world.ca.issue("sink.test", target[0])

    def hop(tls, auth):
        entry = {"address": "%s:%d" % target, "tls": tls, "max_connections": 20,
                 "max_messages_per_connection": 1000}
        if auth:
            entry |= {"ca_file": world.ca.file,
                      "auth": {"username": "cn", "password_file": str(secret)}}
        return {"hops": {"sink": entry}, "transport_map": [{"default": True, "route": "sink"}]}

    found = {}
    for run in range(context.runs):
        for name, tls, auth in (("clear", "off", False), ("TLS", "verify", True))[::(-1) ** run]:
            contender = contenders.Relayd(world, config=hop(tls, auth))
            load = Load(sink=ends.BenchSink,
                        sink_options={"certificate": certificate if auth else None, "auth": auth})
            rate, cpu = once(contender, target, load, context.scaled(contender.messages))
            found.setdefault(name, []).append((rate, cpu))
            context.say(f"{name}: {rate:,.0f}/s, {cpu:,.0f} us CPU a message")
    tls, clear = ({"per_s": median([r for r, _ in found[n]]), "cpu_us": median(
        [c for _, c in found[n]]), "runs": [r for r, _ in found[n]]} for n in ("TLS", "clear"))
    ratio = tls["per_s"] / clear["per_s"]
    return [Line(row, shown("", tls), shown("clear, to bench_sink too", clear), ratio, "",
                 ">= 0.8x", ratio >= 0.8, {"tls": tls, "clear": clear})]


def rows(key):
    """{name: function(context)} of this module; key(kind) makes a DKIM key."""
    found = {"generator": functools.partial(generator, row="generator")}
    for length, name, goal in ((4096, "plain-4k", 10), (10240, "plain-10k", 9)):
        for sessions in (20, 100):
            for reuse in (False, True):
                row = f"{name}-{sessions}-{'reused' if reuse else 'new'}"
                found[row] = functools.partial(plain, row=row, sessions=sessions, length=length,
                                               reuse=reuse, goal_ratio=goal)
    for reuse in (False, True):
        row = f"fast-ends-{'reused' if reuse else 'new'}"
        found[row] = functools.partial(fast_ends, row=row, reuse=reuse)
    for reuse, goal in ((False, 12), (True, 10.5)):
        word = "reused" if reuse else "new"
        found[f"signed-rsa-{word}"] = functools.partial(
            signed_rsa, row=f"signed-rsa-{word}", reuse=reuse, goal_ratio=goal, key=key)
    for reuse in (False, True):
        row = f"signed-ed25519-{'reused' if reuse else 'new'}"
        found[row] = functools.partial(signed_ed25519, row=row, reuse=reuse, key=key)
    found["tls-hop"] = functools.partial(tls_hop, row="tls-hop")
    found["big-1m"] = functools.partial(big, row="big-1m", sink=ends.SmtpSink, goals=(2, 0.75))
    found["big-1m-fast-sink"] = functools.partial(big, row="big-1m-fast-sink", sink=ends.BenchSink,
                                                  goals=(None, None))
    for sessions in (100, 200):
        row = f"slow-disk-{sessions}"
        found[row] = functools.partial(slow_disk, row=row, sessions=sessions)
    return found
