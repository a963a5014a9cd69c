"""The node abroad cannot be reached or does not want us: nothing bounces, mail waits or goes round.
"""

import pytest

from rig import mail
from rig.chain import Chain
from rig.remote import CLOSE

QUICK = {"queue": {"retry": {"intervals": ["1s", "2s"], "jitter": "0%"}}}


def hop_node(world, rule=None, config=None, **hop):
    """A node whose only route is a scripted hop; returns (hop, node)."""
    remote = world.remote("hop.test")
    node = world.node(config={
        **(config or {}), "hops": {"out": {"address": f"{remote.address}:25", "tls": "off", **hop}},
        "transport_map": [{"default": True, "route": "out", **(rule or {})}]})
    return remote, node


def test_dead_hop_falls_back_to_direct_at_once(world):
    mx = world.mx("abc.test")
    chain = Chain(world, [{"default": True, "route": "us", "fallback": ["direct"]}])
    chain.us.kill()
    ident = chain.cn.submit("boss@mydomain.test", "x@abc.test", mail.message())
    assert mx.wait_mail().peer[0] == chain.cn.address
    assert chain.trace(ident, outcome="delivered")["route"] == "direct"
    alerts = chain.cn.log.all(level="alert")
    assert alerts, "a dead hop must raise an alert"


def test_one_alert_for_a_dead_hop_however_many_messages_wait(world):
    hop, node = hop_node(world)
    hop.stop()
    for i in range(20):
        node.submit("a@src.test", f"u{i}@x{i}.test", mail.message())
    node.log.wait(level="alert")
    node.log.wait(event="attempt", outcome="deferred")
    assert len(node.log.all(level="alert")) == 1
    assert len(node.queue("--limit", "100")) == 20


@pytest.mark.slow
def test_mail_waits_for_a_dead_hop_and_leaves_when_it_is_back(world):
    """One probe connection after a minute."""
    hop, node = hop_node(world, config=QUICK)
    hop.stop()
    back = world.mx("src.test")
    for i in range(5):
        node.submit("a@src.test", f"u{i}@x{i}.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    hop.start()
    hop.wait_mail(5, timeout=90)
    node.wait_empty()
    assert not back.mails, "nothing may bounce because of a dead hop"


@pytest.mark.parametrize("stage, reply", [
    ("greeting", "554 5.7.1 not you"),
    ("greeting", CLOSE),
    ("ehlo", "550 5.7.1 go away"),
    ("mail", "530 5.7.0 Authentication required"),
    ("mail", "535 5.7.8 bad credentials"),
    ("mail", "454 4.7.0 TLS not available"),
    ("rcpt", "554 5.7.1 Relay access denied"),
    ("rcpt", "530 5.7.0 Must issue a STARTTLS command first"),
], ids=lambda v: "close" if v is CLOSE else str(v)[:24])
def test_trouble_with_the_hop_is_never_a_verdict_on_the_recipient(world, stage, reply):
    hop, node = hop_node(world)
    hop.answer(stage, reply)
    back = world.mx("src.test")
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert [w["rcpt"] for w in node.queue()] == ["b@dest.test"]
    assert not back.mails


@pytest.mark.parametrize("stage, reply", [
    ("greeting", "421 4.3.2 shutting down"),
    ("mail", "530 5.7.0 Authentication required"),
    ("rcpt", "550 5.7.1 Relaying denied"),
])
def test_trouble_with_the_hop_uses_the_fallback(world, stage, reply):
    mx = world.mx("dest.test")
    hop, node = hop_node(world, {"fallback": ["direct"]})
    hop.answer(stage, reply)
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["b@dest.test"]


def test_verdict_of_the_hop_on_a_recipient_is_judged_like_that_of_an_mx(world):
    hop, node = hop_node(world)
    hop.answer("rcpt", "550 5.1.1 no such user", match="b@dest.test")
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="failed")
    report = mail.report(hop.wait_mail(rcpt="a@src.test").data)
    assert report.recipients[0]["Status"] == "5.1.1"


def test_wrong_password_at_the_hop_defers_and_tells_nobody_outside(world):
    chain = Chain(world, [{"default": True, "route": "us"}], start=False)
    chain.cn.file("us.secret", "old password\n")
    chain.us.start()
    chain.cn.start()
    ident = chain.cn.submit("boss@mydomain.test", "x@abc.test", mail.message())
    attempt = chain.trace(ident, outcome="deferred")
    assert attempt["phase"] == "auth" and attempt["code"] == "535"
    chain.cn.log.wait(level="alert")
    assert all("old password" not in line for line in chain.cn.log.lines())


def test_second_port_of_the_ladder_is_used_when_the_first_is_closed(world):
    """465, 587, 25: the next one when one is blocked."""
    certificate = world.ca.issue("hop.test")
    hop = world.remote("hop.test", port=587, certificate=certificate)
    node = world.node(config={
        "hops": {"out": {"address": "hop.test", "ca_file": world.ca.file}},
        "transport_map": [{"default": True, "route": "out"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().tls


def test_port_465_of_a_hop_is_implicit_tls(world):
    hop = world.remote("hop.test", port=465, certificate=world.ca.issue("hop.test"), implicit=True)
    node = world.node(config={
        "hops": {"out": {"address": "hop.test", "ca_file": world.ca.file}},
        "transport_map": [{"default": True, "route": "out"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().tls


def test_hop_is_reused_for_many_messages(world):
    hop, node = hop_node(world, max_connections=2)
    with node.client() as session:
        session.ehlo()
        for i in range(100):
            session.submit("a@src.test", f"u{i}@x{i}.test", mail.message())
    hop.wait_mail(100)
    assert len(hop.sessions) <= 2


def test_trouble_of_a_hop_counts_though_its_recipient_was_recorded_before_the_end(world):
    """x is taken, z is told of the hop's trouble, y gets a transaction of his own."""
    hop, node = hop_node(world)
    hop.answer("rcpt", "530 5.7.0 Authentication required", match="z@")
    hop.answer("rcpt", "452 4.5.3 too many", match="y@", times=1)
    node.submit("a@src.test", ["x@dest.test", "z@dest.test", "y@dest.test"], mail.message())
    node.log.wait(event="attempt", rcpt="x@dest.test", outcome="delivered")
    node.log.wait(event="site_down")
