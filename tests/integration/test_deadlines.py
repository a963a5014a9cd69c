"""Warnings and expiry: of mail that is tried, of mail that waits behind others, and when clocks jump.
"""

import shutil
import time

import pytest

from rig import mail
from rig.node import sanitized
from rig.wait import until

needs_faketime = pytest.mark.skipif(
    not shutil.which("faketime") or sanitized(),
    reason="faketime is missing, or a sanitizer wants to be the first library")


def quick(**changes):
    retry = {"intervals": ["1s"], "jitter": "0%", **changes.pop("retry", {})}
    return {"queue": {"retry": retry, "warn_after": [], **changes}}


def reports(remote, action):
    """The recipients that reports of this kind have told of so far, sorted."""
    found = []
    for got in list(remote.mails):
        report = mail.report(got.data)
        found += [f["Final-Recipient"].split("; ")[1] for f in report.recipients
                  if f["Action"] == action]
    return sorted(found)


def test_mail_that_waits_behind_a_dead_site_is_warned_of_and_expires(world):
    """One probe is the attempt of all that wait there."""
    world.dns.site("dead.test", "mx.dead.test", world.take())
    back = world.mx("src.test")
    node = world.node(config=quick(warn_after=["2s"], retry={"max_age": "5s"}))
    rcpts = [f"u{i}@dead.test" for i in range(6)]
    for rcpt in rcpts:
        node.submit("a@src.test", rcpt, mail.message())
    until(lambda: reports(back, "delayed") == rcpts, what="a warning for each")
    until(lambda: reports(back, "failed") == rcpts, what="a bounce for each")
    node.wait_empty()
    assert len(back.mails) == 12


def test_time_spent_stopped_never_expires_mail(world):
    """The first attempt after the stop decides."""
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later", times=1)
    node = world.node(config=quick(retry={"intervals": ["1h"], "max_age": "2s"}))
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    accepted = time.time()
    node.stop()
    until(lambda: time.time() > accepted + 2.5, what="the deadline to pass")
    node.start()
    node.ctl("queue", "retry", ident, check=False)
    mx.wait_mail()
    node.wait_empty()
    assert not back.mails


@needs_faketime
@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_clock_that_jumps_over_a_restart_throws_nothing_away(world, jump):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later", times=1)
    node = world.node(config=quick())
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    node.kill()
    node.wrapper = ["faketime", "-f", jump]
    node.start()
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    node.wait_empty()
    assert not back.mails


@needs_faketime
def test_clock_far_ahead_expires_only_after_a_failed_attempt(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config=quick(retry={"intervals": ["1s"], "max_age": "5d"}))
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    node.kill()
    node.wrapper = ["faketime", "-f", "+6d"]
    mark = node.log.mark()
    node.start()
    node.log.wait(event="attempt", msg=ident, outcome="failed", since=mark)
    back.wait_mail()
    fields = mail.report(back.mails[0].data).recipients[0]
    assert fields["Status"] == "4.4.7" or fields["Status"] == "5.4.7"
    assert "451 4.3.0 later" in fields["Diagnostic-Code"]


def test_warnings_come_at_each_age_once(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config=quick(warn_after=["1s", "4s"], retry={"max_age": "1h"}))
    node.submit("a@src.test", "b@dest.test", mail.message())
    until(lambda: len(reports(back, "delayed")) == 2, what="two warnings")
    node.log.wait(event="attempt", outcome="deferred", attempt="7")
    assert len(reports(back, "delayed")) == 2


def test_null_sender_is_never_warned_and_expires_in_silence(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config=quick(warn_after=["1s"], retry={"max_age_bounce": "3s"}))
    ident = node.submit("", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="failed")
    node.wait_empty()
    assert len(node.log.all(event="received")) == 1


def test_success_delay_and_failure_go_to_those_who_asked(world):
    """Three recipients, one transaction each way: each report tells of its own."""
    mx = world.mx("dest.test", extensions=("PIPELINING",))
    mx.answer("rcpt", "550 5.1.1 no", match="bad@")
    mx.answer("rcpt", "451 4.3.0 later", match="late@")
    back = world.mx("src.test")
    node = world.node(config=quick(warn_after=["1s"]))
    node.submit("a@src.test", [("good@dest.test", "NOTIFY=SUCCESS"),
                               ("bad@dest.test", "NOTIFY=FAILURE"),
                               ("late@dest.test", "NOTIFY=DELAY"),
                               ("mute@dest.test", "NOTIFY=FAILURE,DELAY")], mail.message(),
                params="RET=FULL ENVID=e+2B1")
    until(lambda: len(back.mails) == 3, what="three reports")
    assert reports(back, "relayed") == ["good@dest.test"]
    assert reports(back, "failed") == ["bad@dest.test"]
    assert reports(back, "delayed") == ["late@dest.test"]
    for got in back.mails:
        report = mail.report(got.data)
        assert got.sender == "" and report.status["Original-Envelope-Id"] == "e+1"
        assert report.message["Auto-Submitted"] == "auto-replied"
        full = report.recipients[0]["Action"] == "failed"
        assert report.returned_type == ("message/rfc822" if full else "text/rfc822-headers")
