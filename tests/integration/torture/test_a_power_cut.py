"""The power fails at every instant that matters: what was acknowledged is still there.

A recorder under the real daemon notes every write to the queue's files, every sync, every 250. From
that the disk is rebuilt as it may be after a cut at each sync, each O_DSYNC write and each
acknowledgement, with the sectors that were not synced there, gone, or mixed; then the queue is
opened and judged. See replay.c, and replay_oracle.h for what is allowed.
"""

import random
import re

import pytest

from rig.node import sanitized
from rig.powercut import Recording, messages, reported, took
from rig.promise import size

pytestmark = pytest.mark.torture

LATER = {"queue": {"retry": {"intervals": ["1h"]}}}
SOON = {"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "shaping": {"default": {"max_rate": "none"}}}
REAL_STARTS = size(1, 4)  # states of each recording that the real daemon starts on
THREADS = (4, 1, 8, 2)    # clients: many make large transactions, one makes many


@pytest.fixture(autouse=True)
def preloadable():
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")


def judge(promise, result, least):
    """Nothing that must not be; and the recording was of something."""
    promise.case(result.states)
    assert not result.bad, f"{len(result.bad)} or more: " + "; ".join(result.bad[:5])
    assert result.acks >= least and result.dsyncs > least / 8, result
    assert result.unknown <= max(THREADS), f"recorded, but the clients know nothing of it: {result}"
    assert result.states > result.cuts, result


def start_on_some(promise, recording, seed, arrived):
    """The real daemon starts on a few of the states and sends everything that is owed; and the
    power is cut again while it does.

    arrived: what has come since, recipient -> bytes, or None for one who was reported as failed.
    """
    node, draw = recording.node, random.Random(seed)
    cuts = recording.unsynced()
    for _ in range(REAL_STARTS):
        state = f"{draw.choice(cuts)}.random.{draw.getrandbits(63)}"
        second = recording.leave(state)
        arrived.clear()
        node.start()
        assert node.ctl("verify", check=False).returncode == 0, state
        for domain in {rcpt.split("@")[1] for rcpt in second.promised}:
            node.ctl("queue", "retry", "--domain", domain, check=False)
        node.wait_empty()
        node.stop()
        for rcpt, (_, message) in second.promised.items():
            assert rcpt in arrived, f"{state}: {rcpt} was acknowledged and does not arrive"
            came = arrived[rcpt]
            assert came is None or came.endswith(message.data), f"{state}: {rcpt} is another one"
        result = second.replay(draws=1, seed=seed)
        assert not result.bad, f"after {state}: " + "; ".join(result.bad[:5])
        promise.case(result.states)


# -- A05, A07: messages come in, and their next host defers them


def record_intake(world, mutant=None, count=60, seed=0, kill=None):
    node = world.node(f"cn{seed}", start=False, config=LATER)
    recording = Recording(world, node, mutant)
    node.start()
    work = messages(count, lambda n: [f"r{n}-{k}@later.test" for k in range(1 + n % 3)], seed=seed)
    recording.load(work, threads=THREADS[seed % len(THREADS)], kill=kill)
    node.kill()
    return recording


@pytest.fixture
def later(world):
    mx = world.mx("later.test")
    mx.answer("dot", took)
    mx.answer("rcpt", "451 4.3.0 later")
    return mx


def test_a05_power_cut_loses_nothing_acknowledged(world, later, promise):
    promise("A05", "a power cut at any sync, O_DSYNC write or 250 loses nothing acknowledged")
    arrived = {}
    later.on_mail = lambda got: arrived.update((rcpt, got.data) for rcpt in got.rcpts)
    for seed in range(size(1, 14)):
        recording = record_intake(world, count=size(60, 150), seed=seed, kill=size(30, 75))
        judge(promise, recording.replay(draws=size(4, 20), seed=seed), least=size(40, 100))
        later.answer("rcpt", "250 2.1.5 ok")
        start_on_some(promise, recording, seed, arrived)
        later.answer("rcpt", "451 4.3.0 later")


@pytest.mark.parametrize("mutant, harm", [
    ("early", "was acknowledged and is lost"),          # the 250 comes before the commit
    ("nometasync", "was acknowledged and is lost"),     # LMDB does not sync its meta page
    ("nosync", "is lost|does not open|verify|signal"),  # LMDB syncs nothing: anything may be left
], ids=["early", "nometasync", "nosync"])
def test_a07_power_cut_test_catches_a_queue_that_is_not_durable(world, later, promise, mutant,
                                                                 harm):
    """Each of these must lose something, or A05 proves nothing."""
    promise("A07", f"the power cut test catches a queue that is not durable: {mutant}")
    recording = record_intake(world, mutant, count=20)
    result = recording.replay(draws=1)
    assert any(re.search(harm, bad) for bad in result.bad), result
    promise.case(len(result.bad))


# -- A06: the same while they are delivered, deferred and reported as failed


class Hosts:
    """Next hosts that say in their 250 for whom it is, and refuse some for good or for a time."""

    def __init__(self, world, silent=()):
        """silent: those whose 250 says nothing, so that nobody knows who has the message."""
        self.arrived, self._deferred = {}, set()
        for domain in ("one.test", "two.test", "dead.test", "src.test"):
            mx = world.mx(domain)
            if domain == "dead.test":
                mx.answer("dot", "554 5.6.0 not that")
            elif domain not in silent:
                mx.answer("dot", took)
            mx.answer("rcpt", "550 5.1.1 no such user", match="<bad")
            mx.answer("rcpt", self._once_deferred, match="<slow")
            mx.on_mail = self._arrive

    def _once_deferred(self, session):
        command = session.commands[-1]
        if command in self._deferred:
            return "250 2.1.5 ok"
        self._deferred.add(command)
        return "451 4.2.1 later"

    def _arrive(self, got):
        if got.sender:
            self.arrived.update((rcpt, got.data) for rcpt in got.rcpts)
        else:
            self.arrived.update((rcpt, None) for rcpt in reported(got))


def rcpts_of(n):
    draw = random.Random(n)
    kinds = draw.choices(["good", "good", "slow", "bad"], k=draw.randrange(1, 5))
    domains = draw.choices(["one.test", "two.test", "dead.test"], [4, 4, 1], k=len(kinds))
    return [f"{kind}-{n}-{i}@{domain}" for i, (kind, domain) in enumerate(zip(kinds, domains))]


def record_delivery(world, count, seed=0, kill=None):
    node = world.node(f"cn{seed}", start=False, config=SOON)
    recording = Recording(world, node)
    node.start()
    recording.load(messages(count, rcpts_of, seed=seed, first=seed * count),
                   threads=THREADS[seed % len(THREADS)], kill=kill)
    node.wait_empty()
    node.stop()
    return recording


def test_a06_power_cut_while_delivering_loses_nothing(world, promise):
    promise("A06", "after a power cut a recipient is gone only if its next host has it, or its "
                   "sender's report is safe")
    hosts = Hosts(world)
    for seed in range(size(1, 10)):
        count = size(60, 200)
        recording = record_delivery(world, count, seed, kill=count // 2)
        result = recording.replay(draws=size(2, 8), seed=seed)
        judge(promise, result, least=count * 2 // 3)
        assert result.taken >= count * 2 // 3, result
        assert any(data is None for data in hosts.arrived.values()), "nothing was reported"
        start_on_some(promise, recording, seed, hosts.arrived)


@pytest.mark.parametrize("silent", ["one.test", "src.test"], ids=["delivery", "report"])
def test_a07_power_cut_test_catches_a_recipient_gone_without_proof(world, promise, silent):
    """One whose next host, or his sender's, is not known to have it, counts as lost."""
    promise("A07", f"the power cut test catches a recipient that is gone without a {silent} 250")
    Hosts(world, silent=[silent])
    result = record_delivery(world, count=15).replay(draws=0)
    assert any("was acknowledged and is lost" in bad for bad in result.bad), result
    promise.case(len(result.bad))
