"""A relay under load with hosts that misbehave, its kills, and its books.

    crash = Crash(world, faults=20)
    crash.kill(); ...                    # at a random instant, and up again
    crash.kill_at("commit: returned", 3) # at the third time that it comes there; it is down then
    pairs = crash.settle()               # everything promised has come, and how often
"""

import ctypes
import random
import signal
import time

from rig.ledger import Books, Pulse
from rig.load import Sink, Source, compiled
from rig.wait import until

# The load is as fast as the machine: neither the rate of a site nor the log may hold it up.
CONFIG = {"queue": {"retry": {"intervals": ["1s", "2s"], "jitter": "0%"}, "warn_after": []},
          "shaping": {"default": {"max_rate": "none", "max_connections": 20}},
          "log": {"level": "warn"}}
# Whatever else the machine does: how soon an outcome is committed is a matter of moments.
NICE = -15
ORDERLY = (signal.SIGTERM, signal.SIGINT)


class Crash:
    def __init__(self, world, faults=0, seed=0, node=None, rcpts=None, sessions=8, messages=None):
        """faults: see Sink; seed: of the kills and the faults; node: one that has been started;
        messages: how many there are in all."""
        self.random, self.seed, self.world = random.Random(seed), seed, world
        self.sink = Sink(world, faults=faults, seed=seed).start()
        self.node = node or world.node(config=CONFIG, start=False)
        self.node.nice = NICE
        if not node:
            self.node.start()
        self._sessions, self._rcpts, self._messages = sessions, rcpts, messages
        self.kills = self.unconfirmed = 0
        self._notes = world.dir / "kills"
        self._pulse = world.keep(Pulse(world.dir / "pulse", self.node))
        self.source = None
        self.load()

    def load(self):
        """Begin the load (again), with new books."""
        first = self._next()
        self.sink.behave(False)
        books = Books(self.world.dir / "source.ledger", self.sink.ledger, self._pulse, first)
        self.source = Source(self.world, self.node, self.sink, books, self._sessions, self._rcpts,
                             first, self._messages).start()

    def source_again(self):
        """The load goes on after its program was killed, in the same books."""
        self.books.read()
        self.source = Source(self.world, self.node, self.sink, self.books, self._sessions,
                             self._rcpts, self._next()).start()

    def _next(self):
        """A number that no message had."""
        if self.source is None:
            return 0
        return max(self.books.read().sent, default=0) + 1 + self._sessions

    @property
    def books(self):
        return self.source.books

    def wait_load(self, messages):
        """So many more have been promised."""
        before = len(self.books.read().promised)
        until(lambda: len(self.books.read().promised) >= before + messages, 30,
              f"{messages} messages to be taken")

    def wait_promised(self, messages):
        """So many have been promised in these books."""
        until(lambda: len(self.books.read().promised) >= messages, 120,
              f"{messages} messages to be taken")

    # -- kills

    def kill(self, number=signal.SIGKILL, node=None, least=0.05, most=0.8):
        """At a random instant after it is ready; then start it again."""
        node = node or self.node
        time.sleep(self.random.uniform(least, most))  # the instant is what is random here
        if number in ORDERLY:
            node.send_signal(number)
            assert node.wait_exit(35) == 0, self.told(number)
        else:
            with self.books.killing():
                node.kill(number)
        self.kills += 1
        node.start()

    def kill_at(self, point, n=1, number=signal.SIGKILL):
        """Start it anew, to be killed when it comes to the point for the n-th time; it is down."""
        if self.node.running():
            self.node.stop()
        self.arm(point, n, number)
        self.node.start(ready=False)
        code = self.node.wait_exit(30)
        self.node.env = {}
        # Before it is ready there is nothing to bring in order: it may just end.
        orderly = number in ORDERLY and (code == 0 or self.node.said_ready())
        assert code == (0 if orderly else -number), (
            f"{self.told(number)}: {point}, time {n}: exit {code}\n{self.node.log.tail(5)}")
        self.read_notes(orderly)

    def arm(self, point, n=1, number=signal.SIGKILL):
        """The next start will be killed there."""
        library = compiled("points", "-shared", "-fPIC", "-llmdb")
        self.node.env = {"LD_PRELOAD": str(library),
                         "RELAYD_POINT": f"{point}|{n}|{int(number)}|{self._notes}"}

    def read_notes(self, orderly=False):
        """The kill that a point was: once, and at which moment; an orderly stop explains no copy."""
        moments = self._notes.read_text().split()
        self._notes.unlink()
        assert len(moments) == 1
        if not orderly:
            self.books.killed(int(moments[0]))
        self.kills += 1

    def told(self, number=signal.SIGKILL):
        return f"seed {self.seed}, kill {self.kills + 1} ({signal.Signals(number).name})"

    # -- the end

    def settle(self, go_on=False, timeout=60):
        """Stop the load, let everything arrive, balance the books; the acknowledged pairs.

        go_on: with new books and load again, so that a long run needs no more than a part of it.
        """
        if not self.node.running():
            self.node.start()
        self.source.stop()
        self.sink.behave()
        try:
            until(lambda: not self.books.missing(), timeout)
        except AssertionError:
            pass  # the balance tells what is missing
        try:
            pairs = self.books.balance()
            self.node.wait_empty(timeout)
            self.books.balance()  # what came while the rest went
        except AssertionError as e:
            raise AssertionError(f"seed {self.seed}, {self.kills} kills: {e}") from e
        assert self.node.ctl("verify").returncode == 0
        # A kill from outside is evidence against nobody.
        assert not self.node.log.all(alert="poison")
        self.unconfirmed += self.books.unconfirmed
        if go_on:
            self.node.log.forget()
            self.load()
        return pairs


