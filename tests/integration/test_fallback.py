"""The next route: when it is taken, when not, and what is a verdict when none is left."""

import socket
import threading
import time

import pytest

from rig import mail
from rig.wait import until

BLOCKED = "550 5.7.1 Service unavailable; client host blocked using sbl.spamhaus.org"


def two_routes(world, rule=None, config=None, start=True):
    """A node that sends directly and falls back to a scripted hop; returns (hop, node)."""
    hop = world.remote("hop.test")
    node = world.node(start=start, config={
        "queue": {"retry": {"intervals": ["1h"]}}, **(config or {}),
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"domains": ["src.test"], "route": "direct"},
                          {"default": True, "route": "direct", "fallback": ["out"],
                           **(rule or {})}]})
    return hop, node


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("code", ["550", "451"])
def test_route_refusal_at_any_stage_goes_by_the_next_route_now(world, stage, code):
    mx = world.mx("dest.test")
    mx.answer(stage, BLOCKED.replace("550 5", f"{code} {code[0]}"))
    hop, node = two_routes(world)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    first = node.log.wait(event="attempt", msg=ident, outcome="rerouted")
    assert (first["class"], first["route"]) == ("ip-blocklisted", "direct")
    assert node.log.wait(event="attempt", msg=ident, outcome="delivered")["route"] == "out"
    node.wait_empty()


@pytest.mark.parametrize("reply", [
    "550 5.1.1 no such user here", "554 5.7.1 message content rejected as spam",
    "552 5.2.2 mailbox full", "450 4.7.1 greylisted, try again in 5 minutes"])
def test_what_is_not_about_us_is_never_sent_by_another_route(world, reply):
    mx = world.mx("dest.test")
    mx.answer("rcpt", reply)
    hop, node = two_routes(world)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    done = node.log.wait(event="attempt", msg=ident, outcome=lambda o: o != "rerouted")
    assert done["route"] == "direct" and not hop.sessions
    assert not node.log.all(event="attempt", msg=ident, outcome="rerouted")


def test_only_the_refused_recipient_changes_its_route(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", BLOCKED, match="refused@")
    hop, node = two_routes(world)
    node.submit("a@src.test", ["taken@dest.test", "refused@dest.test"], mail.message())
    assert mx.wait_mail().rcpts == ["taken@dest.test"]
    assert hop.wait_mail().rcpts == ["refused@dest.test"]


def test_path_that_fails_at_every_host_uses_the_fallback(world):
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    world.dns.a("mx1.dest.test", world.take())
    world.dns.a("mx2.dest.test", world.take())
    hop, node = two_routes(world)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    first = node.log.wait(event="attempt", msg=ident, outcome="rerouted")
    assert (first["route"], first["phase"]) == ("direct", "connect")


def test_refusal_is_no_verdict_while_the_fallback_is_out_of_reach(world):
    """The hop could have cured it: nothing bounces for its trouble, in whatever order."""
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("mail", BLOCKED)
    hop, node = two_routes(world)
    hop.stop()
    first = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=first, outcome="deferred", route="out")
    second = node.submit("a@src.test", "c@dest.test", mail.message())
    node.log.wait(event="attempt", msg=second, outcome="deferred")
    assert sorted(i["rcpt"] for i in node.queue()) == ["b@dest.test", "c@dest.test"]
    hop.start()
    node.reload()  # a reload does not wait for the hop's probe
    node.ctl("queue", "retry", "--all")
    hop.wait_mail(2)
    node.wait_empty()
    assert not back.mails


def test_refusal_goes_by_the_next_route_though_the_mx_that_chose_it_has_run_out(world):
    mx = world.mx("dest.test")  # its TTL is 1 s

    def slowly(_session):
        time.sleep(1.5)
        return BLOCKED
    mx.answer("rcpt", slowly)
    back = world.mx("src.test")
    hop = world.remote("hop.test")
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"mx": ["*.elsewhere.test"], "route": "out"},
                          {"default": True, "route": "direct", "fallback": ["out"]}]})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert node.log.wait(event="attempt", msg=ident)["outcome"] == "rerouted"
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    assert not back.mails


