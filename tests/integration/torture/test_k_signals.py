"""Signals in every state: what stops relayd stops it in order, what does not is no harm."""

import pathlib
import random
import re
import signal
import threading
import time

import pytest

from rig import mail
from rig.node import sanitized
from rig.preload import library
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture

STOP = [signal.SIGTERM, signal.SIGINT]
HARMLESS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGCHLD]
PATIENT = {"queue": {"retry": {"intervals": ["1h"], "jitter": "0%"}}}
SLOW_SYNC = pathlib.Path(__file__).parents[2] / "bench" / "slow_sync.c"


def names(signals):
    return [s.name for s in signals]


def has_begun(node):
    """main() has taken the signals into its hands: the linker's work is over."""
    try:
        status = pathlib.Path(f"/proc/{node.pid}/status").read_text()
    except OSError:
        return False
    blocked = int(re.search(r"^SigBlk:\s*(\w+)", status, re.M).group(1), 16)
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.M).group(1), 16)
    return bool((blocked | caught) >> (signal.SIGHUP - 1) & 1)


@pytest.fixture
def backlog(world):
    """A stopped node whose queue has to be recovered, and the host that will take the mail."""
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config=PATIENT)
    rcpts = [f"u{i}@dest.test" for i in range(size(200, 900))]
    for i in range(size(1, 100)):
        node.submit("a@src.test", rcpts, mail.message())
    node.rcpts = len(rcpts) * size(1, 100)
    node.kill()
    return node, mx


@pytest.mark.parametrize("number", STOP + HARMLESS, ids=names(STOP + HARMLESS))
def test_k05_signal_during_start_and_recovery(backlog, promise, number):
    promise("K05", "a signal at any moment of start and recovery: an orderly end, or none")
    node, mx = backlog
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for i in range(size(3, 60)):
        node.start(ready=False)
        until(lambda: has_begun(node), what="main()", every=0.0005)
        time.sleep(rng.uniform(0, 0.03))  # the instant is what is random here
        node.send_signal(number)
        if number in STOP:
            assert node.wait_exit() == 0, f"seed {seed} case {i}"
        else:
            node.wait_ready()
            node.kill()
        promise.case()
    node.start()
    assert len(node.queue("--limit", "1000000")) == node.rcpts


class State:
    """A node with a session, a message in DATA, one in a slow commit and one at a remote's dot."""

    def __init__(self, world):
        slow_sync = library(world, "slow_sync", SLOW_SYNC)
        self.gate, self.mx, self.other = threading.Event(), world.mx("dest.test"), \
            world.mx("other.test")
        self.mx.answer("dot", lambda session: self.gate.wait(20) and "250 2.0.0 taken", times=1)
        self.node = world.node(start=False, config=PATIENT)
        if not sanitized():  # a sanitizer wants to be the first library
            self.node.env = {"LD_PRELOAD": str(slow_sync), "SLOW_SYNC_MS": "150"}
        self.node.start("--drain", "20s")
        self.node.submit("a@src.test", "held@dest.test", mail.message())
        self.mx.wait_command("^DATA")
        self.idle, self.in_data, self.committing = (self.node.client() for _ in range(3))
        for session in (self.idle, self.in_data, self.committing):
            session.ehlo()
        for session in (self.in_data, self.committing):
            session.mail("a@src.test")
            session.rcpt("x@other.test")
            assert session.cmd("DATA").code == 354
        self.in_data.send(mail.message(ident="in-data"))
        self.committing.send(mail.message(ident="committing") + b".\r\n")

    def finish(self):
        """Messages that were begun are taken, and each arrives once."""
        assert self.committing.reply().code == 250
        self.in_data.send(b".\r\n")
        assert self.in_data.reply().code == 250

    def settle(self):
        until(lambda: len(self.mx.mails) == 1 and len(self.other.mails) >= 2, what="the mail")
        self.node.wait_empty()
        assert len(self.other.mails) == 2 and len(self.mx.mails) == 1, "a copy"


def test_k05_harmless_signals_in_every_state(world, promise):
    promise("K05", "HUP, USR1, USR2, PIPE, CHLD in DATA, commit, delivery and drain do no harm")
    state = State(world)
    for number in HARMLESS:
        for _ in range(size(3, 100)):
            state.node.send_signal(number)
            promise.case()
    assert state.idle.cmd("NOOP").code == 250
    for number in HARMLESS:
        state.node.send_signal(number)
    state.finish()
    state.idle.quit()
    state.node.send_signal(signal.SIGTERM)
    state.node.log.wait(event="stopping")
    for number in HARMLESS:
        state.node.send_signal(number)
        promise.case()
    assert state.node.running()
    state.gate.set()
    assert state.node.wait_exit() == 0
    state.node.start()
    state.settle()


@pytest.mark.parametrize("number", STOP, ids=names(STOP))
def test_k05_one_stop_in_every_state(world, promise, number):
    promise("K05", "TERM and INT: what is under way is finished, exit 0, nothing twice")
    state = State(world)
    state.node.send_signal(number)
    assert state.idle.reply().code == 421
    state.finish()
    state.gate.set()
    assert state.node.wait_exit() == 0
    state.node.start()
    state.settle()
    promise.case(4)


@pytest.mark.parametrize("n", size([3], [2, 3, 10]))
def test_k05_many_stops_at_once_lose_nothing(world, promise, n):
    promise("K05", "TERM again and again: an end at once, in order, with what was promised kept")
    state = State(world)
    assert state.committing.reply().code == 250
    state.gate.set()
    # The 250 has been read when the remote hears the next command; its commit takes 150 ms more.
    state.mx.wait_mail()
    for i in range(n):
        state.node.send_signal((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3])
        promise.case()
    assert state.node.wait_exit() == 0
    state.node.start()
    until(lambda: len(state.other.mails) >= 1 and len(state.mx.mails) >= 1, what="the mail")
    state.node.wait_empty()
    # RFC 1047: when TERM came before the 250 was read, a copy is made.
    assert len(state.other.mails) <= 2 and len(state.mx.mails) <= 2
    assert "committing" in str(state.other.mails[0].data)


def test_k05_third_stop_does_not_cut_off_the_last_commits(world, promise):
    """After the loop has ended outcomes are still being committed."""
    promise("K05", "a third TERM does not cut off the commits of the end")
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    mx = world.mx("dest.test")
    node = world.node(start=False, config=PATIENT)
    slow_sync = library(world, "slow_sync", SLOW_SYNC)
    node.env = {"LD_PRELOAD": str(slow_sync), "SLOW_SYNC_MS": "400"}
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    quits = mx.wait_mail()
    node.log.wait(event="attempt", outcome="delivered")
    for _ in range(3):
        if node.running():
            node.send_signal(signal.SIGTERM)
        promise.case()
    stop = time.monotonic() + 3
    while node.running() and time.monotonic() < stop:
        try:
            node.send_signal(signal.SIGTERM)
        except OSError:
            break
        time.sleep(0.01)  # a stop every 10 ms while it ends
    assert node.wait_exit() == 0
    node.env = {}
    node.start()
    node.wait_empty()
    assert len(mx.mails) == 1 and quits, "delivered again: its commit was cut off"
