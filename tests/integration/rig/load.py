"""Clients that keep a node busy and write down what it promised."""

import threading

from rig import mail, smtp


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
