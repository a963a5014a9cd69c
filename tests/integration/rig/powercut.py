"""Power cuts: record what a real node does to its disk, rebuild what a cut may leave, judge it.

    node = world.node(start=False, config=...)
    recording = Recording(world, node)
    node.start()
    recording.load(messages)            # what the node acknowledged goes into the ledger
    node.kill()
    result = recording.replay(draws=8)  # result.bad: the states that must not be
    second = recording.leave(state)     # one state on the disk; what the node does on from there
    node.start()

A remote whose 250s may excuse an absent recipient gets `answer("dot", took)`.
"""

import collections
import copy
import itertools
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
import threading

from rig import mail, smtp
from rig.node import BUILD
from rig.preload import library
from rig.wait import PATIENCE

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "torture"
REPLAY_SECONDS = 1500

Message = collections.namedtuple("Message", "sender rcpts data cut")
Message.__doc__ = """cut: the client goes away after so many bytes of it (None: it sends all)."""

Result = collections.namedtuple("Result", "bad states cuts unsynced syncs dsyncs acks taken unknown")


def reported(got):
    """The recipients that a delivery report is about."""
    about = re.findall(rb"^Final-Recipient: rfc822; (\S+)", got.data, re.M)
    return [address.decode() for address in about]


def took(session):
    """A 250 to the dot that says for whom: recipients, or those that a delivery report is about."""
    offer = session.offered
    words = offer.rcpts if offer.sender else ["dsn=" + address for address in reported(offer)]
    return "250 2.0.0 took " + " ".join(words)


