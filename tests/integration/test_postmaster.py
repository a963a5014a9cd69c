"""What the node's postmaster gets: notices that cannot be delivered, and alerts."""

from rig import mail
from rig.wait import until


def test_undeliverable_report_goes_to_the_postmaster(world):
    """The sender's own server refuses the bounce."""
    mx, back = world.mx("dest.test"), world.mx("src.test")
    postmaster = world.mx("ops.test")
    mx.answer("rcpt", "550 5.1.1 no such user")
    back.answer("rcpt", "550 5.1.1 no such sender")
    node = world.node(config={"node": {"postmaster": "postmaster@ops.test"}})
    node.submit("a@src.test", "b@dest.test", mail.message(ident="double"))
    got = postmaster.wait_mail()
    assert got.rcpts == ["postmaster@ops.test"]
    assert b"double@src.test" in got.data or b"b@dest.test" in got.data
    node.wait_empty()


def test_report_that_nobody_can_take_is_held_with_an_alert(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no such user")
    back.answer("rcpt", "550 5.1.1 no such sender")
    node = world.node()
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(level="alert")
    waiting = node.queue()
    assert [(w["sender"], w["state"]) for w in waiting] == [("", "held")]


def test_refused_postmaster_does_not_make_a_circle(world):
    mx, back, postmaster = world.mx("dest.test"), world.mx("src.test"), world.mx("ops.test")
    for remote in (mx, back, postmaster):
        remote.answer("rcpt", "550 5.1.1 nobody here")
    node = world.node(config={"node": {"postmaster": "postmaster@ops.test"}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(level="alert", timeout=30)
    postmaster.wait_command("^RCPT")
    until(lambda: [w["state"] for w in node.queue()] == ["held"], what="the alert to be kept")
    assert len([c for c in postmaster.commands() if c.startswith("RCPT")]) == 1


def test_mail_to_a_bare_postmaster_is_taken_and_sent_to_ours(world):
    """RFC 5321 section 4.5.1: <postmaster> without a domain."""
    ops = world.mx("ops.test")
    node = world.node(config={"node": {"postmaster": "postmaster@ops.test"}})
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("Postmaster").code == 250
        session.data(mail.message()).queued_id
    assert ops.wait_mail().rcpts == ["postmaster@ops.test"]
