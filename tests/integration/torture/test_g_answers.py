"""What a resolver and a zone may say: every odd answer has its outcome, none hides what is good."""

import select
import struct

import pytest

from rig import mail
from rig.node import merge, sanitized
from rig.oddns import OddDns, Reply
from rig.proc import rss_kib
from rig.vectors import DEFERRED, DELIVERED, FAILED, forbidden, n_files
from rig.wait import until

pytestmark = pytest.mark.torture

CONFIG = {"queue": {"retry": {"intervals": ["1h"]}}, "shaping": {"default": {"max_rate": "1000/s"}}}
HEADER = 12


def good(name):
    return [(name, "MX", "10 mx.pool.test.")]


def counts(n, at):
    """Change the count of records that the header tells."""
    return lambda wire: wire[:at] + struct.pack("!H", n) + wire[at + 2:]


def answer_at(wire):
    """Where the first record begins: behind the question."""
    at = HEADER
    while wire[at]:
        at += 1 + wire[at]
    return at + 5


def first_rdata(wire, rdata, length=None):
    """The first record with other data (and another length than it has)."""
    at = answer_at(wire)
    at += 2 if wire[at] >= 0xc0 else 1
    at += 8
    old = struct.unpack("!H", wire[at:at + 2])[0]
    n = len(rdata) if length is None else length
    return wire[:at] + struct.pack("!H", n) + rdata + wire[at + 2 + old:]


def other_id(wire):
    return bytes([wire[0] ^ 0xff, wire[1]]) + wire[2:]


def referral(wire):
    """NOERROR without AA and RA, no answer, and the zone's name server: nobody was asked for us."""
    question = wire[HEADER:answer_at(wire)]
    zone = struct.pack("!H", 0xc000 + HEADER + question.index(b"\x04test"))
    ns = zone + struct.pack("!HHIH", 2, 1, 3600, 5) + b"\x02ns" + zone
    return wire[:2] + b"\x81\x00" + struct.pack("!HHHH", 1, 0, 1, 0) + question + ns


def closes(connection, out):
    connection.close()


