"""The wall clock jumps while relayd runs: deadlines hold, nothing is thrown away, nothing storms."""

import calendar
import email.utils
import pathlib
import random
import struct
import threading
import time

import pytest

from rig import mail
from rig.mixed import QUICK, Mixed
from rig.node import merge, sanitized
from rig.preload import library
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture

HOUR, DAY, YEAR = 3600, 86400, 31557600
WAITING = 20


def moment(*ymdhms):
    """Seconds from now to a moment in UTC."""
    return calendar.timegm(ymdhms) - int(time.time())


JUMPS = {"+1h": HOUR, "-1h": -HOUR, "+10y": 10 * YEAR, "-10y": -10 * YEAR,
         "2038": moment(2038, 1, 19, 3, 14, 6), "2106": moment(2106, 2, 7, 6, 28, 14),
         "leap": moment(2028, 2, 28, 23, 59, 58), "1970": moment(1970, 1, 1, 0, 0, 10)}


class Clock:
    """The wall clock of a node that is not started yet."""

    def __init__(self, world, node):
        self._file = world.dir / "shift"
        shift = library(world, "shift_clock",
                        pathlib.Path(__file__).with_name("shift_clock.c"))
        self._file.write_bytes(struct.pack("q", 0))
        node.env = {"LD_PRELOAD": str(shift), "SHIFT_CLOCK_FILE": str(self._file)}

    def jump(self, seconds):
        with open(self._file, "r+b") as f:
            f.write(struct.pack("q", seconds))


@pytest.fixture
def shifted(world):
    """node(config) -> (node, its clock)"""
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")

    def make(**retry):
        node = world.node(start=False, config={"queue": {"warn_after": [], "retry": {
            "intervals": ["1s"], "jitter": "0%", **retry}}})
        clock = Clock(world, node)
        return node.start(), clock

    return make


@pytest.mark.parametrize("name", size(["-1h", "+10y", "-10y", "2038"], list(JUMPS)))
def test_k04_clock_jumps_while_mail_waits(world, promise, shifted, name):
    promise("K04", "the clock jumps: no mass expiry, no storm, deadlines and retries go on")
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node, clock = shifted()
    with node.client() as open_session:
        open_session.ehlo()
        for i in range(WAITING):
            open_session.submit("a@src.test", f"u{i}@dest.test", mail.message())
        node.log.wait(event="attempt", outcome="deferred", count=WAITING)
        mark, tries = node.log.mark(), len(mx.commands())
        clock.jump(JUMPS[name])
        begun = time.monotonic()
        # A session's five minutes are not over because the date has changed.
        assert open_session.cmd("NOOP").code == 250
        open_session.submit("a@src.test", "new@dest.test", mail.message())
        node.log.wait(event="attempt", outcome="deferred", rcpt="new@dest.test", since=mark)
        # With an interval of a second each is tried again, and not many times at once.
        until(lambda: time.monotonic() - begun > 2.2, what="two seconds to pass")
        rcpts = [c for c in mx.commands()[tries:] if c.startswith("RCPT")]
        seconds = time.monotonic() - begun
        if "+" not in name and name not in ("2038", "2106", "leap"):
            expired = []
        else:  # those whose five days are over had their attempt, and it failed
            expired = node.log.all(event="attempt", outcome="failed", since=mark)
        assert len(rcpts) <= (WAITING + 1) * (seconds + 1), f"{len(rcpts)} attempts: a storm"
        mx.behave()
        if name == "-1h":  # not beyond the longest interval: they wait an hour more, or are told
            node.ctl("queue", "retry", "--domain", "dest.test")
        gone = {e["rcpt"] for e in expired}
        for i in range(WAITING):
            if f"u{i}@dest.test" not in gone:
                mx.wait_mail(rcpt=f"u{i}@dest.test")
        if name in ("+1h", "-1h", "-10y", "1970"):
            assert not gone, "expired by a clock that did not pass the deadline"
    node.wait_empty()
    for got in back.mails:
        assert mail.report(got.data).recipients[0]["Status"] in ("4.4.7", "5.4.7")
    promise.case()


@pytest.mark.parametrize("name", size(["2106"], ["+10y", "2038", "2106"]))
def test_k04_mail_that_waits_out_a_jump_is_delivered_when_its_host_is_well(world, promise, shifted,
                                                                           name):
    promise("K04", "the clock jumps far past every deadline: a host that is well gets all mail")
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node, clock = shifted(intervals=["3s"])
    for i in range(WAITING):
        node.submit("a@src.test", f"u{i}@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred", count=WAITING)
    mx.behave()
    clock.jump(JUMPS[name])
    until(lambda: len(mx.mails) == WAITING, what="all of it")
    node.wait_empty()
    assert not back.mails
    promise.case()


