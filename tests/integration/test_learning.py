"""Learned routes: what a refusal teaches, who follows, and how it is forgotten."""

import datetime
import re
import urllib.request

import pytest

from rig import mail
from rig.wait import PATIENCE, seconds_until, until

BLOCKED = "550 5.7.1 Service unavailable; client host blocked using sbl.spamhaus.org"
# Not said to be about one address of ours, so it is learned for the domain that says it.
COUNTRY = "550 5.7.1 your country is not allowed to send mail here"
KEYED = "550 ip frequency limited"
SHORT = {"learning": {"ttl": "1s", "max_ttl": "3s"}}


def learning(world, rule=None, config=None):
    """A node that sends directly, falls back to a scripted hop, and learns; returns (hop, node)."""
    hop = world.remote("hop.test")
    node = world.node(config={
        "queue": {"retry": {"intervals": ["1h"]}}, **(config or {}),
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"domains": ["src.test"], "route": "direct"},
                          {"default": True, "route": "direct", "fallback": ["out"], "learn": True,
                           **(rule or {})}]})
    return hop, node


def send(node, rcpt="b@dest.test"):
    return node.submit("a@src.test", rcpt, mail.message())


def final(node, ident):
    return node.log.wait(event="attempt", msg=ident, outcome=lambda o: o != "rerouted")


def at(line):
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


def entries(node):
    return node.ctl_json("routes", "learned")["learned"]


def over(node):
    """Wait until the time of the only learned route is over: the next message probes.

    By the daemon's clock, which the kernel keeps coarse: it may be some milliseconds behind ours.
    """
    until(lambda: seconds_until(entries(node)[0]["until"]) < -0.05,
          what="the end of a learned route")


@pytest.mark.parametrize("stage, kind", [
    ("greeting", "site"), ("ehlo", "site"), ("mail", "site"), ("rcpt", "domain"), ("dot", "domain")])
def test_second_message_goes_by_the_learned_route_without_trying_the_first(world, stage, kind):
    mx = world.mx("dest.test")
    mx.answer(stage, COUNTRY)
    hop, node = learning(world)
    first = send(node)
    hop.wait_mail()
    moved = node.log.wait(event="attempt", msg=first, outcome="rerouted")
    taken = node.log.wait(event="attempt", msg=first, outcome="delivered")
    assert at(taken) - at(moved) < 1 * PATIENCE
    learned = node.log.wait(event="learned")
    assert (learned["scope"], learned["route"], learned["to"]) == (kind, "direct", "out")
    assert learned["class"] == "geo-blocked" and "country" in learned["text"]
    tries = len(mx.sessions)
    second = final(node, send(node))
    assert (second["route"], second["outcome"]) == ("out", "delivered")
    assert len(mx.sessions) == tries
    assert [(e["kind"], e["instead_of"], e["route"]) for e in entries(node)] == [
        (kind, "direct", "out")]


def test_what_is_learned_for_a_site_holds_for_its_other_domains(world):
    mx = world.mx("one.test", "mx.shared.test")
    world.dns.mx("two.test", mx.hostname)
    mx.answer("mail", BLOCKED)
    hop, node = learning(world)
    final(node, send(node, "b@one.test"))
    tries = len(mx.sessions)
    assert final(node, send(node, "b@two.test"))["route"] == "out"
    assert len(mx.sessions) == tries


def test_refusal_that_names_our_address_is_learned_for_the_site_at_once(world):
    mx = world.mx("one.test", "mx.shared.test")
    world.dns.mx("two.test", mx.hostname)
    mx.answer("rcpt", "550 5.7.1 part of your network is on our block list (S3140)")
    hop, node = learning(world)
    final(node, send(node, "b@one.test"))
    assert sorted(e["kind"] for e in entries(node)) == ["domain", "site"]
    tries = len(mx.sessions)
    assert final(node, send(node, "b@two.test"))["route"] == "out"
    assert len(mx.sessions) == tries