def half(connection, out):
    connection.sendall(out[:len(out) // 2])
    connection.close()


def byte_by_byte(connection, out):
    for i in range(len(out)):
        connection.sendall(out[i:i + 1])


def says_nothing(connection, out):
    poll = select.poll()  # until the other side has had enough
    poll.register(connection, select.POLLRDHUP)
    poll.poll(20000)


# What the question for MX is answered, by the first label of the domain: (outcome, enh, answer).
ANSWERS = {
    "servfail": (DEFERRED, "4.4.3", lambda n: Reply(rcode="SERVFAIL")),
    "refused": (DEFERRED, "4.4.3", lambda n: Reply(rcode="REFUSED")),
    "notimp": (DEFERRED, "4.4.3", lambda n: Reply(rcode="NOTIMP")),
    "formerr": (DEFERRED, "4.4.3", lambda n: Reply(rcode="FORMERR")),
    "notauth": (DEFERRED, "4.4.3", lambda n: Reply(rcode="NOTAUTH")),
    "yxdomain": (DEFERRED, "4.4.3", lambda n: Reply(rcode="YXDOMAIN")),
    "badvers": (DEFERRED, "4.4.3", lambda n: Reply(rcode="BADVERS")),
    "servfail-with-mx": (DEFERRED, "4.4.3", lambda n: Reply(good(n), rcode="SERVFAIL")),
    "referral": (DEFERRED, "4.4.3", lambda n: Reply([], change=referral)),
    "silent": (DEFERRED, "4.4.3", lambda n: OddDns.SILENCE),
    "nxdomain": (FAILED, "5.1.2", lambda n: None),
    "null-mx": (FAILED, "5.1.10", lambda n: [(n, "MX", "0 .")]),
    "null-mx-10": (FAILED, "5.1.10", lambda n: [(n, "MX", "10 .")]),
    "null-and-good": (DELIVERED, None, lambda n: [(n, "MX", "0 ."), *good(n)]),
    "slow": (DELIVERED, None, lambda n: Reply(good(n), delay=0.5)),
    "ttl-0": (DELIVERED, None, lambda n: Reply(good(n), ttl=0)),
    "ttl-huge": (DELIVERED, None, lambda n: Reply(good(n), ttl=0x7fffffff)),
    "ttl-negative": (DELIVERED, None, lambda n: Reply(good(n), ttl=0xffffffff)),
    # -- the datagram
    "empty": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: b"")),
    "garbage": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: b"\xff" * 40)),
    "id-only": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: w[:2])),
    "header-only": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: w[:HEADER])),
    "cut-question": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: w[:HEADER + 4])),
    "cut-record": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: w[:answer_at(w) + 7])),
    "wrong-id": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=other_id)),
    "wrong-id-first": (DELIVERED, None, lambda n: Reply(
        good(n), before=lambda w: [other_id(w)] * 3)),
    "garbage-first": (DELIVERED, None, lambda n: Reply(
        good(n), before=lambda w: [b"x", b"", b"\0" * 500, w[:2] + b"\xff" * 30])),
    "other-question-first": (DELIVERED, None, lambda n: Reply(
        good(n), before=lambda w: [w.replace(b"\x06other-", b"\x06another"[:7])])),
    "twice": (DELIVERED, None, lambda n: Reply(good(n), before=lambda w: [w, w])),
    "a-question": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: w[:2] + bytes([w[2] & 0x7f]) + w[3:])),
    "opcode": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: w[:2] + bytes([w[2] | 0x28]) + w[3:])),
    "no-question": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: counts(0, 4)(w[:HEADER] + w[answer_at(w):]))),
    "two-questions": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=counts(2, 4))),
    "more-answers-told": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=counts(9, 6))),
    "trailing-octets": (DELIVERED, None, lambda n: Reply(good(n), change=lambda w: w + b"\0" * 99)),
    # -- the record
    "rdata-0": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: first_rdata(w, b""))),
    "rdata-1": (DEFERRED, "4.4.3", lambda n: Reply(good(n), change=lambda w: first_rdata(w, b"\0"))),
    "rdata-2": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1"))),
    "rdata-cut-label": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\x3fab"))),
    "rdata-no-end": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\2mx"))),
    "rdata-too-long": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\0", length=65535))),
    "rdata-to-itself": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\xc0" + bytes([answer_at(w) + 14])))),
    "rdata-forwards": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\xff\xff"))),
    "rdata-odd-label": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\x80ab\0"))),
    "rdata-rest": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1\2mx\0rest"))),
    "long-name": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), change=lambda w: first_rdata(w, b"\0\1" + b"\x3f" + b"a" * 63 + (
            b"\x3f" + b"b" * 63) * 4 + b"\0"))),
    "tc": (DELIVERED, None, lambda n: Reply(good(n), truncate=True)),
    "tc-slow-octets": (DELIVERED, None, lambda n: Reply(good(n), truncate=True, tcp=byte_by_byte)),
    # -- the hosts
    "mx-1000": (DELIVERED, None, lambda n: [
        (n, "MX", f"{i + 1} mx{i}.pool.test.") for i in range(1000)]),
    "mx-60-last": (DELIVERED, None, lambda n: [
        *[(n, "MX", f"{i + 1} none{i}.pool.test.") for i in range(59)], (n, "MX", "99 mx.pool.test.")]),
    "mx-120-last": (DELIVERED, None, lambda n: [
        *[(n, "MX", f"{i + 1} none{i}.pool.test.") for i in range(119)],
        (n, "MX", "999 mx.pool.test.")]),
    "mx-120-equal": (DELIVERED, None, lambda n: [
        *[(n, "MX", f"10 none{i}.pool.test.") for i in range(119)], (n, "MX", "10 mx.pool.test.")]),
    "mx-120-same": (DELIVERED, None, lambda n: [
        (n, "MX", f"{i} mx.pool.test.") for i in range(120)]),
    "mx-120-none": (FAILED, "5.4.4", lambda n: [
        (n, "MX", f"{i + 1} none{i}.pool.test.") for i in range(120)]),
    "mx-300-none": (DEFERRED, "4.4.4", lambda n: [
        (n, "MX", f"{i + 1} none{i}.pool.test.") for i in range(300)]),
    "mx-none": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 none.pool.test.")]),
    "mx-nodata": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 nodata.pool.test.")]),
    "mx-servfail": (DEFERRED, "4.4.3", lambda n: [(n, "MX", "10 fail.pool.test.")]),
    "mx-silent": (DEFERRED, "4.4.3", lambda n: [(n, "MX", "10 silent.pool.test.")]),
    "mx-aaaa-fails": (DELIVERED, None, lambda n: [(n, "MX", "10 aaaa-fails.pool.test.")]),
    "mx-aaaa-none": (DELIVERED, None, lambda n: [(n, "MX", "10 aaaa-none.pool.test.")]),
    "mx-a-two-hundred": (DELIVERED, None, lambda n: [(n, "MX", "10 two-hundred.pool.test.")]),
    "mx-alias": (DELIVERED, None, lambda n: [(n, "MX", "10 alias.pool.test.")]),
    "mx-alias-loop": (DEFERRED, "4.4.3", lambda n: [(n, "MX", "10 loop.pool.test.")]),
    "mx-alias-to-none": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 alias-none.pool.test.")]),
    "mx-upper": (DELIVERED, None, lambda n: [(n, "MX", "10 MX.POOL.TEST.")]),
    "mx-same-twice": (DELIVERED, None, lambda n: [*good(n), (n, "MX", "20 mx.pool.test.")]),
    "mx-quad": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 {trap}.")]),
    "mx-quad-and-good": (DELIVERED, None, lambda n: [(n, "MX", "10 {trap}."), (
        n, "MX", "20 mx.pool.test.")]),
    "mx-0000": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 zero.pool.test.")]),
    "mx-broadcast": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 broadcast.pool.test.")]),
    "mx-multicast": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 multicast.pool.test.")]),
    "mx-odd-octets": (FAILED, "5.4.4", lambda n: [(n, "MX", "10 a\\000b\\010.pool.test.")]),
    # -- aliases of the domain
    "alias": (DELIVERED, None, lambda n: [(n, "CNAME", "r.pool.test."), *good("r.pool.test")]),
    "alias-self": (DEFERRED, "4.4.3", lambda n: [(n, "CNAME", n + ".")]),
    "alias-loop": (DEFERRED, "4.4.3", lambda n: [
        (n, "CNAME", "x." + n + "."), ("x." + n, "CNAME", n + ".")]),
    "alias-9": (DEFERRED, "4.4.3", lambda n: [
        (n, "CNAME", f"c0.{n}."), *[(f"c{i}.{n}", "CNAME", f"c{i + 1}.{n}.") for i in range(9)],
        (f"c9.{n}", "MX", "10 mx.pool.test.")]),
    "alias-to-none": (FAILED, "5.1.2", lambda n: Reply(
        [(n, "CNAME", "gone.pool.test.")], rcode="NXDOMAIN")),
    "foreign": (DELIVERED, None, lambda n: [("mx-good.test", "MX", "10 trap.pool.test.")]),
    # -- the domain's own address
    "no-mx": (DELIVERED, None, lambda n: []),
    "no-mx-no-a": (FAILED, "5.1.2", lambda n: []),
    "no-mx-a-fails": (DEFERRED, "4.4.3", lambda n: []),
    "no-mx-a-silent": (DEFERRED, "4.4.3", lambda n: []),
}