class _Stat(ctypes.Structure):
    _fields_ = [("page", ctypes.c_uint), ("depth", ctypes.c_uint), ("branch", ctypes.c_size_t),
                ("leaf", ctypes.c_size_t), ("overflow", ctypes.c_size_t),
                ("entries", ctypes.c_size_t)]


class Lmdb:
    """The queue of a running daemon, looked at from beside it, read only."""

    RDONLY = 0x20000
    TABLES = 16

    def __init__(self, queue):
        self._lib, self._env = ctypes.CDLL("liblmdb.so.0"), ctypes.c_void_p()
        self._call("env_create", ctypes.byref(self._env))
        self._call("env_set_maxdbs", self._env, self.TABLES)
        self._call("env_open", self._env, str(queue).encode(), self.RDONLY, 0o600)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lib.mdb_env_close(self._env)

    def _call(self, name, *arguments):
        code = getattr(self._lib, "mdb_" + name)(*arguments)
        assert code >= 0 and (code == 0 or name == "reader_list"), f"mdb_{name}: {code}"

    def readers(self):
        """(process ids in the table of readers, how many of them are dead)."""
        lines, dead = [], ctypes.c_int()
        called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

        def row(text, _):
            lines.append(text.decode())
            return 0

        self._call("reader_list", self._env, called(row), None)
        self._call("reader_check", self._env, ctypes.byref(dead))
        words = [line.split() for line in lines]
        return {int(w[0]) for w in words if w and w[0].isdigit()}, dead.value

    def table_bytes(self, name):
        """The pages of a table."""
        txn, table, stat = ctypes.c_void_p(), ctypes.c_uint(), _Stat()
        self._call("txn_begin", self._env, None, self.RDONLY, ctypes.byref(txn))
        try:
            self._call("dbi_open", txn, name.encode(), 0, ctypes.byref(table))
            self._call("stat", txn, table, ctypes.byref(stat))
        finally:
            self._lib.mdb_txn_abort(txn)
        return stat.page * (stat.branch + stat.leaf + stat.overflow)