def test_two_domains_that_agree_teach_their_site(world):
    mx = world.mx("one.test", "mx.shared.test")
    for domain in ("two.test", "three.test"):
        world.dns.mx(domain, mx.hostname)
    mx.answer("rcpt", COUNTRY)
    hop, node = learning(world)
    final(node, send(node, "b@one.test"))
    assert [e["kind"] for e in entries(node)] == ["domain"]
    moved = node.log.all(event="attempt", outcome="rerouted")
    final(node, send(node, "b@two.test"))
    assert len(node.log.all(event="attempt", outcome="rerouted")) == len(moved) + 1
    assert sorted(e["kind"] for e in entries(node)) == ["domain", "domain", "site"]
    tries = len(mx.sessions)
    assert final(node, send(node, "b@three.test"))["route"] == "out"
    assert len(mx.sessions) == tries


def test_nothing_is_learned_without_learn_from_content_or_from_a_rate_limit(world):
    mx = world.mx("dest.test")
    hop, node = learning(world)
    mx.answer("rcpt", "550 5.1.1 no such user here", times=1)
    assert final(node, send(node))["outcome"] == "failed"
    mx.answer("dot", "554 5.7.1 message content rejected as spam", times=1)
    assert final(node, send(node))["outcome"] == "failed"
    mx.answer("mail", KEYED)
    assert final(node, send(node))["route"] == "out"
    assert entries(node) == [] and not node.log.all(event="learned")
    mx.behave()
    node.reload({"transport_map": [{"default": True, "route": "direct", "fallback": ["out"]}]})
    mx.answer("rcpt", BLOCKED, times=1)
    assert final(node, send(node))["route"] == "out"
    assert entries(node) == []


