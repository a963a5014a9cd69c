"""The two ends of a measurement: what sends, what receives, and the other programs of tests/bench."""

import os
import pathlib
import signal
import subprocess
import time

from rig.net import wait_listening
from rig.node import BUILD
from rig.wait import until

SINK = "/usr/sbin/smtp-sink"
SOURCE = "/usr/sbin/smtp-source"
PATIENCE_S = 900


def program(name):
    """The path of a program of tests/bench."""
    path = BUILD / "tests" / f"bench_{name}"
    assert path.exists(), f"{path} is not built"
    return path


def figures(text):
    """{name: number} of "NAME NUMBER" lines."""
    pairs = (line.split() for line in text.splitlines())
    return {p[0]: float(p[1]) for p in pairs if len(p) == 2}


def kill_with_us():
    return ["setpriv", "--pdeathsig", "KILL"]


class SmtpSink:
    """smtp-sink; it ends by itself after so many messages (0: never)."""

    def __init__(self, address, messages):
        self._child = subprocess.Popen(
            [*kill_with_us(), SINK, "-u", "nobody", "-c", "-h", "sink.test", "-m", "1000",
             *(["-M", str(messages)] if messages else []), "%s:%d" % address, "1000"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_listening(*address, what="smtp-sink")

    def wait(self):
        """Until the last message; the moment of that (monotonic)."""
        try:
            self._child.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"smtp-sink did not get all messages in {PATIENCE_S} s")
        return time.monotonic()

    def stop(self):
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


class Program:
    """A program of tests/bench that runs beside: a sink, a name server, a pass-through."""

    def __init__(self, name, *arguments):
        self._child = subprocess.Popen(
            [*kill_with_us(), program(name), *map(str, arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self.pid, self._name = self._child.pid, name
        self._figures = None

    def line(self):
        """Its next line of output."""
        line = self._child.stdout.readline()
        assert line, f"bench_{self._name} ended: {self._child.wait(10)}"
        return line.strip()

    def wait(self):
        """Until it ends by itself; its figures."""
        try:
            out, _ = self._child.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"bench_{self._name} did not end in {PATIENCE_S} s")
        assert self._child.returncode == 0, f"bench_{self._name}: {self._child.returncode}"
        self._figures = figures(out)
        return self._figures

    def stop(self):
        """SIGTERM, unless it has ended; its figures."""
        if self._figures is None:
            self._child.send_signal(signal.SIGTERM)
            out, _ = self._child.communicate(timeout=30)
            self._figures = figures(out)
        return self._figures


class BenchSink(Program):
    """bench_sink, where smtp-sink cannot serve: TLS, AUTH, several addresses, figures."""

    def __init__(self, addresses, messages=0, certificate=None, auth=False):
        options = ["-m", messages] if messages else []
        if certificate:
            options += ["-c", certificate.cert_file, "-k", certificate.key_file]
        super().__init__("sink", *options, *(["-a"] if auth else []),
                         *("%s:%d" % a for a in addresses))
        for address in addresses:
            wait_listening(*address, what="bench_sink")

    def wait(self):
        """Until the last message; the moment of that (monotonic)."""
        return super().wait()["ended"]


def source(address, messages, sessions, length, reuse, sender="a@src.test", rcpt="b@dest.test"):
    """smtp-source to its end."""
    subprocess.run([SOURCE, "-s", str(min(sessions, messages)), "-m", str(messages),
                    "-l", str(length), "-f", sender, "-t", rcpt, *(["-d"] if reuse else []),
                    "%s:%d" % address], check=True, timeout=PATIENCE_S)


def bench_source(address, messages, domains=1, rcpts=1, sessions=20, length=1024, first=0,
                 reuse=True):
    """bench_source to its end: many domains, or less work for the source; its seconds."""
    done = subprocess.run([program("source"), "-s", str(sessions), "-m", str(messages),
                           "-r", str(rcpts), "-l", str(length), "-d", str(domains),
                           "-f", str(first), *([] if reuse else ["-n"]), "%s:%d" % address],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return figures(done.stdout)["seconds"]


def slow_sync(directory):
    """The shared object that makes every sync of a program 5 ms slower, made here."""
    path = pathlib.Path(directory) / "slow_sync.so"
    if not path.exists():
        code = pathlib.Path(__file__).resolve().parents[1] / "slow_sync.c"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", path, code],
                       check=True)
        os.chmod(path, 0o755)
    return path


def slowed(pid):
    """True when that process has the slow disk; waits a little for a process that starts."""
    return bool(until(lambda: "slow_sync" in pathlib.Path(f"/proc/{pid}/maps").read_text(), 5,
                      f"process {pid} to have the slow disk"))
