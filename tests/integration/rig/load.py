"""Clients that keep a node busy and write down what it promised.

Load is Python and takes any target; Source and Sink are C (torture/), for many thousand messages a
second with the books of rig.ledger.Books.
"""

import hashlib
import os
import pathlib
import signal
import tempfile
import threading

from rig import mail, smtp
from rig.proc import Process, run
from rig.wait import until

TORTURE = pathlib.Path(__file__).resolve().parents[1] / "torture"


def compiled(name, *options):
    """The program, or with -shared the library, of torture/NAME.c; compiled once, then kept."""
    argv = ["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", *options]
    texts = [str(argv).encode(), *(f.read_bytes() for f in sorted(TORTURE.glob("*.[ch]")))]
    target = pathlib.Path(tempfile.gettempdir(), "relayd-torture",
                          f"{name}-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}")
    if not target.exists():
        target.parent.mkdir(mode=0o755, exist_ok=True)
        new = f"{target}.{os.getpid()}"
        run(*argv, "-o", new, TORTURE / (name + ".c"), "-lpthread", "-ldl")
        os.rename(new, target)
    return target


def started(argv, log):
    """A process that has said that it is ready: it minds signals."""
    log.write_text("")
    process = Process(argv, log)
    until(lambda: "ready" in log.read_text(), what=f"{argv[0]} (log {log})")
    return process


class Sink:
    """torture/sink.c: the hosts of d0.test ... and of src.test, where the reports go."""

    def __init__(self, world, domains=8, faults=0, seed=0):
        """faults: of 1,000 answers of each kind, so many go wrong."""
        self.ledger, self.domains = world.dir / "sink.ledger", domains
        self._log = world.dir / "sink.log"
        addresses = [world.take() for _ in range(domains + 1)]
        with world.dns as dns:
            for name, address in zip([*(f"d{i}.test" for i in range(domains)), "src.test"],
                                     addresses):
                dns.mx(name, "mx." + name)
                dns.a("mx." + name, address)
        self._argv = [compiled("sink"), "-e", seed, "-t", faults, "-l", self.ledger, "25",
                      *addresses]
        self._process = None
        world.keep(self)

    def start(self):
        self._process = started(self._argv, self._log)
        return self

    def behave(self, well=True):
        """No faults from now on (or again); for-good refusals stay."""
        self._process.signal(signal.SIGUSR1 if well else signal.SIGUSR2)

    def stop(self):
        if self._process:
            assert self._process.running(), "the sink has crashed"
            self._process.kill()
            self._process = None

    def logs(self):
        return [self._log]


class Source:
    """torture/source.c: sessions that submit numbered messages until stop()."""

    def __init__(self, world, node, sink, books, sessions=8, rcpts=None, first=0, messages=None):
        """books: where it is written down; first: the number of the first message."""
        self.books = books
        self._log = world.dir / "source.log"
        self._argv = [compiled("source"), "-s", sessions, "-d", sink.domains, "-f", first,
                      "-l", books.source, *(["-r", rcpts] if rcpts else []),
                      *(["-m", messages] if messages else []), node.address, node.port]
        self._process = None
        world.keep(self)

    def start(self):
        self._process = started(self._argv, self._log)
        return self

    def join(self, timeout=60):
        """Until all messages have been sent."""
        assert self._process.wait(timeout) == 0

    def kill(self):
        self._process.kill()
        self._process = None

    def stop(self):
        """Each session ends with the message that it has in hand."""
        if self._process:
            assert self._process.terminate() == 0, self._log.read_text()
            self._process = None

    def logs(self):
        return [self._log]


class Load:
    """`threads` sessions that submit numbered messages until stop(); 250s go into the ledger.

    targets: function n -> recipients. A node that is killed meanwhile is connected to again.
    """

    def __init__(self, node, ledger, threads=4, targets=lambda n: [f"u{n % 50}@dest.test"],
                 size=2000, prefix="load", limit=None):
        self._node, self._ledger, self._targets = node, ledger, targets
        self._body = ("x" * 70 + "\r\n") * (size // 72)
        self._prefix, self._limit = prefix, limit
        self._stop, self._lock, self._n = threading.Event(), threading.Lock(), 0
        self.errors = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _next(self):
        with self._lock:
            if self._limit is not None and self._n >= self._limit:
                return None
            self._n += 1
            return self._n

    def _run(self):
        while not self._stop.is_set():
            try:
                with smtp.Client(self._node.address, self._node.port) as session:
                    session.ehlo()
                    if not self._session(session):
                        return
            except (smtp.Closed, OSError):
                self._stop.wait(0.02)  # down or killed: the next try finds out
            except AssertionError as e:
                self.errors.append(str(e))
                return

    def _session(self, session):
        """Send until told to stop; False when there is nothing left to send."""
        while not self._stop.is_set():
            n = self._next()
            if n is None:
                return False
            name, rcpts = f"{self._prefix}{n}", self._targets(n)
            self._ledger.send(name, rcpts)
            message = mail.message(ident=name, body=self._body)
            session.mail("a@src.test")
            for rcpt in rcpts:
                session.rcpt(rcpt)
            if session.data(message).code == 250:
                self._ledger.promise(name, rcpts)
        return True

    def stop(self):
        self._stop.set()
        self.join()

    def join(self, timeout=120):
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a client hangs"
        assert not self.errors, self.errors[:3]
