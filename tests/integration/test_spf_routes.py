"""Who we are to them: routes from which the sender's SPF record does not let send go last."""

import time

import pytest

from rig import mail
from rig.wait import PATIENCE

HOME, ABROAD = "203.0.113.1", "198.51.100.7"


def two_routes(world, rule=None, config=None):
    """Direct first, then a hop; both have addresses that the world sees. Returns (mx, hop, node)."""
    mx, hop = world.mx("dest.test"), world.remote("hop.test")
    node = world.node(config={
        "direct": {"egress": {"v4": HOME}},
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off", "egress": {"v4": ABROAD}}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"],
                           **(rule or {})}],
        **(config or {})})
    return mx, hop, node


def route_of(node, sender="a@src.test"):
    ident = node.submit(sender, "b@dest.test", mail.message())
    return node.log.wait(event="attempt", msg=ident)["route"]


@pytest.mark.parametrize("record, softfail, route", [
    (f"v=spf1 ip4:{ABROAD} -all", False, "out"),
    (f"v=spf1 ip4:{HOME} -all", False, "direct"),
    (f"v=spf1 ip4:{ABROAD} ~all", False, "direct"),
    (f"v=spf1 ip4:{ABROAD} ~all", True, "out"),
    ("v=spf1 -all", False, "direct"),              # neither may: the map's order
    (f"v=spf1 ip4:{ABROAD} ?all", True, "direct"),
    ("v=spf1 nonsense -all", True, "direct"),      # permerror
    ("no spf record", True, "direct"),
])
def test_route_that_may_not_send_for_the_sender_goes_last(world, record, softfail, route):
    world.dns.txt("src.test", record)
    mx, hop, node = two_routes(world, rule={"spf_softfail": softfail})
    assert route_of(node) == route


def test_include_and_redirect_are_followed(world):
    world.dns.txt("src.test", "v=spf1 include:spf.src.test redirect=more.src.test")
    world.dns.txt("spf.src.test", f"v=spf1 ip4:{ABROAD} -all")
    world.dns.txt("more.src.test", "v=spf1 -all")
    mx, hop, node = two_routes(world)
    assert route_of(node) == "out"


def test_null_sender_has_no_record_to_mind(world):
    world.dns.txt("src.test", f"v=spf1 ip4:{ABROAD} -all")
    mx, hop, node = two_routes(world)
    assert route_of(node, sender="") == "direct"


def test_dns_trouble_changes_nothing_and_delays_no_longer_than_two_seconds(world):
    mx, hop, node = two_routes(world)
    begun = time.monotonic()
    assert route_of(node, sender="a@broken.test") == "direct"  # SERVFAIL
    assert time.monotonic() - begun < 3 * PATIENCE


def test_spf_refusal_goes_only_where_the_record_lets_send(world):
    """The receiver says SPF failed; the next route would be told the same, the one behind it not."""
    world.dns.txt("src.test", "v=spf1 ip4:192.0.2.9 ?ip4:203.0.113.1 -all")
    mx, bad, good = world.mx("dest.test"), world.remote("bad.test"), world.remote("good.test")
    mx.answer("mail", "550 5.7.23 SPF validation failed, see rfc7208")
    node = world.node(config={
        "direct": {"egress": {"v4": HOME}},
        "hops": {"bad": {"address": f"{bad.address}:25", "tls": "off", "egress": {"v4": ABROAD}},
                 "good": {"address": f"{good.address}:25", "tls": "off",
                          "egress": {"v4": "192.0.2.9"}}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["bad", "good"]}]})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert good.wait_mail() and not bad.sessions
    moved = node.log.wait(event="attempt", msg=ident, outcome="rerouted")
    assert (moved["route"], moved["class"]) == ("direct", "spf-fail")


def test_explain_tells_spf_by_route(world):
    world.dns.txt("src.test", f"v=spf1 ip4:{ABROAD} -all")
    mx, hop, node = two_routes(world)
    told = node.ctl_json("explain", "--from", "a@src.test", "b@dest.test")
    assert {row["route"]: row["result"] for row in told["spf"]} == {"direct": "fail", "out": "pass"}
    assert told["route"] == "out" and told["fallback"] == ["direct"]
    text = node.ctl("explain", "--from", "a@src.test", "b@dest.test").stdout
    assert f"SPF of src.test for route direct ({HOME}): fail" in text
    assert "would go at once by route out" in text
