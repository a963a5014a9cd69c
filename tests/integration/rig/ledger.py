"""What was promised and what came: the books of the crash tests.

A promise is a 250 to the final dot. Every promised (message, recipient) must arrive; a second
copy must be explained; what was never promised may arrive (the 250 was lost on its way) but only
if it was sent.
"""

import bisect
import collections
import contextlib
import os
import re
import threading
import time

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


# A copy is explained when its 250 came so shortly before a kill (RFC 1047), on a machine that serves
# nobody else: what the node waited for a processor or the disk comes on top. An outcome waits for the
# commit before its own, and each of them writes and syncs its pages and then a meta page.
WINDOW_MS = 100
SYNCS = 4
PULSE_MS = 25
NEAR_NS = 500_000_000  # a machine that is short of everything keeps the pulse waiting, too


class Pulse(threading.Thread):
    """How long the machine keeps a node waiting, looked at again and again: for a small write and
    its sync, and for a processor (the run delays of its threads, proc(5))."""

    def __init__(self, path, node):
        super().__init__(daemon=True)
        self._path, self._node, self._ended = path, node, threading.Event()
        self._syncs = []   # (begun, ended)
        self._delays = []  # (when, process id, ns that its threads have waited until then)
        self.start()

    def run(self):
        fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        while not self._ended.wait(PULSE_MS / 1000):
            begun = time.monotonic_ns()
            os.pwrite(fd, b"pulse", 0)
            os.fdatasync(fd)
            now = time.monotonic_ns()
            self._syncs.append((begun, now))
            pid, waited = self._waited()
            if waited:
                self._delays.append((now, pid, waited))
        os.close(fd)

    def _waited(self):
        waited = 0
        try:
            pid = self._node.pid
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    waited += int(f.read().split()[1])
        except (OSError, AttributeError, ValueError, IndexError):
            return None, 0  # it is being started, or was killed while we looked
        return pid, waited

    def stop(self):
        self._ended.set()
        self.join()

    def logs(self):
        return []

    def waited_ns(self, since, until):
        """What a commit that was due between these moments of CLOCK_MONOTONIC may have waited."""
        since, until = since - NEAR_NS, until + NEAR_NS
        return SYNCS * self._slowest_sync(since, until) + self._delay(since, until)

    def _slowest_sync(self, since, until):
        """The longest that touches this time."""
        at = bisect.bisect_left(self._syncs, (since - 5_000_000_000,))
        return max((ended - begun for begun, ended in self._syncs[at:at + 1000]
                    if begun <= until and ended >= since), default=0)

    def _delay(self, since, until):
        at = bisect.bisect_left(self._delays, (since,))
        seen = collections.defaultdict(list)
        for when, pid, waited in self._delays[at:at + 1000]:
            if when <= until:
                seen[pid].append(waited)
        return max((max(w) - min(w) for w in seen.values()), default=0)


def refused(n, r):
    """True when the sink never takes recipient r of message n (torture/torture.h)."""
    return n % 67 == 5 or (n * 31 + r) % 61 == 7


