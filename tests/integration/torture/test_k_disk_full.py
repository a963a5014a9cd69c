"""K01, K02: a disk that is full, or that cannot be written any more: nothing is lost, what can go on
goes on, and it recovers by itself, or by a start.
"""

import re
import subprocess
import time

import pytest

from rig import mail
from rig.mixed import QUICK, Mixed
from rig.node import merge
from rig.promise import LONG, size
from rig.proc import cpu_seconds
from rig.volume import MIB, Volume
from rig.wait import until

pytestmark = pytest.mark.torture

KINDS = ["ext4", "tmpfs"] if LONG else ["ext4"]
LARGE = "z" * 70 + "\r\n"


def queue_on(volume, **queue):
    return merge(QUICK, {"queue": {"path": str(volume.path / "queue"), **queue}})


def submit_until_refused(node, rcpt, body, limit=8000):
    """Messages that were acknowledged until one was not; and the refusal."""
    with node.client() as c:
        c.ehlo()
        for n in range(limit):
            reply = c.mail("a@src.test")
            if reply.code == 250:
                c.rcpt(rcpt)
                reply = c.data(mail.message(body=body))
            if reply.code != 250:
                return n, reply
    raise AssertionError(f"{limit} messages and no refusal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lines", [60, 1000, 6000] if LONG else [1000, 6000])  # in the record, in pages, in chunks
def test_k01_queue_that_fills_its_disk_drains_by_itself(world, promise, kind, lines):
    promise("K01", "a disk full of our own mail: 452 4.3.1, deliveries go on and free space")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 not now")
    volume = Volume(world, kind)
    node = world.node(config=queue_on(volume, min_free="3MiB", retry={"intervals": ["1h"]}))
    for _ in range(size(1, 4)):
        mx.answer("rcpt", "451 4.3.0 not now")
        n, reply = submit_until_refused(node, "b@dest.test", LARGE * lines)
        assert n > 5 and str(reply).startswith("452 4.3.1"), f"{n} messages, then {reply}"
        assert volume.free() > 1 * MIB, "the reserve is gone"
        before = len(mx.mails)
        mx.behave()
        node.ctl("queue", "retry", "--domain", "dest.test")
        mx.wait_mail(before + n)
        node.wait_empty()
        node.submit("a@src.test", "b@dest.test", mail.message(body=LARGE * lines))
        mx.wait_mail(before + n + 1)
        node.wait_empty()
        assert len(mx.mails) == before + n + 1
        assert node.ctl("verify").returncode == 0
        promise.case()


@pytest.mark.parametrize("kind", KINDS)
def test_k01_disk_filled_by_others_at_any_moment(world, promise, kind):
    """No reserve: the commits themselves find no room. Nothing is delivered twice."""
    promise("K01", "others fill the disk under load: 452 4.3.1 until there is room, nothing lost or "
                   "sent twice")
    volume = Volume(world, kind)
    node = world.node(config=queue_on(volume, min_free="0"))
    traffic = Mixed(world, node)
    for _ in range(size(2, 25)):
        traffic.begin()
        until(lambda: traffic.promised() > 20, what="some mail")
        volume.fill()
        until(lambda: traffic.refusals, what="a refusal")
        time.sleep(0.2)  # any moment of a full disk
        assert set(traffic.refusals) == {"452 4.3.1"}, traffic.refusals
        volume.clear()
        acknowledged = traffic.promised()
        until(lambda: traffic.promised() > acknowledged + 20, what="mail after the room came back")
        traffic.end()
        assert set(traffic.refusals) == {"452 4.3.1"}, traffic.refusals
        traffic.settle(duplicates=0)
        node.wait_empty()
        assert node.ctl("verify").returncode == 0
        promise.case()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_hand", [True, False], ids=["", "without-in-hand"])
def test_k01_start_on_a_full_disk(world, promise, kind, in_hand):
    promise("K01", "a start on a full disk serves: what waits is there, new mail gets 452")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 not now")
    volume = Volume(world, kind)
    node = world.node(config=queue_on(volume, min_free="0", retry={"intervals": ["1h"]}))
    for i in range(10):
        node.submit("a@src.test", f"u{i}@dest.test", mail.message(body=LARGE * 100))
    until(lambda: len(node.log.all(event="attempt", outcome="deferred")) == 10, what="attempts")
    node.kill()
    if not in_hand:
        (volume.path / "queue" / "in-hand").unlink()
    volume.fill()
    node.start()
    assert len(node.queue()) == 10
    n, reply = submit_until_refused(node, "b@dest.test", LARGE * 5000)
    assert str(reply).startswith("452 4.3.1"), str(reply)
    volume.clear()
    mx.behave()
    node.ctl("queue", "retry", "--domain", "dest.test")
    mx.wait_mail(10 + n)
    node.wait_empty()
    assert len(mx.mails) == 10 + n
    promise.case()


def test_k01_full_disk_on_which_no_queue_can_be_made(world, promise):
    promise("K01", "no room to make a queue: one line, an end, and the next start makes it")
    volume = Volume(world)
    node = world.node(config=queue_on(volume), start=False)
    volume.fill()
    assert node.try_start() in (73, 75)
    assert re.match(r"relayd: .*(no space|full)", node.log.lines()[-1], re.I), node.log.tail(3)
    volume.clear()
    node.start()
    promise.case()