def test_bounce_comes_when_every_route_has_refused(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", BLOCKED)
    hop, node = two_routes(world)
    hop.answer("rcpt", "550 5.7.1 your country is not allowed to send here")
    node.submit("a@src.test", "b@dest.test", mail.message())
    report = mail.report(back.wait_mail().data)
    assert "spamhaus" in report.text and "country" in report.text
    fields = report.recipients[0]
    assert "country" in fields["Diagnostic-Code"] and "spamhaus" in fields["X-Relayd-Refusal"]


def test_rate_limit_on_our_address_goes_by_the_next_route_and_slows_the_site(world):
    mx = world.mx("dest.test")
    mx.answer("mail", "550 ip frequency limited", times=1)
    hop, node = two_routes(world)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail()
    assert node.log.wait(event="attempt", msg=ident, outcome="rerouted")["class"] == "rate-limited"
    assert node.log.wait(event="site_slowed", site=mx.hostname)["halvings"] == "1"


def test_rate_limit_without_another_route_is_deferred_though_it_is_a_5xx(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("mail", "550 ip frequency limited", times=1)
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    mx.wait_mail()
    assert not back.mails


def test_next_attempt_begins_with_the_first_route_again(world):
    mx = world.mx("dest.test")
    mx.answer("mail", BLOCKED, times=1)
    hop, node = two_routes(world, config={
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}})
    hop.answer("rcpt", "451 4.3.0 later", times=1)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    node.log.wait(event="attempt", msg=ident, outcome="delivered")
    way = [(e["route"], e["outcome"]) for e in node.log.all(event="attempt", msg=ident)]
    assert way == [("direct", "rerouted"), ("out", "deferred"), ("direct", "delivered")]


def test_fence_leaves_only_the_routes_that_are_allowed(world):
    mx, first, second = world.mx("gov.test"), world.remote("one.test"), world.remote("two.test")
    mx.answer("mail", BLOCKED)
    node = world.node(config={
        "hops": {"one": {"address": f"{first.address}:25", "tls": "off"},
                 "two": {"address": f"{second.address}:25", "tls": "off"}},
        "transport_map": [{"senders": ["*@src.test"], "domains": ["gov.test"],
                           "never_via": ["one"]},
                          {"default": True, "route": "direct", "fallback": ["one", "two"]}]})
    node.submit("a@src.test", "b@gov.test", mail.message())
    assert second.wait_mail().rcpts == ["b@gov.test"]
    node.submit("a@other.test", "b@gov.test", mail.message())
    assert first.wait_mail().sender == "a@other.test"


def test_rule_makes_tls_stricter_than_its_route(world):
    """tls: of a rule holds on the route and on the fallback: never in clear."""
    clear = world.mx("dest.test")
    hop, node = two_routes(world, rule={"tls": "require"})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    done = node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert done["phase"] == "starttls"
    assert not clear.mails and not hop.mails
    until(lambda: node.queue(), what="the recipient in the queue")


def test_receiver_that_only_ever_says_4xx_loses_the_mail_to_the_next_route(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 try again later")
    hop, node = two_routes(world, {"fallback_after": "3s"}, {
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail()
    node.log.wait(event="attempt", msg=ident, outcome="delivered")
    way = [(e["route"], e["outcome"]) for e in node.log.all(event="attempt", msg=ident)]
    assert way[0] == ("direct", "deferred") and len(way) >= 4
    assert way[-2:] == [("direct", "rerouted"), ("out", "delivered")]
    assert set(way[:-2]) == {("direct", "deferred")}


@pytest.mark.parametrize("reply", ["452 4.2.2 mailbox full",
                                   "450 4.2.0 greylisted, try again in 5 minutes"])
def test_patience_never_ends_with_a_full_mailbox_or_greylisting(world, reply):
    mx = world.mx("dest.test")
    mx.answer("rcpt", reply)
    hop, node = two_routes(world, {"fallback_after": "1s"}, {
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%", "greylist": "1s"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", attempt="4", outcome="deferred")
    assert not hop.sessions


# -- the other family of addresses comes before another route

@pytest.fixture
def both(world):
    """(IPv4 server, IPv6 server, hop, node) of one MX host with an address of each family."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as s:
            port = s.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 loopback here")
    four = world.mx("dest.test", port=port)
    six = world.remote("six.test", address="::1", port=port, start=False)
    six._listener = socket.create_server(("::1", port), family=socket.AF_INET6, backlog=16)
    threading.Thread(target=six._accept, args=(six._listener,), daemon=True).start()
    world.dns.a("mx.dest.test", "::1")
    hop, node = two_routes(world, config={"direct": {"port": port}})
    return four, six, hop, node


@pytest.mark.parametrize("stage", ["mail", "rcpt", "dot"])
def test_refusal_of_our_ipv4_address_tries_ipv6_before_the_fallback(both, stage):
    four, six, hop, node = both
    four.answer(stage, BLOCKED)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    assert six.wait_mail().rcpts == ["b@dest.test"]
    node.log.wait(event="attempt", msg=ident, outcome="delivered")
    assert not hop.sessions
    way = [(e["route"], e["outcome"]) for e in node.log.all(event="attempt", msg=ident)]
    assert way == [("direct", "rerouted"), ("direct", "delivered")]


def test_both_families_refused_goes_by_the_fallback(both):
    four, six, hop, node = both
    four.answer("rcpt", BLOCKED)
    six.answer("rcpt", BLOCKED)
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    assert len(four.sessions) == 1 and len(six.sessions) == 1


def test_ipv6_that_leads_nowhere_changes_nothing(both):
    four, six, hop, node = both
    four.answer("rcpt", BLOCKED)
    six.stop()
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    node.submit("a@src.test", "c@dest.test", mail.message())
    hop.wait_mail(2)


def test_refusal_stays_a_verdict_when_ipv6_leads_nowhere_and_no_route_is_left(both, world):
    four, six, _, node = both
    back = world.mx("src.test", port=four.port)
    node.reload({"transport_map": [{"default": True, "route": "direct"}]})
    four.answer("rcpt", BLOCKED)
    six.stop()
    node.submit("a@src.test", "b@dest.test", mail.message())
    report = mail.report(back.wait_mail().data)
    assert "spamhaus" in report.recipients[0]["Diagnostic-Code"]
    assert report.recipients[0]["Action"] == "failed"


def test_refusal_of_a_mailbox_is_not_asked_again_by_ipv6(both):
    four, six, hop, node = both
    four.answer("rcpt", "550 5.1.1 no such user here")
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="failed")
    assert not six.sessions and not hop.sessions


def test_backlog_of_a_site_that_says_421_goes_by_the_fallback_once(world):
    """Each of them is overdue for a warning while the site waits for its probe."""
    mx = world.mx("dest.test")
    world.mx("src.test")
    mx.answer("greeting", "421 4.3.2 busy, try later")
    hop, node = two_routes(world, {"fallback_after": "4s"}, {
        "queue": {"retry": {"intervals": ["3s"], "jitter": "0%"}, "warn_after": ["2s", "9s"]}})
    for i in range(6):
        node.submit("a@src.test", f"b{i}@dest.test", mail.message())
    until(lambda: len(hop.mails) >= 6, 20, "six messages by the next route")
    lines = node.log.all(event="attempt")
    assert len(lines) < 100, f"{len(lines)} attempts of six messages"


@pytest.mark.parametrize("six_says", ["nothing", "refused"])
def test_refusal_by_a_family_is_no_verdict_while_the_fallback_is_out_of_reach(both, world,
                                                                              six_says):
    four, six, hop, node = both
    back = world.mx("src.test", port=four.port)
    four.answer("rcpt", BLOCKED)
    if six_says == "nothing":
        six.stop()
    else:
        six.answer("rcpt", BLOCKED)
    hop.stop()
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    last = node.log.wait(event="attempt", msg=ident, outcome=lambda o: o != "rerouted")
    assert last["outcome"] == "deferred", last
    assert not back.mails


def test_path_of_a_hop_is_not_learned_as_its_refusal(both, world):
    """Both families are refused, the first hop is out of reach, the second one takes it."""
    four, six, hop, node = both
    second = world.remote("hop2.test")
    node.reload({"hops": {"two": {"address": f"{second.address}:25", "tls": "off"}},
                 "transport_map": [{"default": True, "route": "direct", "fallback": ["out", "two"],
                                    "learn": True}]})
    four.answer("rcpt", BLOCKED)
    six.stop()
    hop.stop()
    node.submit("a@src.test", "b@dest.test", mail.message())
    second.wait_mail()
    assert not node.log.all(event="learned", route="out")
