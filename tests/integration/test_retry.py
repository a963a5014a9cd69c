"""When a deferred recipient is tried again, and when it is given up."""

import time

import pytest

from rig import mail
from rig.remote import CLOSE
from rig.wait import seconds_until, until

SECONDS = {"queue": {"retry": {"intervals": ["1s", "2s", "3s"], "jitter": "0%", "max_age": "1h"}}}


def times(mx, node, count):
    """When RCPT came, count times."""
    moments = []
    mx.answer("rcpt", lambda session: moments.append(time.monotonic()) or "451 4.3.0 later")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^RCPT", count=count, timeout=40)
    return moments


def test_b19_intervals_are_kept_and_the_last_one_repeats(world, promise):
    promise("B19", "the intervals of the retry schedule are kept").case()
    mx, node = world.mx("dest.test"), world.node(config=SECONDS)
    moments = times(mx, node, 5)
    gaps = [b - a for a, b in zip(moments, moments[1:])]
    for gap, wanted in zip(gaps, (1, 2, 3, 3)):
        assert wanted - 0.3 < gap < wanted + 2, gaps


def test_b19_default_schedule_starts_with_five_minutes_and_jitter(world, promise):
    promise("B19", "the default schedule begins with five minutes and jitter").case()
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node()
    with node.client() as session:
        session.ehlo()
        for i in range(20):
            session.submit("a@src.test", f"u{i}@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred", count=20)
    waits = [seconds_until(w["due_at"]) for w in node.queue("--limit", "100")]
    assert len(waits) == 20
    assert all(300 * 0.8 - 20 < w < 300 * 1.2 + 5 for w in waits), waits
    assert max(waits) - min(waits) > 10, "no jitter"


def test_deferred_mail_survives_a_restart_and_keeps_its_schedule(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"], "jitter": "0%"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    until(lambda: node.queue()[0]["attempts"] == 1)  # the line comes before the commit
    before = node.queue()
    node.restart()
    after = node.queue()
    assert [(w["id"], w["rcpt"], w["due_at"], w["attempts"]) for w in after] == \
        [(w["id"], w["rcpt"], w["due_at"], w["attempts"]) for w in before]
    assert len([c for c in mx.commands() if c.startswith("RCPT")]) == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("code", ["451", "550"])
def test_4xx_defers_and_5xx_fails_at_every_stage(world, stage, code):
    mx = world.mx("dest.test")
    enh, words = ("4.3.0", "try later") if code == "451" else ("5.1.1", "no such user")
    mx.answer(stage, f"{code} {enh} {words}")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    world.mx("src.test")
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert line["outcome"] == ("deferred" if code == "451" else "failed")
    assert line["code"] == code and line["enh"] == enh


def test_full_mailbox_is_not_mistaken_for_too_many_recipients(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "552 5.2.2 mailbox full", match="full@")
    node = world.node()
    world.mx("src.test")
    node.submit("a@src.test", ["full@dest.test", "b@dest.test"], mail.message())
    line = node.log.wait(event="attempt", rcpt="full@dest.test")
    assert line["class"] == "quota-full"
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    assert len([c for c in mx.commands() if "full@" in c]) == 1, "tried again at once"


def test_connection_refused_waits_for_the_first_interval_with_one_probe(world):
    mx = world.remote("mx.dest.test", start=False)
    world.dns.mx("dest.test", "mx.dest.test")
    node = world.node(config=SECONDS)
    for i in range(10):
        node.submit("a@src.test", f"u{i}@dest.test", mail.message())
    line = node.log.wait(event="attempt", outcome="deferred")
    assert line["phase"] == "connect"
    mx.start()
    assert sorted(r for m in mx.wait_mail(10, timeout=40) for r in m.rcpts) == \
        sorted(f"u{i}@dest.test" for i in range(10))


def test_b11_connection_lost_after_the_dot_is_retried_and_said_to_be_so(world, promise):
    promise("B11", "lost after the dot: retried, and said to be so").case()
    mx = world.mx("dest.test")
    mx.answer("dot", CLOSE, times=1)
    node = world.node(config=SECONDS)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert line["phase"] == "body-end"
    assert "twice" in " ".join(line.values())
    assert mx.wait_mail()


def test_b18_reused_connection_that_was_closed_costs_no_attempt(world, promise):
    promise("B18", "a reused connection that was closed costs no attempt").case()
    mx = world.mx("dest.test")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.wait_empty()
    # The connection idles now; it is closed before it can carry the next message.
    for session in mx.sessions:
        session.finish(CLOSE)
    ident = node.submit("a@src.test", "c@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert line["outcome"] == "delivered"


def test_b14_long_refusals_do_not_grow_the_record(world, promise):
    promise("B14", "long refusals do not grow what is kept").case()
    mx = world.mx("dest.test")
    mx.answer("rcpt", "\n".join(["451 4.3.0 " + "x" * 900] + ["x" * 900] * 60))
    node = world.node(config=SECONDS)
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred", count=3, timeout=30)
    assert len(node.queue()[0]["last_reply"]) <= 700


def test_smtputf8_recipient_needs_a_host_that_offers_it(world):
    world.mx("old.test", extensions=["PIPELINING", "8BITMIME"])
    new = world.mx("new.test")
    world.mx("src.test")
    node = world.node()
    with node.client() as session:
        session.ehlo()
        session.submit("a@src.test", ["\u7528\u6237@old.test", "\u7528\u6237@new.test"],
                       mail.message(), params="SMTPUTF8")
    assert new.wait_mail().rcpts == ["\u7528\u6237@new.test"]
    assert node.log.wait(event="attempt", outcome="failed")["enh"] == "5.6.7"
