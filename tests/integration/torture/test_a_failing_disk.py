"""A08: the n-th call to the disk fails, at every n: never a false 250, and nothing is lost.

What is promised: ENOSPC refuses the batch with 452 4.3.1 and work goes on; any other failed write
or sync refuses it with 451 4.3.0, raises an alert and ends the daemon with 74, and the next start
goes by what is on the disk. A start that cannot read or write its queue says so in one line.
"""

import random
import re
import shutil

import pytest

from rig import mail
from rig.faults import Disk
from rig.mixed import QUICK, Mixed
from rig.node import sanitized
from rig.promise import LONG
from rig.wait import until

pytestmark = pytest.mark.torture

CALLS = 200         # every one of the first so many fails once in the long form
MESSAGES_MAX = 900  # that a case may send before its call has come
IN_FLIGHT = 40      # deliveries between a remote's 250 and our commit when the daemon ends
GO_ON = 12          # messages that must be acknowledged after a fault that was survived
RESIDENTS = 5       # messages that wait through all of it


@pytest.fixture
def bed(world):
    """A node with mail that is held, traffic of every kind, and the disk under the queue."""
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    world.mx("stays.test").answer("rcpt", "451 4.3.0 not now")
    node = world.node(config=QUICK)
    for i in range(RESIDENTS):
        node.submit("a@src.test", f"r{i}@stays.test", mail.message())
    node.ctl("queue", "hold", "--domain", "stays.test")
    node.stop()
    return node, Mixed(world, node), Disk(world, node)


def start_is_clear(node, disk_error):
    """Start; True when it serves. When it ends instead, it ends with its code and one line that
    tells why."""
    before = len(node.log.lines())
    code = node.try_start()
    said = [line for line in node.log.lines()[before:] if "event=fault" not in line]
    if code is None:
        return True
    if code == 74 and any("alert=store_failed" in line for line in said):
        return False  # it was serving already
    assert code == (75 if disk_error in ("ENOSPC", "EDQUOT") else 74), f"exit {code}: {said}"
    assert re.match(r"relayd: queue: ", said[-1]), said
    return False


def after_fault(node, traffic, disk, error, times, mark):
    """It ends as promised or it goes on; returns how many copies that may explain."""
    full = error in ("ENOSPC", "EDQUOT")
    acknowledged = traffic.promised()
    if times < 0 and full:
        until(lambda: not node.running() or traffic.refusals, what="a refusal")
        disk.heal()
        acknowledged = traffic.promised()
    until(lambda: not node.running() or traffic.promised() > acknowledged + GO_ON or
          not traffic.going(), what="the end of the daemon, or mail after the fault")
    if node.running():
        traffic.end()
        assert set(traffic.refusals) <= {"452 4.3.1"}, traffic.refusals
        return 0
    assert node.wait_exit() == 74
    assert node.log.all(since=mark, alert="store_failed"), "no alert tells why it ended"
    assert set(traffic.refusals) <= {"451 4.3.0", "452 4.3.1"}, traffic.refusals
    return IN_FLIGHT


def run_case(bed, call, error, at, times=1, how="none", messages=MESSAGES_MAX):
    """One fault, and after it the delivery of everything. False when the call never came."""
    node, traffic, disk = bed
    mark, duplicates = node.log.mark(), 0
    try:
        disk.fail(call, error, at, times, how)
        served = start_is_clear(node, error)
        if served:
            traffic.begin(messages)
            until(lambda: node.log.all(since=mark, event="fault") or not node.running() or
                  not traffic.going(), what="the fault")
        hit = bool(node.log.all(since=mark, event="fault"))
        if hit and served:
            duplicates = after_fault(node, traffic, disk, error, times, mark)
        traffic.end()
        disk.heal()
        if not node.running():
            node.start()
        traffic.settle(duplicates)
        until(lambda: len(node.queue()) == RESIDENTS, what="a queue with the held ones alone")
        assert {r["state"] for r in node.queue()} == {"held"}
        verified = node.ctl("verify", check=False)
        assert verified.returncode == 0, verified.stdout
        node.stop()
    except AssertionError as e:
        raise AssertionError(f"{call} number {at}, {error}, times={times}, how={how}: {e}") from e
    return hit


# fsync and pread are called a few times at a start only; ftruncate when the file is short.
WAYS = [(call, error, how) for call in ("fdatasync", "pwrite", "writev")
        for error, how in (("EIO", "none"), ("ENOSPC", "none"))]
OTHER_WAYS = [("fdatasync", "EDQUOT", "none"), ("fdatasync", "EIO", "late"),
              ("pwrite", "EIO", "late"), ("pwrite", "EIO", "half"), ("writev", "EIO", "half"),
              ("lseek", "EIO", "none"), ("pwrite", "EROFS", "none")]


@pytest.mark.parametrize("call,error,how", WAYS, ids=lambda v: v)
def test_a08_each_failing_call_ends_it_or_is_survived(bed, promise, call, error, how):
    promise("A08", "the n-th write or sync fails: never a false 250, nothing acknowledged lost")
    rng = random.Random()
    numbers = range(1, CALLS + 1) if LONG else [rng.randint(4, 60)]
    for at in numbers:
        if run_case(bed, call, error, at, how=how):
            promise.case()
        else:
            assert at > 100, f"{call} was called less than {at} times"


@pytest.mark.skipif(not LONG, reason="long form")
@pytest.mark.parametrize("call,error,how", OTHER_WAYS, ids=lambda v: v)
def test_a08_writes_that_are_short_or_done_all_the_same(bed, promise, call, error, how):
    promise("A08", "short writes, writes that failed and yet were made, quotas, a lost mount")
    for at in range(1, CALLS + 1, 4):
        promise.case(run_case(bed, call, error, at, how=how))


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a08_disk_that_fails_from_then_on(bed, promise, call, error):
    promise("A08", "a disk that fails for good: an end with 74, or 452 until there is room")
    for at in range(1, CALLS + 1, 4) if LONG else [random.Random().randint(5, 60)]:
        promise.case(run_case(bed, call, error, at, times=-1))


def start_case(node, disk, call, error, at):
    """A start with one fault, then one without. False when the call never came."""
    mark = node.log.mark()
    disk.fail(call, error, at)
    if start_is_clear(node, error):
        node.stop()
    disk.heal()
    node.start()
    assert node.ctl("verify").returncode == 0
    return bool(node.log.all(since=mark, event="fault"))


def test_a08_reads_at_a_start(bed, promise):
    promise("A08", "a start that cannot read its queue says so and ends")
    node, _, disk = bed
    for at in range(1, 40) if LONG else (1, 4):
        if not start_case(node, disk, "pread", "EIO", at):
            break
        assert len(node.queue()) == RESIDENTS
        node.stop()
        promise.case()
    assert at > 3, "so few reads?"


def test_a08_start_that_makes_the_queue(bed, promise):
    """What is half made is no queue that was there: the next start makes it whole."""
    promise("A08", "a queue that could not be made is made by the next start")
    node, _, disk = bed
    for call in ("fsync", "fdatasync", "pwrite", "pread", "writev"):
        for error in ("EIO",) if call == "pread" else ("EIO", "ENOSPC"):
            for at in range(1, 10) if LONG else (1,):
                shutil.rmtree(node.config["queue"]["path"])
                hit = start_case(node, disk, call, error, at)
                node.stop()
                if not hit:
                    break
                promise.case()