# Truncated, and TCP is no better: one at a time, for they share a connection.
TCP_ANSWERS = {
    "tc-no-tcp": (DEFERRED, "4.4.3", lambda n: Reply(good(n), truncate=True, tcp=closes)),
    "tc-half": (DEFERRED, "4.4.3", lambda n: Reply(good(n), truncate=True, tcp=half)),
    "tc-silent": (DEFERRED, "4.4.3", lambda n: Reply(good(n), truncate=True, tcp=says_nothing)),
    "tc-garbage": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), truncate=True, tcp=lambda c, out: c.sendall(b"\0\x20" + b"\xff" * 32))),
    "tc-length-0": (DEFERRED, "4.4.3", lambda n: Reply(
        good(n), truncate=True, tcp=lambda c, out: c.sendall(b"\0\0" * 50))),
    "tc-again": (DEFERRED, "4.4.3", lambda n: Reply(
        [], truncate=True, tcp=lambda c, out: c.sendall(out[:4] + bytes([out[4] | 2]) + out[5:]))),
}
ALL = {**ANSWERS, **TCP_ANSWERS}


class Zone:
    """answer() for OddDns: ALL for the domains, hosts under pool.test."""

    def __init__(self, host, trap):
        self.host, self.trap = host, trap

    def host_answer(self, name, kind):
        label = name.split(".")[0]
        special = {"zero": "0.0.0.0", "broadcast": "255.255.255.255", "multicast": "224.0.0.5"}
        if label == "fail" or (label == "aaaa-fails" and kind == "AAAA"):
            return Reply(rcode="SERVFAIL")
        if label == "silent":
            return OddDns.SILENCE
        if label == "alias":
            return [(name, "CNAME", "mx.pool.test."), ("mx.pool.test", kind, self.host)][
                :2 if kind == "A" else 1]
        if label == "loop":
            return [(name, "CNAME", name + ".")]
        if label == "alias-none":
            return Reply([(name, "CNAME", "none.pool.test.")], rcode="NXDOMAIN")
        if label.startswith("none") or (label == "aaaa-none" and kind == "AAAA"):
            return None
        if kind != "A" or label == "nodata":
            return []
        if label == "two-hundred":
            return [(name, "A", self.host), *[(name, "A", f"0.0.1.{i}") for i in range(200)]]
        return [(name, "A", special.get(label, self.trap if label == "trap" else self.host))]

    def __call__(self, name, kind):
        if name.endswith(".pool.test"):
            return self.host_answer(name, kind)
        label = name.removesuffix(".test")
        if name == self.trap:
            return [(name, "A", self.trap)] if kind == "A" else []
        if label not in ALL:
            return good(name) if kind == "MX" else []
        if kind == "MX":
            found = ALL[label][2](name)
            if isinstance(found, list):
                found = [(o, t, r.replace("{trap}", self.trap)) for o, t, r in found]
            return found
        if label == "no-mx-a-fails":
            return Reply(rcode="SERVFAIL")
        if label == "no-mx-a-silent":
            return OddDns.SILENCE
        if kind != "A" or label == "no-mx-no-a":
            return []
        # What has no usable MX has an address all the same: nobody may go there.
        return [(name, "A", self.host if label in ("no-mx", "foreign") else self.trap)]


