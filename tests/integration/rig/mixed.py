"""Traffic of every kind: delivered, deferred once, bounced, small and large; with its books."""

import re
import threading

from rig import mail, smtp
from rig.ledger import Ledger
from rig.wait import until

_OURS = re.compile(rb"<((?:mix)[\w-]+)@src\.test>")
_KINDS = ("taken", "later", "gone")
BIG = 300_000  # bytes of a body that is stored while it is received

QUICK = {"queue": {"retry": {"intervals": ["200ms"], "jitter": "0%"}},
         "shaping": {"default": {"max_rate": "none"}}}


def _rcpt(name):
    return f"{name}@{_KINDS[int(name.rpartition('-')[2]) % len(_KINDS)]}.test"


class Mixed:
    """Clients of one node. Message n goes by n to a host that takes it, one that defers each
    recipient once, and one that refuses all: then its sender must get the notice. Every
    BIG_EVERY-th is large."""

    BIG_EVERY = 23

    def __init__(self, world, node, threads=3):
        self.node, self._n_threads = node, threads
        self.ledger, self.refusals = Ledger(), {}
        self._serial, self._round = 0, 0
        self._lock = threading.Lock()
        self._seen = set()
        self._stop = threading.Event()
        self._threads, self.errors = [], []
        self.hosts = {d: world.mx(f"{d}.test") for d in (*_KINDS, "src")}
        for domain in ("taken", "later"):
            self.hosts[domain].on_mail = lambda got: self.ledger.arrive(got.data, got.rcpts)
        self.hosts["later"].answer("rcpt", self._later)
        self.hosts["gone"].answer("rcpt", "550 5.1.1 no such user")
        self.hosts["src"].on_mail = self._notice

    def _later(self, session):
        with self._lock:
            first = session.commands[-1] not in self._seen
            self._seen.add(session.commands[-1])
        return "451 4.3.0 not now" if first else "250 2.1.5 ok"

    def _notice(self, got):
        for name in set(_OURS.findall(got.data)):
            self.ledger.arrive(b"Message-ID: <" + name + b"@src.test>", [_rcpt(name.decode())])

    def begin(self, limit=None):
        """A new round with new books; at most `limit` messages."""
        self._round += 1
        self.ledger, self.refusals = Ledger(), {}
        self._stop.clear()
        self._left = limit
        self._threads = [threading.Thread(target=self._run, daemon=True)
                         for _ in range(self._n_threads)]
        for thread in self._threads:
            thread.start()

    def _next(self):
        with self._lock:
            if self._left is not None:
                if self._left == 0:
                    return None
                self._left -= 1
            self._serial += 1
            return self._serial

    def _run(self):
        while not self._stop.is_set():
            try:
                with smtp.Client(self.node.address, self.node.port) as session:
                    session.ehlo()
                    if not self._session(session):
                        return
            except (smtp.Closed, OSError):
                self._stop.wait(0.02)  # stopped, or not up again: the next try finds out
            except AssertionError as e:
                self.errors.append(str(e))
                return

    def _session(self, session):
        while not self._stop.is_set():
            n = self._next()
            if n is None:
                return False
            name = f"mix{self._round}-{n}"
            rcpt = _rcpt(name)
            body = ("x" * 70 + "\r\n") * ((BIG if n % self.BIG_EVERY == 0 else 1000) // 72)
            self.ledger.send(name, [rcpt])
            reply = session.mail("a@src.test")
            if reply.code == 250:
                session.rcpt(rcpt)
                reply = session.data(mail.message(ident=name, body=body))
            if reply.code == 250:
                assert reply.queued_id
                self.ledger.promise(name, [rcpt])
            else:
                with self._lock:
                    text = f"{reply.code} {reply.text.split(' ')[0]}"
                    self.refusals[text] = self.refusals.get(text, 0) + 1
                self._stop.wait(0.01)
        return True

    def promised(self):
        return len(self.ledger.promised)

    def going(self):
        """Still sending?"""
        return any(thread.is_alive() for thread in self._threads)

    def end(self):
        """No more new mail."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        assert not self.errors, self.errors[:3]

    def settle(self, duplicates=0, timeout=30):
        """Everything acknowledged arrives, or its sender is told."""
        until(lambda: not self.ledger.missing(), timeout, "the delivery of everything promised")
        self.ledger.check(duplicates)
