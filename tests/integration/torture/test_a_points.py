"""A04, and A01 at each named point: killed between any two steps of a message, nothing is lost.

The points are calls that relayd makes into other libraries (points.c); there is no code for them in
relayd. Each kill falls into load with hosts that defer, refuse and break off.
"""

import random
import signal

import pytest

from rig.crash import Crash
from rig.node import sanitized
from rig.promise import size

pytestmark = [pytest.mark.crash, pytest.mark.torture]

# The steps, in their order, of a message (accept, commit, deliver, record) and of a start.
POINTS = {
    "start": ["start: the queue is open", "start: a table is open", "start: a read has begun",
              "commit: begun", "commit: entered", "commit: returned"],
    "accept": ["accept: EHLO read", "accept: envelope read", "accept: body read",
               "accept: dot read", "commit: chunk put", "accept: chunk before its commit",
               "accept: chunk after its commit", "commit: message put",
               "accept: mail before its commit", "accept: mail after its commit",
               "accept: before 250 is sent", "accept: after 250 is sent"],
    "commit": ["commit: begun", "commit: other put", "commit: entered", "commit: pages written",
               "commit: before the sync", "commit: after the sync", "commit: meta page written",
               "commit: returned"],
    "deliver": ["deliver: connecting", "deliver: greeting read",
                "deliver: before the envelope is sent", "deliver: after the envelope is sent",
                "deliver: 354 read", "deliver: before the dot is sent",
                "deliver: after the dot is sent", "deliver: 250 read", "deliver: 451 read",
                "deliver: 554 read"],
    "record": ["record: finished put", "record: outcome before its commit",
               "record: outcome after its commit", "record: deferred put",
               "record: deferral before its commit", "record: deferral after its commit",
               "record: notice before its commit", "record: notice after its commit"],
}
# Those that come once a start or a session, or with rare messages, and how often one waits for them.
FEW = {"start: the queue is open": 1, "start: a table is open": 9, "start: a read has begun": 1,
       "accept: EHLO read": 8, "deliver: connecting": 8, "deliver: greeting read": 8,
       "commit: chunk put": 3, "accept: chunk before its commit": 3,
       "accept: chunk after its commit": 3, "record: notice before its commit": 3,
       "record: notice after its commit": 3}
SIGNALS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("step", POINTS)
def test_a04_killed_at_each_named_point_loses_nothing(world, promise, step):
    promise("A04", "killed by any signal at each named point: nothing lost, wrong or invented")
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    seed = random.SystemRandom().randrange(1 << 30)
    crash = Crash(world, faults=20, seed=seed)
    for round_ in range(size(1, 12)):
        for point in POINTS[step]:
            most = FEW.get(point, size(10, 40))
            number = SIGNALS[round_ % len(SIGNALS)]
            crash.kill_at(point, crash.random.randint(1, most), number)
            promise.case()
        if round_ % 4 == 3:
            crash.settle(go_on=True)
    crash.settle()
