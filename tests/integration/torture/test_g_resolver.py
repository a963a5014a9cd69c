"""Resolvers that die and come back, are slow, or answer for a while only."""

import time

import pytest

from rig import mail
from rig.node import merge, sanitized
from rig.oddns import OddDns
from rig.proc import rss_kib
from rig.promise import size
from rig.vectors import n_files
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

SECONDS = {"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}}
IN_FLIGHT_MAX = 384  # DNS_IN_FLIGHT_MAX of relayd/net/dns.h


def pool(host):
    """Every domain has an MX in the pool, and that one address."""
    def answer(name, kind):
        if name.endswith(".pool.test"):
            return [(name, "A", host.address)] if kind == "A" else []
        return [(name, "MX", "10 mx.pool.test.")] if kind == "MX" else []
    return answer


def asking(world, resolver, config=None):
    return world.node(config=merge({
        **SECONDS, "resolver": {"servers": [r.server for r in resolver], "timeout": "500ms"},
        "shaping": {"default": {"max_rate": "10000/s", "max_connections": 20}}}, config or {}))


def test_g05_all_resolvers_dead_then_back(world, promise):
    promise("G05", "all resolvers dead: mail waits, and flows within seconds of their return")
    host = world.remote("mx.pool.test")
    resolvers = [world.keep(OddDns(world.take(), pool(host))) for _ in range(2)]
    node = asking(world, resolvers)
    for i in range(size(1, 10)):
        for r in resolvers:
            r.down()
        idents = [node.submit("a@src.test", f"b@d{i}-{k}.test", mail.message()) for k in range(20)]
        for ident in idents:
            line = node.log.wait(event="attempt", msg=ident)
            assert line["outcome"] == "deferred" and line["enh"] == "4.4.3", line
        for r in resolvers[:1 + i % 2]:  # one of them, or both
            r.start()
        back = time.monotonic()
        node.wait_empty()
        took = time.monotonic() - back
        assert took < 10 * PATIENCE, f"round {i}: {took:.1f} s until the mail had left"
        promise.case(len(idents))
        for r in resolvers[1 + i % 2:]:
            r.start()
    assert len({r for m in host.mails for r in m.rcpts}) == size(1, 10) * 20
    assert all(e["outcome"] != "failed" for e in node.log.all(event="attempt"))


def test_g05_dead_first_resolver_delays_only_a_few(world, promise):
    promise("G05", "a dead resolver beside a good one: nothing is deferred")
    host = world.remote("mx.pool.test")
    dead = world.keep(OddDns(world.take(), lambda name, kind: OddDns.SILENCE))
    alive = world.keep(OddDns(world.take(), pool(host)))
    node = asking(world, [dead, alive])
    n = size(100, 1000)
    for i in range(n):
        node.submit("a@src.test", f"b@d{i}.test", mail.message())
        if i == 5:  # by now it is known to be dead
            node.wait_empty()
            begun = time.monotonic()
    node.wait_empty(60)
    assert all(e["outcome"] == "delivered" for e in node.log.all(event="attempt"))
    assert len(dead.asked) < 40, "each question waits for the dead one"
    assert time.monotonic() - begun < (10 + n / 50) * PATIENCE
    promise.case(n)


def test_g07_ten_thousand_domains_against_a_slow_resolver(world, promise):
    promise("G07", "many domains, a resolver of 200 ms: in flight bounded, no descriptor lost")
    host = world.remote("mx.pool.test")
    resolver = world.keep(OddDns(world.take(), pool(host), delay=0.2))
    node = asking(world, [resolver], {"resolver": {"timeout": "5s"}})
    files, rss = n_files(node.pid), rss_kib(node.pid)
    n = size(1500, 10000)
    # Held back while it comes in, so that it goes out all at once.
    node.ctl("suspend", "direct", "--for", "1h", "--reason", "gather")
    for k in range(0, n, 500):
        with node.client() as client:
            client.ehlo()
            for i in range(k, min(k + 500, n)):
                client.submit("a@src.test", f"b@d{i}.test", mail.message(ident=f"m{i}"))
    node.ctl("resume", "direct")
    begun = time.monotonic()
    until(lambda: len([q for q in list(resolver.asked) if q[1] == "MX"]) >= n, 120, "all asked")
    rate = n / (time.monotonic() - begun)
    node.wait_empty(120)
    assert len(host.mails) == n
    assert resolver.in_flight_max <= IN_FLIGHT_MAX + 8, resolver.in_flight_max
    assert rate > 150 / PATIENCE, f"{rate:.0f} domains a second"
    assert sanitized() or rss_kib(node.pid) - rss < 65536
    host.hang_up()
    until(lambda: n_files(node.pid) <= files + 2, what="descriptors to be closed")
    promise.case(n)