def test_k04_machine_that_slept_tries_at_once_what_has_become_due(world, promise, shifted):
    promise("K04", "the clock is an hour ahead after a sleep: what became due meanwhile is tried now")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node, clock = shifted(intervals=["30m"])
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    mx.behave()
    clock.jump(HOUR)
    mx.wait_mail()
    promise.case()


def test_k04_clock_jumps_under_load(world, promise):
    promise("K04", "the clock jumps again and again under load: every recipient has one end")
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    seed = random.SystemRandom().randrange(1 << 30)
    jumps = random.Random(seed)
    node = world.node(start=False, config=merge(QUICK, {"queue": {"warn_after": []}}))
    clock = Clock(world, node)
    traffic = Mixed(world, node.start())
    traffic.begin(limit=size(400, 20000))
    while traffic.going():
        clock.jump(jumps.choice(list(JUMPS.values())))
        some = traffic.promised() + 20
        until(lambda: traffic.promised() >= some or not traffic.going(), what="some more mail")
        promise.case()
    clock.jump(0)
    traffic.end()
    # What was deferred an hour ahead waits for that hour: less than the longest interval is no jump.
    node.ctl("queue", "retry", "--all", check=False)
    traffic.settle()
    node.wait_empty()
    assert not traffic.refusals, f"seed {seed}: {traffic.refusals}"
    assert node.ctl("verify").returncode == 0


@pytest.mark.parametrize("name", size(["1970", "2106"], ["1970", "2038", "2106", "9999"]))
def test_k04_starts_and_serves_at_any_date(world, promise, shifted, name):
    promise("K04", "relayd starts, dates and delivers in 1970, 2038, 2106 and 9999")
    mx = world.mx("dest.test")
    node, clock = shifted()
    node.stop()
    shift = moment(9999, 12, 31, 23, 0, 0) if name == "9999" else JUMPS[name]
    clock.jump(shift)
    node.start()
    message = mail.message().replace(b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\n", b"")
    ident = node.submit("a@src.test", "b@dest.test", message)
    got = mx.wait_mail()
    want = time.gmtime(time.time() + shift).tm_year
    for value in [mail.received(got.data)[0].rpartition(";")[2],
                  dict(mail.fields(got.data))["Date"]]:
        assert email.utils.parsedate_tz(value)[0] == want, value
    assert node.ctl("trace", ident).returncode == 0
    assert node.ctl("verify").returncode == 0
    node.wait_empty()
    promise.case()


def test_k04_history_outlives_a_clock_that_was_ahead(world, promise, shifted):
    promise("K04", "the clock was ahead: what had finished before can be traced, and what comes after")
    mx = world.mx("dest.test")
    node, clock = shifted()

    def deliver(ahead):
        clock.jump(ahead)
        ident = node.submit("a@src.test", "b@dest.test", mail.message())
        mx.wait_mail(len(idents) + 1)
        node.wait_empty()
        return ident

    idents = []
    for ahead in [0, 10 * DAY, 0, 2 * DAY, 10 * YEAR, 0, 0]:
        idents.append(deliver(ahead))
        for ident in idents:
            done = node.ctl("trace", ident, check=False)
            assert done.returncode == 0, f"{idents.index(ident)} of {len(idents)}: {done.stderr}"
            promise.case()
    mx.answer("rcpt", "451 4.3.0 later")
    node.submit("a@src.test", "b@dest.test", mail.message())
    at = node.ctl_json("status")["queue"]["oldest_at"]
    assert abs(calendar.timegm(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")) - time.time()) < 60, at
    node.restart()  # it waits under an id of long after today
    assert node.ctl_json("status")["queue"]["oldest_at"] == at


def test_k04_deadlines_of_a_delivery_do_not_follow_the_wall_clock(world, promise, shifted):
    promise("K04", "the deadlines of a delivery are monotonic")
    gate, mx = threading.Event(), world.mx("dest.test")
    mx.answer("dot", lambda session: gate.wait(20) and "250 2.0.0 taken", times=1)
    node, clock = shifted()
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^DATA")
    for shift in JUMPS.values():
        clock.jump(shift)
        node.submit("a@src.test", "other@nowhere.test", mail.message())  # the loop has turned
        promise.case()
    gate.set()
    node.log.wait(event="attempt", rcpt="b@dest.test", outcome="delivered")
    assert len(mx.mails) == 1