def test_good_probes_lead_back_and_a_refused_one_doubles_the_time(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", BLOCKED)
    hop, node = learning(world, config=SHORT)
    final(node, send(node))
    over(node)
    # One message probes, is refused, and goes by the learned route all the same.
    probe = send(node)
    assert node.log.wait(event="attempt", msg=probe, outcome="rerouted")["route"] == "direct"
    assert final(node, probe)["route"] == "out"
    renewed = node.log.wait(event="renewed")
    assert renewed["route"] == "direct" and entries(node)[0]["renewals"] == 1
    over(node)
    mx.behave()
    for _ in range(3):
        assert final(node, send(node))["route"] == "direct"
    node.log.wait(event="forgotten", route="direct")
    assert entries(node) == []
    assert final(node, send(node))["route"] == "direct"


def test_only_one_recipient_at_a_time_probes(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", BLOCKED)
    hop, node = learning(world, config=SHORT)
    final(node, send(node))
    over(node)
    mx.behave()
    ident = send(node, [f"u{n}@dest.test" for n in range(5)])
    attempts = until(lambda: len(node.log.all(event="attempt", msg=ident)) == 5 and
                     node.log.all(event="attempt", msg=ident), what="five attempts")
    assert sorted(a["route"] for a in attempts) == ["direct", "out", "out", "out", "out"]


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_what_is_learned_survives(world, end):
    mx = world.mx("dest.test")
    mx.answer("rcpt", BLOCKED)
    hop, node = learning(world)
    final(node, send(node))
    before = entries(node)
    # The row's commit is not the message's: another one behind it says that it is on the disk.
    final(node, send(node))
    node.restart() if end == "restart" else (node.kill(), node.start())
    assert entries(node) == before
    tries = len(mx.sessions)
    assert final(node, send(node))["route"] == "out"
    assert len(mx.sessions) == tries


def test_forget_and_pin_go_before_what_is_learned(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", BLOCKED)
    hop, node = learning(world)
    final(node, send(node))
    assert node.ctl_json("explain", "x@dest.test")["learned"] == "out"
    text = node.ctl("explain", "x@dest.test").stdout
    assert "learned: domain dest.test avoids direct" in text and "spamhaus" in text
    mx.behave()
    node.ctl("routes", "pin", "dest.test", "direct", "--for", "1h")
    assert final(node, send(node))["route"] == "direct"
    node.ctl("routes", "forget", "dest.test")
    assert entries(node) == []
    assert node.ctl("routes", "forget", "dest.test", check=False).returncode != 0
    assert final(node, send(node))["route"] == "direct"


def test_learned_route_never_crosses_a_fence(world):
    mx, back = world.mx("gov.test"), world.mx("src.test")
    mx.answer("mail", BLOCKED)
    hop, node = learning(world, config={}, rule={})
    node.reload({"transport_map": [
        {"domains": ["src.test"], "route": "direct"},
        {"domains": ["gov.test"], "never_via": ["out"]},
        {"default": True, "route": "direct", "fallback": ["out"], "learn": True}]})
    send(node, "b@gov.test")
    report = mail.report(back.wait_mail().data)
    assert "spamhaus" in report.text and not hop.sessions
    assert entries(node) == []
    explained = node.ctl_json("explain", "b@gov.test")
    assert explained["fallback"] == [] and len(explained["fences"]) == 1


def test_path_is_learned_after_some_failed_attempts(world):
    mx = world.mx("dest.test")
    mx.stop()
    hop, node = learning(world, config={
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "learning": {"path_errors": {"count": 3, "within": "1h"}}})
    count = 0
    while not entries(node):
        assert final(node, send(node))["route"] == "out"
        count += 1
        assert count < 500
    assert len(node.log.all(event="site_down")) == 3
    entry = entries(node)[0]
    assert (entry["kind"], entry["class"]) == ("site", "routing-error")
    mx.start()
    assert final(node, send(node))["route"] == "out"


def test_reroutes_are_bounded_by_pair_of_routes(world):
    """Two an hour: the third refusal waits, with one alert, however it is spelt."""
    hop, node = learning(world, config={"learning": {"max_reroutes": "2/h"}})
    for n in range(4):
        world.mx(f"d{n}.test").answer("rcpt", BLOCKED)
    assert [final(node, send(node, f"b@d{n}.test"))["outcome"] for n in range(4)] == [
        "delivered", "delivered", "deferred", "deferred"]
    assert len(hop.mails) == 2
    assert len(node.log.all(level="alert", alert="reroutes_exceeded")) == 1
    assert sorted(i["rcpt"] for i in node.queue()) == ["b@d2.test", "b@d3.test"]
    assert "reroute" in node.ctl("status").stdout


def test_each_recipient_of_a_message_has_its_own_fate(world):
    """Taken, refused for a mailbox, refused for our address, and later, in one message."""
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", BLOCKED, match="blocked@")
    mx.answer("rcpt", "550 5.1.1 no such user", match="unknown@")
    mx.answer("rcpt", "450 4.2.0 busy", match="later@")
    hop, node = learning(world)
    ident = send(node, [f"{who}@dest.test" for who in ("taken", "blocked", "unknown", "later")])
    assert mx.wait_mail().rcpts == ["taken@dest.test"]
    assert hop.wait_mail().rcpts == ["blocked@dest.test"]
    report = mail.report(back.wait_mail().data)
    assert [r["Final-Recipient"] for r in report.recipients] == ["rfc822; unknown@dest.test"]
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert [i["rcpt"] for i in until(node.queue, what="the deferred one")] == ["later@dest.test"]


def test_hops_own_trouble_teaches_nothing(world):
    mx = world.mx("dest.test")
    hop, node = learning(world, rule={"route": "out", "fallback": ["direct"]})
    hop.answer("mail", "550 5.7.1 relaying denied", times=1)
    assert final(node, send(node))["route"] == "direct"
    assert entries(node) == []
    assert mx.mails


def test_metrics_count_what_is_learned(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", COUNTRY)
    hop = world.remote("hop.test")
    http = world.take()
    node = world.node(config={
        "http": {"address": f"{http}:8025"},
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"],
                           "learn": True}]})
    final(node, send(node))
    text = urllib.request.urlopen(f"http://{http}:8025/metrics", timeout=20).read().decode()
    assert 'relayd_learned_routes{route="direct"} 1\n' in text
    assert re.search(r'relayd_learned_total\{[^}]*change="learned"[^}]*\} 1\n', text), text