def test_k01_quota_of_the_queue(world, promise):
    promise("K01", "max_size reached: 452 4.3.1 at 90 %, deliveries make room")
    mx = world.mx("dest.test")
    node = world.node(config=merge(QUICK, {"queue": {
        "max_size": "4MiB", "min_free": "0", "retry": {"intervals": ["1h"]}}}))
    for lines in (60, 700):
        mx.answer("rcpt", "451 4.3.0 not now")
        before = len(mx.mails)
        n, reply = submit_until_refused(node, "b@dest.test", LARGE * lines, 20_000)
        assert str(reply).startswith("452 4.3.1"), str(reply)
        mx.behave()
        node.ctl("queue", "retry", "--domain", "dest.test")
        mx.wait_mail(before + n, timeout=60)
        node.wait_empty(60)
        promise.case()


@pytest.mark.parametrize("n,lines", [(40, 4000), (1500, 30)])  # few in chunks, many in the record
def test_k01_quota_lowered_below_what_waits(world, promise, n, lines):
    promise("K01", "max_size lowered below what waits: all of it goes out, and each outcome is stored")
    mx = world.mx("dest.test")
    node = world.node(config=merge(QUICK, {"queue": {"max_size": "256MiB", "min_free": "1MiB"}}))
    node.ctl("suspend", "direct", "--for", "1h")
    with node.client() as c:
        c.ehlo()
        for i in range(n):
            c.submit("a@src.test", f"u{i}@dest.test", mail.message(body=LARGE * lines))
    node.stop()
    node.config["queue"]["max_size"] = "1MiB"
    node.start()
    node.ctl("resume", "direct")
    mx.wait_mail(n, timeout=60)
    node.wait_empty()
    node.kill()
    node.start()
    assert len(mx.mails) == n and not node.queue()
    assert node.ctl("verify").returncode == 0
    promise.case()


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
def test_k01_nothing_new_is_delivered_while_outcomes_find_no_room(world, promise, crash):
    """Each further delivery would be made twice if the process died."""
    promise("K01", "deliveries that cannot be stored: none follows, an alert, and all goes on once "
                   "there is room, or after a crash, with copies of no others")
    n = size(400, 1000)
    mx = world.mx("dest.test")
    volume = Volume(world)
    node = world.node(config=merge(queue_on(volume, min_free="0"),
                                   {"shaping": {"default": {"max_rate": "100/s"}}}))
    node.ctl("suspend", "direct", "--for", "1h")
    with node.client() as c:
        c.ehlo()
        for i in range(n):
            c.submit("a@src.test", f"u{i}@dest.test", mail.message())
    volume.fill()
    more, _ = submit_until_refused(node, "b@dest.test", "z\r\n")  # in what is free in the file
    n += more
    node.ctl("resume", "direct", check=False)
    node.log.wait(alert="outcomes_blocked")
    delivered = len(mx.mails)
    time.sleep(1)  # a hundred, if it went on
    assert len(mx.mails) <= min(delivered + 10, n - 50)
    late, reply = submit_until_refused(node, "late@dest.test", "z\r\n")
    assert late == 0 and str(reply).startswith("452 4.3.1"), str(reply)
    if crash:
        node.kill()
        volume.clear()
        node.start()
    else:
        volume.clear()
    until(lambda: len({m.rcpts[0] for m in mx.mails}) == n - more + bool(more), what="all of it")
    node.wait_empty(60)
    most = delivered + 10 if crash else 0
    assert len(mx.mails) - n <= most, f"{len(mx.mails) - n} copies, {delivered} delivered"
    assert len(node.log.all(alert="outcomes_blocked")) == 1
    promise.case()


def test_k02_file_system_that_becomes_read_only(world, promise):
    """What the kernel does with an ext4 on a dying disk."""
    promise("K02", "a queue that can no longer be written: 451, an alert, exit 74; all is there once "
                   "it can be written again")
    volume = Volume(world)
    node = world.node(config=queue_on(volume, min_free="0"))
    traffic = Mixed(world, node)
    for _ in range(size(1, 10)):
        traffic.begin()
        until(lambda: traffic.promised() > 20, what="some mail")
        volume.fail()
        assert node.wait_exit() == 74
        traffic.end()
        assert set(traffic.refusals) <= {"451 4.3.0"}, traffic.refusals
        assert node.log.all(alert="store_failed")
        for _ in range(2):
            begun = time.monotonic()
            assert node.try_start() in (73, 74)
            assert re.match(r"relayd: queue: .*(read-only|error)", node.log.lines()[-1], re.I)
            assert time.monotonic() - begun < 10
        volume.unmount()
        subprocess.run(["fsck.ext4", "-pf", world.dir / "volume.img"], check=False,
                       capture_output=True)
        volume.mount()
        node.start()
        traffic.settle(duplicates=40)
        node.wait_empty()
        assert node.ctl("verify").returncode == 0
        promise.case()


def test_k01_full_disk_costs_no_cpu(world, promise):
    promise("K01", "outcomes that wait for room are tried again each second, not in a circle")
    volume = Volume(world)
    mx = world.mx("dest.test")
    node = world.node(config=queue_on(volume, min_free="0"))
    mx.answer("dot", lambda session: volume.fill() or "250 2.0.0 taken", times=1)
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    before = cpu_seconds(node.pid)
    time.sleep(2)  # what it does in that time is the question
    assert cpu_seconds(node.pid) - before < 0.2
    volume.clear()
    node.wait_empty()
    assert len(mx.mails) == 1
    promise.case()
