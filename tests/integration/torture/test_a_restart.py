"""Starts: during recovery, beside another instance, and with much that is due."""

import collections
import signal
import threading
import time

import pytest

from rig.crash import CONFIG, Crash
from rig.load import Load
from rig.ledger import Ledger
from rig.node import merge
from rig.promise import size
from rig.remote import Remote
from rig.wait import PATIENCE, until

pytestmark = [pytest.mark.crash, pytest.mark.torture]

TEMPFAIL = 75
LATER = merge(CONFIG, {"queue": {"retry": {"intervals": ["1h"]}}})


def came(crash):
    return len(crash.books.read().came)


def test_a13_killed_during_recovery_again_and_again(world, promise):
    """Ten starts, each killed at a later instant, and one at each step of a start."""
    promise("A13", "killed during recovery of a full queue: nothing lost, up in 2 s, on in 3 s")
    crash = Crash(world, faults=1000, node=world.node(config=LATER), messages=size(2000, 100000))
    crash.source.join(600)
    for i in range(size(10, 100)):
        crash.node.kill()
        crash.node.start(ready=False)
        time.sleep(0.01 * (i % 20))  # a later instant of the start each time
        promise.case()
    steps = ["start: the queue is open", "start: a table is open", "start: a read has begun"]
    for point in steps:
        crash.node.kill()
        crash.arm(point)
        crash.node.start(ready=False)
        assert crash.node.wait_exit() == -signal.SIGKILL, point
        crash.read_notes()
        crash.node.env = {}
        crash.node.start(ready=False)
        promise.case()
    crash.node.kill()
    crash.sink.behave()
    begun = time.monotonic()
    crash.node.start()
    assert time.monotonic() - begun < 2 * PATIENCE, "the start took too long"
    for i in range(crash.sink.domains):
        crash.node.ctl("queue", "retry", "--domain", f"d{i}.test")
    until(lambda: came(crash), 3, "the first delivery after a start")
    crash.node.ctl("queue", "retry", "--domain", "src.test")
    crash.settle(timeout=size(60, 600))


def test_a14_second_instance_on_the_queue_is_refused_and_the_first_undisturbed(world, promise):
    """By the same path, through a link, and while the first is being started."""
    promise("A14", "a second instance on one queue is refused; the first is undisturbed")
    crash = Crash(world)
    queue = crash.node.config["queue"]["path"]
    link = world.dir / "link"
    link.symlink_to(queue)
    others = [world.node(f"two{i}", start=False, config={"queue": {"path": str(path)}})
              for i, path in enumerate([queue, link, f"{queue}/../queue"])]
    for i in range(size(6, 60)):
        other = others[i % 3]
        if i % 2:
            with crash.books.killing():
                crash.node.kill()
            crash.node.start(ready=False)
            until(lambda: crash.node.log.all(event="root"), what="the first to begin")
            crash.node.wait_ready()
        crash.wait_load(20)
        other.start(ready=False)
        assert other.wait_exit() == TEMPFAIL, other.log.tail()
        assert "queue" in other.log.tail()
        crash.wait_load(20)
        promise.case()
    crash.settle()


def test_a14_of_two_that_start_at_once_one_works(world, promise):
    promise("A14", "a second instance on one queue is refused; the first is undisturbed")
    one = world.node("one", start=False)
    two = world.node("two", start=False, config={"queue": {"path": one.config["queue"]["path"]}})
    for _ in range(size(5, 100)):
        one.start(ready=False)
        two.start(ready=False)
        until(lambda: one.running() != two.running(), what="one of them to give up")
        loser, winner = (two, one) if one.running() else (one, two)
        assert loser.wait_exit() == TEMPFAIL, loser.log.tail()
        winner.wait_ready()
        winner.kill()
        promise.case()


class Counting(Remote):
    """Notes how many connections are open at once, and when messages come."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._count = threading.Lock()
        self.begin()

    def begin(self):
        self.open, self.most, self.times = set(), 0, []

    def _serve(self, session):
        with self._count:
            self.open.add(session)
            self.most = max(self.most, len(self.open))
        try:
            super()._serve(session)
        finally:
            self._gone(session)

    def _do_quit(self, session, line):
        self._gone(session)  # who has read the 221 may come again before this thread goes on
        super()._do_quit(session, line)

    def _gone(self, session):
        with self._count:
            self.open.discard(session)


def most_within(times, seconds):
    """The most events in any span of so many seconds."""
    window, most = collections.deque(), 0
    for at in times:
        window.append(at)
        while window[0] <= at - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


def test_a15_restart_with_much_that_is_due_keeps_each_destinations_limits(world, promise):
    """All of it due at the moment of the start, for a few hosts, each with its limits."""
    promise("A15", "a restart with many due messages keeps each destination's limits and schedule")
    connections, rate = 3, 40
    domains = [f"d{i}.test" for i in range(4)]
    hosts = []
    with world.dns as dns:
        for domain in domains:
            host = world.keep(Counting(world.take(), hostname="mx." + domain))
            host.answer("mail", lambda s, host=host: host.times.append(time.monotonic())
                        or "250 2.1.0 ok")
            dns.mx(domain, host.hostname)
            dns.a(host.hostname, host.address)
            hosts.append(host)
    ledger = Ledger()
    node = world.node(config={
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "shaping": {"default": {"max_rate": f"{rate}/s", "max_connections": connections,
                                "max_messages_per_connection": 10}}})
    node.ctl("suspend", "direct", "--for", "1h")
    Load(node, ledger, limit=size(1500, 20000),
         targets=lambda n: [f"u{n}@{domains[n % 4]}"]).join(size(120, 600))
    for _ in range(size(2, 10)):
        node.kill()
        for host in hosts:
            host.stop()
            host.begin()
            host.start()
        node.start()
        node.ctl("resume", "direct")
        until(lambda: all(len(h.times) > 2 * rate for h in hosts), 30, "the queue to flow")
        node.ctl("suspend", "direct", "--for", "1h")
        for host in hosts:
            assert host.most <= connections, f"{host.most} connections at once"
            # A second's worth may go at once (policy/shape.h).
            assert most_within(host.times, 1.0) <= 2 * rate + 2, "faster than its rate"
        promise.case()


def test_a15_restart_is_quick_and_repeats_nothing_that_is_not_due(world, promise):
    promise("A15", "a restart with many due messages keeps each destination's limits and schedule")
    ledger = Ledger()
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config=LATER)
    Load(node, ledger, limit=size(500, 5000),
         targets=lambda n: [f"u{n}@dest.test"]).join(size(120, 600))
    until(lambda: len(node.queue("--state", "scheduled", "--limit", "100000")) ==
          len(ledger.promised), 60, "every message to be tried once")
    tries = len(mx.commands())
    for _ in range(size(2, 10)):
        node.kill()
        begun = time.monotonic()
        node.start()
        assert time.monotonic() - begun < 2 * PATIENCE
        promise.case()
    assert len(node.queue("--limit", "100000")) == len(ledger.promised)
    assert not [c for c in mx.commands()[tries:] if c.startswith("RCPT")]