def odd_node(world, zone, timeout="1s", delay=0.0, config=None, servers=None):
    resolver = world.keep(OddDns(world.take(), zone, delay=delay))
    return resolver, world.node(config=merge(CONFIG, {
        "resolver": {"servers": servers or [resolver.server], "timeout": timeout},
        **(config or {})}))


def judge(node, host, label, ident, promise):
    """What is wrong with the attempt for this domain, in a list."""
    outcome, enh, _ = ALL[label]
    try:
        line = node.log.wait(event="attempt", msg=ident)
    except AssertionError as e:
        return [f"{label}: {e}"]
    said = {k: line.get(k) for k in ("outcome", "phase", "enh", "text")}
    copies = len(host.received_for(f"b@{label}.test"))
    if line["outcome"] != outcome or (enh and line["enh"] != enh):
        return [f"{label}: {outcome} {enh} expected: {said}"]
    if copies != (outcome == DELIVERED):
        return [f"{label}: {copies} copies"]
    promise.case()
    return []


def test_g03_every_answer_has_its_outcome_and_hides_nothing(world, promise):
    promise("G01 G02 G03 G04 G05", "whatever DNS answers: as the RFCs say, never a bounce by trouble")
    host, trap = world.remote("mx.pool.test"), world.remote("trap.pool.test")
    resolver, node = odd_node(world, Zone(host.address, trap.address), timeout="1500ms")
    before = n_files(node.pid)
    rss = rss_kib(node.pid)
    idents = {label: node.submit("", f"b@{label}.test", mail.message()) for label in ANSWERS}
    wrong = []
    for label, ident in idents.items():
        wrong += judge(node, host, label, ident, promise)
    assert not wrong, f"{len(wrong)} of {len(ANSWERS)}\n" + "\n".join(wrong)
    assert not trap.sessions, "a connection to an address that serves nobody"
    assert not forbidden(node.log_file.read_bytes())
    # 300 hosts that have no address, in lots of 20, are the most that one domain can make us ask.
    assert len(resolver.asked) < 4000, len(resolver.asked)
    assert sanitized() or rss_kib(node.pid) - rss < 16384
    host.hang_up()
    until(lambda: n_files(node.pid) <= before + 4, what="descriptors to be closed")


def test_g05_truncated_answers_and_what_tcp_makes_of_them(world, promise):
    promise("G05", "truncated answers are fetched by TCP; where that fails the mail waits")
    host, trap = world.remote("mx.pool.test"), world.remote("trap.pool.test")
    _, node = odd_node(world, Zone(host.address, trap.address), timeout="400ms")
    wrong = []
    for label in TCP_ANSWERS:
        wrong += judge(node, host, label, node.submit("", f"b@{label}.test", mail.message()), promise)
        # The next one, behind whatever became of that connection.
        after = f"after-{label}.test"
        assert node.log.wait(event="attempt", msg=node.submit("", f"b@{after}", mail.message()))[
            "outcome"] == "delivered", after
    assert not wrong, "\n".join(wrong)
    assert not trap.sessions