class Books:
    """The books of torture/source.c and sink.c: what was promised, what came, and every kill.

    For each acknowledged (message, recipient) exactly one of these: taken by its host, or, when that
    refuses it for good, one report of it to the sender. A further one of either is explained only by
    a kill: the 250 to the one before came at most WINDOW_MS earlier, or could not be read any more.
    """

    def __init__(self, source, sink, pulse, first=0):
        """Paths of the two ledgers; first: the first number, if earlier books have been closed."""
        self.source, self._pulse = source, pulse
        self._files = {path: [path.stat().st_size if first else 0, b""] for path in (source, sink)}
        self._first = first
        self.sent, self.promised, self.refused = {}, {}, collections.Counter()
        self.came = collections.defaultdict(list)  # (n, r) -> [(ns, opened ns, "A" or "B")]
        self.unconfirmed = 0
        self.kills, self.wrong = [], []  # kills: (not before, not after)
        self.windows = []  # ms between the 250 of a copy and the kill
        self._open = set()

    # -- keeping the books

    def killed(self, ns):
        """Note a kill at that time of CLOCK_MONOTONIC."""
        self.kills.append((ns, ns))

    @contextlib.contextmanager
    def killing(self):
        """Note a kill that happens within: between our clock and the signal others may run."""
        begun = time.monotonic_ns()
        yield
        self.kills.append((begun, time.monotonic_ns()))

    def read(self):
        for path, state in self._files.items():
            try:
                with open(path, "rb") as f:
                    f.seek(state[0])
                    new = f.read()
            except FileNotFoundError:
                continue
            state[0] += len(new)
            *lines, state[1] = (state[1] + new).split(b"\n")
            for line in lines:
                self._line(line.decode("ascii", "replace").split(" "))
        return self

    def _line(self, words):
        kind = words[0]
        if kind == "?":
            self.wrong.append("not ours: " + " ".join(words[1:]))
            return
        n = int(words[1])
        if n < self._first:
            self.wrong.append("after its books were closed: " + " ".join(words))
            return
        if kind == "S":
            self.sent[n] = int(words[2])
        elif kind == "P":
            self.promised[n] = self.sent[n]
            self._open.update((n, r) for r in range(self.sent[n]) if (n, r) not in self.came)
        elif kind == "R":
            self.refused[words[2]] += 1
        else:
            self._came(kind, n, *words[2:])

    def _came(self, kind, n, r, how, good, at, opened):
        pair = (n, int(r))
        if good != "1":
            self.wrong.append(f"{pair} came corrupted")
        if (kind == "B") != refused(*pair):
            self.wrong.append(f"{pair} came as {kind}")
        if how == "C":
            self.came[pair].append((int(at), int(opened), kind))
            self._open.discard(pair)
        else:
            self.unconfirmed += 1

    # -- balancing them

    def missing(self):
        """Pairs that were promised and have not come."""
        self.read()
        return self._open

    def _phantoms(self):
        return [p for p in self.came if p[1] >= self.sent.get(p[0], 0)]

    def _explained(self, earlier, later):
        for begun, ended in self.kills:
            kill = max(begun, earlier[1])
            if kill <= min(ended, later[0]):
                window = kill - earlier[0]
                if window <= WINDOW_MS * 1_000_000 + self._pulse.waited_ns(earlier[0], kill):
                    self.windows.append(window / 1e6)
                    return True
        return False

    def balance(self):
        """0 lost, 0 corrupted, 0 invented, and no copy that no kill explains; returns the pairs."""
        missing = self.missing()
        assert not self.wrong, f"{len(self.wrong)} wrong: {self.wrong[:3]}"
        assert not missing, f"{len(missing)} acknowledged and lost, as {sorted(missing)[:3]}"
        assert not self._phantoms(), f"never sent: {sorted(self._phantoms())[:3]}"
        copies = [(p, a, b) for p, all_ in self.came.items() if len(all_) > 1
                  for a, b in zip(sorted(all_), sorted(all_)[1:])]
        bad = [c for c in copies if not self._explained(*c[1:])]
        assert not bad, f"{len(bad)} copies that no kill explains, as {self._tell(bad[0])}"
        return sum(self.promised.values())

    def _tell(self, copy):
        pair, earlier, later = copy
        kills = [f"{(k - earlier[0]) / 1e6:+.1f}" for k, _ in self.kills
                 if abs(k - earlier[0]) < 1_000_000_000]
        waited = self._pulse.waited_ns(earlier[0], earlier[0]) / 1e6
        return (f"{pair}: {earlier[2]} and {later[2]}, {(later[0] - earlier[0]) / 1e6:.1f} ms apart; "
                f"kills at {', '.join(kills)} ms of the first; the machine took {waited:.1f} ms")
