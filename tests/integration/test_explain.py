"""relayctl explain: the whole story of a decision, for any address, within a second."""

import time

import pytest

from rig import mail
from rig.wait import PATIENCE, until


def test_explains_an_address_that_was_never_seen(world):
    world.dns.mx("far.test", "mx.far.test")
    world.dns.a("mx.far.test", world.take())
    hop = world.remote("hop.test")
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [
            {"domains": ["other.test"], "route": "out"},
            {"mx": ["*.near.test"], "route": "out"},
            {"mx": ["mx.far.test"], "never_via": ["out"]},
            {"mx": ["*.far.test"], "route": "direct", "fallback": ["out"], "learn": True},
            {"default": True, "route": "out"}]})
    told = node.ctl_json("explain", "--from", "a@src.test", "x@far.test")
    assert told["action"] == "deliver" and told["route"] == "direct" and told["fallback"] == []
    assert told["facts"]["mx"] == ["mx.far.test"] and told["facts"]["valid_s"] > 0
    assert told["site"] == "mx.far.test" and told["tls"] == "opportunistic"
    assert len(told["fences"]) == 1 and told["learned"] is None and told["srs"] is None
    assert told["next"] == "would go at once by route direct"
    steps = "\n".join(told["steps"])
    for text in ("missed: domain is not in domains", "missed: MX", "fence: MX mx.far.test is in mx",
                 "won: MX mx.far.test is in mx (*.far.test)", "no DKIM key fits src.test"):
        assert text in steps, steps
    rules = [s for s in told["steps"] if s.startswith("rule ")]
    assert len(rules) == 5 and all(".yaml:" in r for r in rules)


def test_says_so_when_dns_does_not_answer_and_answers_within_a_second(world):
    node = world.node(config={"transport_map": [
        {"mx": ["*.google.test"], "reject": "550 5.7.1 not from here"},
        {"default": True, "route": "direct"}]})
    begun = time.monotonic()
    told = node.ctl_json("explain", "x@broken.test")  # SERVFAIL
    assert time.monotonic() - begun < 2 * PATIENCE
    assert told["route"] is None and told["next"].startswith("would wait and ask again")


def test_tells_of_a_site_that_is_down_and_of_the_route_that_is_taken_meanwhile(world):
    mx, hop = world.mx("dest.test"), world.remote("hop.test")
    mx.stop()
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"]}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail()
    told = node.ctl_json("explain", "x@dest.test")
    assert told["next"] == "would go at once by route out"
    assert any("mx.dest.test: down since" in s for s in told["steps"])


def test_waits_where_the_daemon_waits_although_another_route_is_open(world):
    """DNS does not tell where the MX host is: no reason to go elsewhere."""
    world.dns.mx("dest.test", "mx.broken.test")  # SERVFAIL
    hop = world.remote("hop.test")
    node = world.node(config={
        "queue": {"retry": {"intervals": ["1h"], "jitter": "0%"}},
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"]}]})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    told = node.ctl_json("explain", "x@dest.test")
    assert told["next"].startswith("another route would not help: would wait until "), told["next"]
    second = node.submit("a@src.test", "x@dest.test", mail.message())
    until(lambda: [i for i in node.queue() if i["id"] == second and i["due_at"] == told["next_at"]],
          what="the recipient to wait for the site's probe")
    assert not hop.mails


@pytest.mark.parametrize("literal", ["[10.1.2.3]", "[0.0.0.1]", "[IPv6:fd00::1]", "[192.0.2.11]"])
def test_address_literal_is_told_as_rcpt_answers_it(world, literal):
    node = world.node()
    with node.client() as client:
        client.ehlo()
        client.mail("a@src.test")
        answer = client.rcpt(f"b@{literal}")
    told = node.ctl_json("explain", f"b@{literal}")
    if literal == "[192.0.2.11]":
        assert answer.code == 250 and told["next"] == "would go at once by route direct"
    else:
        assert answer.code == 550 and told["next"] == f"reject: {answer}"
        assert told["action"] == "reject" and told["route"] is None
    done = node.ctl("explain", "b@[10.1.2]", check=False)
    assert done.returncode != 0 and "[10.1.2] is no address literal" in done.stderr


def test_map_that_refuses_is_told_with_its_reply(world):
    node = world.node(config={"transport_map": [
        {"domains": ["old.test"], "reject": "550 5.1.2 this partner has moved"}]})
    told = node.ctl_json("explain", "x@old.test")
    assert (told["action"], told["route"]) == ("reject", None)
    assert told["next"] == "reject: 550 5.1.2 this partner has moved"
    assert node.ctl_json("explain", "x@new.test")["action"] == "none"
