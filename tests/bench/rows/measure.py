"""What a process costs: processor time, memory, and how idle a thread is."""

import os
import pathlib
import re
import statistics
import subprocess
import threading
import time

from rig.proc import cpu_seconds, rss_kib


def tree(pid):
    """A process and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def memory_kib(pids):
    """RssAnon + RssShmem of these processes together."""
    total = 0
    for pid in pids:
        try:
            total += rss_kib(pid)
        except OSError:
            pass  # ended meanwhile
    return total


class Account:
    """User and system time of a whole process tree, the ended and the forgotten ones included.

    A control group of its own counts in nanoseconds and loses nobody. Without control groups the
    figures are those of /proc/PID/stat, in hundredths of a second, and children that nobody waited
    for are missing.
    """

    _n = 0

    def __init__(self, pids):
        Account._n += 1
        self._pids = pids
        self._dir = self._file = None
        root, self._file = self._hierarchy()
        if root:
            try:
                self._dir = root / f"relayd-bench-{os.getpid()}-{Account._n}"
                self._dir.mkdir()
                for pid in self._whole():
                    (self._dir / "cgroup.procs").write_text(str(pid))
            except OSError:
                self.close()
                self._dir = None

    @staticmethod
    def _hierarchy():
        """(directory, file with the time) of the hierarchy that counts processor time here."""
        found = {}
        for line in pathlib.Path("/proc/mounts").read_text().splitlines():
            _, directory, kind, options = line.split()[:4]
            if kind == "cgroup" and "cpuacct" in options.split(","):
                found[1] = (pathlib.Path(directory), "cpuacct.usage")
            elif kind == "cgroup2":
                found[2] = (pathlib.Path(directory), "cpu.stat")
        return found.get(1) or found.get(2) or (None, None)

    def _whole(self):
        return {p for pid in self._pids for p in tree(pid)}

    def seconds(self):
        if not self._dir:
            total = 0.0
            for pid in self._whole():
                try:
                    total += cpu_seconds(pid)
                except OSError:
                    pass  # ended meanwhile: its parent has its time now
            return total
        text = (self._dir / self._file).read_text()
        if self._file == "cpuacct.usage":
            return int(text) / 1e9
        return int(re.search(r"usage_usec (\d+)", text).group(1)) / 1e6

    def close(self):
        """Back to the group above; the processes may live on."""
        if not self._dir or not self._dir.exists():
            return
        for pid in (self._dir / "cgroup.procs").read_text().split():
            try:
                (self._dir.parent / "cgroup.procs").write_text(pid)
            except OSError:
                pass  # ended meanwhile
        try:
            self._dir.rmdir()
        except OSError:
            pass  # a process is just ending: the empty group does no harm


class MemoryPeak:
    """The most that a process has of RssAnon + RssShmem while the block runs, looked at ten times a
    second."""

    def __init__(self, pid):
        self.kib, self._pid, self._end = 0, pid, threading.Event()

    def _watch(self):
        while True:
            self.kib = max(self.kib, memory_kib([self._pid]))
            if self._end.wait(0.1):
                return

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


class Thread:
    """How a thread spends its time: running, ready but without a core, or idle."""

    def __init__(self, pid, tid=None):
        self._file = pathlib.Path(f"/proc/{pid}/task/{tid or pid}/schedstat")
        self._before, self._begun = self._read(), time.monotonic()

    def _read(self):
        running, ready = map(int, self._file.read_text().split()[:2])
        return running / 1e9, ready / 1e9

    def shares(self):
        """{"running", "ready", "idle"}: shares of the time since the beginning, 1 in all."""
        now, wall = self._read(), time.monotonic() - self._begun
        running, ready = ((n - b) / wall for n, b in zip(now, self._before))
        return {"running": running, "ready": ready, "idle": max(0.0, 1 - running - ready)}


_SPEED = {"rsa": ("rsa2048", r"^\+F2:\d+:2048:([\d.]+)"),
          "ed25519": ("ed25519", r"^\+F6:\d+:253:Ed25519:([\d.]+)")}


def sign_us(kind, seconds=2):
    """Microseconds of processor time for a signature by itself, by `openssl speed`: what a
    signature cannot cost less than, and how fast the machine is at this moment."""
    name, line = _SPEED[kind]  # ...:signatures a second:verifications a second
    out = subprocess.run(["openssl", "speed", "-seconds", str(seconds), "-mr", name],
                         capture_output=True, text=True, check=True).stdout
    return 1e6 / float(re.search(line, out, re.M).group(1))


def quantile(values, q):
    """The q-quantile (0..1) of a list, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values):
    return statistics.median(values)