def messages(count, rcpts, sender=lambda n: f"s{n}@src.test", seed=0, first=0, big=True):
    """Messages of all the kinds that are stored in different ways. rcpts: n -> recipients."""
    draw = random.Random(seed)
    for n in range(first, first + count):
        kind = draw.random()
        size, cut = draw.randrange(100, 3000), None
        if big and kind < 0.06:
            size = draw.randrange(20_000, 60_000)  # in chunks
        elif kind < 0.14:
            size = draw.randrange(9_000, 18_000)   # about where chunks begin
        elif big and kind < 0.17:
            size = draw.randrange(270_000, 330_000)  # stored while it comes
            cut = draw.choice([None, None, size - 5000])
        body = draw.randbytes(size * 3 // 8).hex(" ", 33).replace(" ", "\r\n") + "\r\n"
        data = mail.message(sender=sender(n), to=rcpts(n)[0], ident=f"m{n}", body=body)
        yield Message(sender(n), rcpts(n), data, cut)


class Recording:
    """Everything that a node (not started yet) does to its queue from its first start on."""

    def __init__(self, world, node, mutant=None):
        self.node = node
        self.log, self.ledger = node.dir / "record.log", node.dir / "promised"
        self.promised = {}  # recipient -> id, message
        self._before = []   # options of replay for a recording that does not begin with nothing
        self._lock = threading.Lock()
        preload = [library(world, "record", SOURCES / "record.c")]
        node.env = {"RECORD_DIR": node.config["queue"]["path"], "RECORD_LOG": str(self.log)}
        if mutant:
            preload.insert(0, library(world, "mutant", SOURCES / "mutant.c"))
            node.env["MUTANT"] = mutant
        node.env["LD_PRELOAD"] = ":".join(map(str, preload))
        self.ledger.touch()

    # -- the client's side

    def load(self, work, threads=4, kill=None):
        """Send the messages; with `kill` the node is killed at about that one and started again."""
        work, failures = _Shared(work), []
        workers = [threading.Thread(target=self._send_all, args=(work, failures))
                   for _ in range(threads)]
        for worker in workers:
            worker.start()
        if kill is not None:
            work.reached(kill).wait(60 * PATIENCE)
            self.node.kill()
            self.node.start()
        for worker in workers:
            worker.join()
        assert not failures, failures[:3]

    def _send_all(self, work, failures):
        try:
            while self._session(work):
                pass
        except Exception as e:  # shown by load()
            failures.append(repr(e))

    def _session(self, work):
        """Send in one session as far as it goes; False when there is nothing left.

        A message that is not answered is not sent again: its recipients stand for one message.
        """
        try:
            with smtp.Client(self.node.address, self.node.port) as session:
                session.ehlo()
                for message in work:
                    if not self._send(session, message):
                        return True  # the client went away, as it should
                return False
        except (smtp.Closed, OSError):
            return True  # killed

    def _send(self, session, message):
        assert session.mail(message.sender).code == 250
        for rcpt in message.rcpts:
            assert session.rcpt(rcpt).code == 250
        if message.cut:
            assert session.cmd("DATA").code == 354
            session.send(message.data[:message.cut])
            return False
        reply = session.data(message.data)
        self._promise(reply.queued_id, message)
        return True

    def _promise(self, ident, message):
        with self._lock:
            self._write(ident, message.rcpts, message.data)
            self.promised.update((rcpt, (ident, message)) for rcpt in message.rcpts)

    def _write(self, ident, rcpts, data):
        with open(self.ledger, "ab") as file:
            file.write(f"{ident} {len(data)} {' '.join(rcpts)}\n".encode() + data)

    # -- the cuts

    def replay(self, draws=8, seed=0, processes=1):
        """Judge every state; those that must not be are in result.bad, each by its name and why."""
        begun = [self._replay("--draws", draws, "--seed", seed, "--share", f"{i}/{processes}")
                 for i in range(processes)]
        bad, sums = [], collections.Counter()
        for process, place in begun:
            out, errors = process.communicate(timeout=REPLAY_SECONDS * PATIENCE)
            shutil.rmtree(place)
            bad += re.findall(r"^BAD (.*)", out, re.M)
            assert process.returncode in (0, 1, 2) and (bad or process.returncode == 0), errors
            for name, number in re.findall(r"(\w+)=(\d+)", out.splitlines()[-1]):
                # What is done in shares adds up, the recording is the same for all.
                sums[name] = sums[name] + int(number) if name == "states" else int(number)
        assert not sums["failed"], "a write or sync failed while this was recorded"
        return Result(bad, *(sums[name] for name in Result._fields[1:]))

    def unsynced(self):
        """The cuts where the disk may be in more than one state."""
        process, place = self._replay("--list")
        out, errors = process.communicate(timeout=120 * PATIENCE)
        shutil.rmtree(place)
        assert process.returncode == 0, errors
        return [int(n) for n in re.findall(r"^CUT (\d+)", out, re.M)]

    def leave(self, state):
        """Make the node's queue this state ("CUT.random.SEED"); a recording of what comes then.

        Its `promised` are the recipients that are still owed a delivery.
        """
        queue = self.node.config["queue"]["path"]
        shutil.rmtree(queue)
        os.mkdir(queue, mode=0o700)
        process, _ = self._replay("--only", state, place=queue)
        out, errors = process.communicate(timeout=60 * PATIENCE)
        assert process.returncode == 0, f"{out}{errors}"
        second = copy.copy(self)
        second.log, second.ledger = (p.with_name(f"{p.name}-{state}") for p in
                                     (self.log, self.ledger))
        second.ledger.touch()
        second.promised = {rcpt: self.promised[rcpt]
                           for rcpt in re.findall(r"^OWED (\S+)", out, re.M)}
        by_message = collections.defaultdict(list)
        for rcpt, (ident, message) in second.promised.items():
            by_message[ident, message.data].append(rcpt)
        for (ident, data), rcpts in by_message.items():
            second._write(ident, rcpts, data)
        second._before = ["--acked"]
        self.node.env["RECORD_LOG"] = str(second.log)
        return second

    def _replay(self, *arguments, place=None):
        program = BUILD / "tests" / "replay"
        assert program.exists(), f"{program} is not built (RELAYD_BUILD_DIR says where to look)"
        place = place or tempfile.mkdtemp(prefix="rd-replay-", dir="/dev/shm")
        argv = [program, *self._before, *arguments, self.log, self.ledger, place]
        return subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True), place


class _Shared:
    """An iterator for several threads that can tell when it has come to an item."""

    def __init__(self, items):
        self._items, self._lock = iter(items), threading.Lock()
        self._count, self._marks = itertools.count(1), {}

    def reached(self, number):
        with self._lock:
            return self._marks.setdefault(number, threading.Event())

    def __iter__(self):
        return self

    def __next__(self):
        with self._lock:
            number = next(self._count)
            mark = self._marks.setdefault(number, threading.Event())
            mark.set()
            return next(self._items)
