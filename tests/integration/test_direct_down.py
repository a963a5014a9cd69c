"""Nobody is to be reached on port 25: the direct route itself is down, and that is told once."""

import urllib.request

import pytest

from rig import mail
from rig.net import Block
from rig.wait import until

SITES = 5


class Networks:
    """Addresses of which no two are in one /24."""

    def __init__(self):
        self.blocks = []

    def take(self):
        self.blocks.append(Block())
        return self.blocks[-1].take()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for block in self.blocks:
            block.release()


def dead_sites(world, take, n=SITES):
    """n domains with an MX each whose port 25 is closed; their names."""
    names = [f"dead{i}.test" for i in range(n)]
    for name in names:
        world.dns.site(name, f"mx.{name}", take())
    return names


def node_with_hop(world):
    """A node that has a hop to fall back on for some of its mail: (node, hop)."""
    hop = world.remote("hop.test")
    node = world.node(config={
        "http": {"address": f"{world.take()}:8025"},
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [
            {"domains": ["also.test"], "route": "direct", "fallback": ["out"]},
            {"default": True, "route": "direct"}]})
    return node, hop


def tried(node):
    return {line["rcpt"] for line in node.log.all(event="attempt")}


def take_down(node, names):
    for name in names:
        node.submit("a@src.test", f"x@{name}", mail.message())
    node.log.wait(level="alert", alert="route_down")


def state(node, name="direct"):
    return next(r for r in node.ctl_json("routes")["routes"] if r["name"] == name)


def metric(node, line):
    address = node.config["http"]["address"]
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    return line in text.splitlines()


def test_unrelated_dead_sites_take_the_direct_route_down_with_one_alert(world):
    with Networks() as networks:
        node, hop = node_with_hop(world)
        live = world.mx("live.test")
        assert state(node)["state"] == "ok"
        assert metric(node, 'relayd_route_up{route="direct"} 1')
        names = dead_sites(world, networks.take)
        world.dns.site("also.test", "mx.also.test", networks.take())
        take_down(node, names)
        down = state(node)
        assert down["state"] == "down" and down["next_at"] and "refused" in down["detail"]
        assert state(node, "out")["state"] == "ok"
        assert metric(node, 'relayd_route_up{route="direct"} 0')
        assert metric(node, 'relayd_route_up{route="out"} 1')

        # Mail with another route takes it at once, the other waits, and nobody is tried.
        for i in range(10):
            node.submit("a@src.test", f"x{i}@live.test", mail.message())
        node.submit("a@src.test", "x@also.test", mail.message())
        assert hop.wait_mail().rcpts == ["x@also.test"]
        until(lambda: all(r["state"] == "scheduled" for r in node.queue("--limit", "100")),
              what="everything to wait in the queue")
        assert tried(node) == {f"x@{name}" for name in names} | {"x@also.test"}
        assert len(node.log.all(event="attempt", route="direct")) == SITES
        assert not live.sessions
        assert len(node.log.all(level="alert")) == 1
        assert "down as a whole" in node.ctl("explain", "x@live.test").stdout

        # A reload probes at once, by whoever comes next.
        node.ctl("reload")
        node.submit("a@src.test", "now@live.test", mail.message())
        live.wait_mail(rcpt="now@live.test")
        assert node.log.wait(event="route_up")["route"] == "direct"
        assert state(node)["state"] == "ok"
        assert metric(node, 'relayd_route_up{route="direct"} 1')
        assert len(node.log.all(level="alert")) == 1


@pytest.mark.slow
def test_mail_that_waits_for_the_direct_route_leaves_when_a_probe_is_answered(world):
    """One probe connection after a minute."""
    with Networks() as networks:
        node, _ = node_with_hop(world)
        live = world.mx("live.test")
        take_down(node, dead_sites(world, networks.take))
        for i in range(10):
            node.submit("a@src.test", f"x{i}@live.test", mail.message())
        live.wait_mail(10, timeout=90)
        assert node.log.wait(event="route_up")["site"] == "mx.live.test"
        assert len(node.log.all(level="alert")) == 1


def test_many_dead_domains_of_one_network_are_one_providers_trouble(world):
    node, _ = node_with_hop(world)
    names = dead_sites(world, world.take, 10)
    for name in names:
        node.submit("a@src.test", f"x@{name}", mail.message())
    until(lambda: tried(node) == {f"x@{name}" for name in names}, what="an attempt at each")
    assert state(node)["state"] == "ok"
    assert not node.log.all(level="alert")


def test_one_that_answers_in_between_shows_that_the_route_is_up(world):
    with Networks() as networks:
        node, _ = node_with_hop(world)
        live = world.mx("live.test")
        names = dead_sites(world, networks.take)
        for i, name in enumerate(names):
            node.submit("a@src.test", f"x@{name}", mail.message())
            node.log.wait(event="attempt", rcpt=f"x@{name}")
            if i == 2:
                node.submit("a@src.test", "x@live.test", mail.message())
                live.wait_mail()
        assert state(node)["state"] == "ok"
        assert not node.log.all(level="alert")
