"""What was promised and what came: the books of the crash tests.

A promise is a 250 to the final dot. Every promised (message, recipient) must arrive; a second
copy must be explained; what was never promised may arrive (the 250 was lost on its way) but only
if it was sent.
"""

import collections
import re
import threading

_IDENT = re.compile(rb"^Message-ID: <([^@>]+)@", re.M | re.I)


def ident(data):
    """The id that rig.mail.message() put into a message."""
    match = _IDENT.search(data)
    return match.group(1).decode() if match else None


class Ledger:
    def __init__(self):
        self._lock = threading.Lock()
        self.sent, self.promised = set(), set()
        self.arrived = collections.Counter()

    def send(self, name, rcpts):
        with self._lock:
            self.sent.update((name, r) for r in rcpts)

    def promise(self, name, rcpts):
        with self._lock:
            self.promised.update((name, r) for r in rcpts)

    def arrive(self, data, rcpts):
        name = ident(data)
        assert name, f"a message without id arrived: {data[:200]!r}"
        with self._lock:
            self.arrived.update((name, r) for r in rcpts)

    def missing(self):
        return self.promised - set(self.arrived)

    def phantoms(self):
        return set(self.arrived) - self.sent

    def duplicates(self):
        return {pair: n for pair, n in self.arrived.items() if n > 1}

    def check(self, duplicates=0):
        """Nothing lost, nothing invented, at most so many extra copies."""
        missing = self.missing()
        assert not missing, f"{len(missing)} acknowledged and lost, as {sorted(missing)[:3]}"
        assert not self.phantoms(), f"never sent: {sorted(self.phantoms())[:3]}"
        extra = sum(n - 1 for n in self.duplicates().values())
        assert extra <= duplicates, (
            f"{extra} extra copies, explained are {duplicates}: {list(self.duplicates())[:3]}")
