"""Receivers that say "come back later": greylisting and other 4xx answers."""

from rig import mail
from rig.wait import seconds_until

QUICK = {"queue": {"retry": {"intervals": ["1s", "2s"], "jitter": "0%", "greylist": "1s"}}}


def test_b17_greylisted_at_rcpt_is_delivered_exactly_once_after_the_retry(world, promise):
    promise("B17", "greylisted at RCPT: exactly one delivery after the retry").case()
    destination = world.postfix("mx.dest.test").as_destination("dest.test").start()
    world.dns.site("dest.test", "mx.dest.test", destination.address)
    destination.access("rcpt", "451 4.7.1 Greylisted, please try again later", times=1)
    node = world.node(config=QUICK)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    first = node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert (first["code"], first["phase"], first["class"]) == ("451", "rcpt", "greylisted")
    node.log.wait(event="attempt", msg=ident, outcome="delivered")
    destination.wait_mail("b@dest.test")
    node.wait_empty()
    assert len(destination.mailbox("b@dest.test")) == 1


def test_b17_greylisted_after_the_dot_is_delivered_exactly_once(world, promise):
    promise("B17", "greylisted after the dot: exactly one delivery").case()
    mx = world.mx("dest.test")
    mx.answer("dot", "451 4.7.1 greylisted for 1 second", times=1)
    node = world.node(config=QUICK)
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    node.wait_empty()
    assert len(mx.mails) == 1


def test_first_delay_after_greylisting_is_at_least_as_configured(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "450 4.2.0 Greylisted, see http://postgrey.test/", times=1)
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%",
                                                  "greylist": "1h"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred", rcpt="b@dest.test")
    waiting = node.queue()[0]
    assert waiting["attempts"] == 1 and "450" in waiting["last_reply"]
    assert seconds_until(waiting["due_at"]) > 3000
    assert len(mx.sessions) == 1


def test_greylisting_never_moves_a_recipient_to_another_route(world):
    """A reroute would restart the receiver's clock."""
    hop, mx = world.remote("hop.test"), world.mx("dest.test")
    mx.answer("rcpt", "451 4.7.1 Greylisting in action, please come back later", times=2)
    node = world.node(config={
        **QUICK, "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"],
                           "fallback_after": "1s", "learn": True}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    assert not hop.sessions


def test_b17_other_recipients_of_the_message_do_not_wait(world, promise):
    promise("B17", "the others of a message do not wait for the greylisted one").case()
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.7.1 greylisted", match="slow@")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"], "greylist": "1h"}}})
    node.submit("a@src.test", ["slow@dest.test", "quick@dest.test"], mail.message())
    assert mx.wait_mail().rcpts == ["quick@dest.test"]
    node.log.wait(event="attempt", rcpt="slow@dest.test", outcome="deferred")
    assert [w["rcpt"] for w in node.queue()] == ["slow@dest.test"]


def test_452_to_one_recipient_sends_the_rest_at_once_in_a_new_transaction(world):
    """RFC 5321 section 4.5.3.1.10."""
    mx = world.mx("dest.test")
    mx.answer("rcpt", "452 4.5.3 too many recipients", match="u[5-9]@", times=5)
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    rcpts = [f"u{i}@dest.test" for i in range(10)]
    node.submit("a@src.test", rcpts, mail.message())
    mx.wait_mail(2)
    node.wait_empty()
    assert sorted(r for m in mx.mails for r in m.rcpts) == rcpts
