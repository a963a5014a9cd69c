"""A million recipients over a hundred thousand domains that wait, and work that goes on beside them.

Every domain is a site of its own whose only MX refuses connections, so each recipient has had its
attempt and waits for the next in four hours. Two nodes, the full one and an empty one, then take
turns with the same load; the one that is not measured does nothing.
"""

import time

from rig import mail, smtp
from rig.wait import until

from rows import contenders, ends, svg, throughput
from rows.measure import Account, MemoryPeak, median, memory_kib
from rows.report import Line

RECIPIENTS, DOMAINS, RCPTS = 1_000_000, 100_000, 10
STEPS = (0.01, 0.1, 1.0)  # shares of the backlog at which the load is measured
SETTLE_S = 900


class Nodes:
    """A full and an empty node, one name server and one sink's address for both."""

    def __init__(self, context):
        self._context, self.world = context, context.world
        self.recipients = context.scaled(RECIPIENTS * context.scale, 1000)
        self.domains = max(100, int(self.recipients * DOMAINS / RECIPIENTS))
        self.target, self.loaded = (self.world.take(), 2500), 0
        dns, refusing = self.world.take(), [self.world.take() for _ in range(8)]
        self.dns = ends.Program("dns", f"{dns}:53", *refusing)
        self.full, self.empty = (self._node(name, dns) for name in ("full", "empty"))

    def _node(self, name, dns):
        config = {
            "hops": {"sink": {"address": "%s:%d" % self.target, "tls": "off",
                              "max_connections": contenders.HOP_CONNECTIONS,
                              "max_messages_per_connection": 1000}},
            "resolver": {"servers": [f"{dns}:53"]},
            "queue": {"max_size": "32GiB", "min_free": "64MiB", "warn_after": [],
                      "retry": {"intervals": ["4h"]}},
            "transport_map": [{"domains": ["dest.test"], "route": "sink"},
                              {"default": True, "route": "direct"}]}
        contender = contenders.Relayd(self.world, config=config, node=name)
        contender.start()
        contender.account = Account(contender.pids())
        return contender

    def fill(self, share):
        """So much of the backlog is there and has had its attempt; recipients accepted a second."""
        messages = (int(self.recipients * share) - self.loaded) // RCPTS
        took = ends.bench_source((self.full.address, self.full.port), messages, self.domains, RCPTS,
                                 first=self.loaded % self.domains)
        self.loaded += messages * RCPTS

        def settled():
            queue = self.full.node.ctl_json("status")["queue"]
            return queue["fresh"] == 0 and queue["in_hand"] == 0 and \
                queue["recipients"] == queue["scheduled"] >= self.loaded

        until(settled, SETTLE_S, f"{self.loaded} recipients to wait", every=1)
        return messages * RCPTS / took

    def compare(self):
        """{"full", "empty"}: messages a second, medians of alternating runs."""
        # bench_sink, because smtp-sink leaves the last message unanswered when it ends: it would wait
        # in the queue from then on.
        load, seen = throughput.Load(sink=ends.BenchSink), {"full": [], "empty": []}
        messages = self._context.scaled(contenders.Relayd.messages)
        for run in range(self._context.runs):
            for name in ("full", "empty")[::(-1) ** run]:
                contender = getattr(self, name)
                rate, _ = throughput.run_load(contender, contender.account, self.target, load,
                                              messages)
                seen[name].append(rate)
                self._context.say(f"{self.loaded:,} waiting, {name}: {rate:,.0f}/s")
        return {name: median(rates) for name, rates in seen.items()}

    def restart(self):
        """Seconds from the start of the full node to its first 250 for a message."""
        self.full.account.close()
        self.full.node.stop()
        begun = time.monotonic()
        self.full.node.start(ready=False)
        while True:
            try:
                smtp.submit(self.full.address, self.full.port, "a@src.test", ["b@d1.test"],
                            mail.message())
                break
            except (OSError, smtp.Closed):
                assert time.monotonic() < begun + 60, "it does not come up"
                time.sleep(0.002)
        took = time.monotonic() - begun
        self.full.node.wait_ready()
        self.full.account = Account(self.full.pids())
        return took

    def close(self):
        for contender in (self.full, self.empty):
            contender.account.close()
            contender.stop()
        self.dns.stop()


def measure(context, nodes):
    points, accepted = {}, []
    nodes.compare()  # a warm-up for both
    with MemoryPeak(nodes.full.node.pid) as peak:
        for share in STEPS:
            accepted.append(nodes.fill(share))
            points[nodes.loaded] = nodes.compare()
    mib, rest_mib = peak.kib / 1024, memory_kib(nodes.full.pids()) / 1024
    took = median([nodes.restart() for _ in range(context.runs)])
    last = points[nodes.loaded]
    ratio = last["full"] / last["empty"]
    details = {"recipients": nodes.loaded, "domains": nodes.domains, "points": points,
               "accepted_per_s": accepted, "peak_mib": mib, "rest_mib": rest_mib, "start_s": took}
    if context.plot_dir:
        curve = {name: [(max(n, 1), p[name]) for n, p in points.items()]
                 for name in ("full", "empty")}
        context.say(svg.write(context.plot_dir / "bench-backlog.svg", curve,
                              "Throughput over the backlog (4 KiB, 20 sessions)",
                              "recipients waiting in the full node", "messages a second",
                              log_x=True))
    return [Line("backlog", f"{last['full']:,.0f}/s", f"empty {last['empty']:,.0f}/s", ratio,
                 f"{nodes.loaded:,} rcpts", ">= 0.8x", ratio >= 0.8, details),
            Line("backlog memory", f"{mib:,.1f} MiB peak, {rest_mib:,.1f} at rest",
                 goal="<= 128 MiB", met=mib <= 128),
            Line("backlog start", f"{took * 1000:,.0f} ms to a 250", goal="<= 1 s", met=took <= 1)]


def backlog(context):
    nodes = Nodes(context)
    try:
        return measure(context, nodes)
    finally:
        nodes.close()


ROWS = {"backlog": backlog}
