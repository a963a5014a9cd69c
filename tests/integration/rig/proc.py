"""Child processes that never outlive the test run."""

import os
import signal
import subprocess
import time

from rig.wait import PATIENCE


class Process:
    """A child whose standard error and output go to one file."""

    def __init__(self, argv, output, env=None, cwd=None):
        self.output = output
        with open(output, "ab") as out:
            # --pdeathsig: a killed test run takes its servers along.
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, argv)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, cwd=cwd, env={**os.environ, **(env or {})})
        self.pid = self._child.pid

    def running(self):
        return self._child.poll() is None

    @property
    def returncode(self):
        return self._child.poll()

    def signal(self, number):
        if self.running():
            os.kill(self.pid, number)

    def wait(self, timeout=35.0):
        """The exit code; the process is killed and the test fails when it does not end."""
        try:
            return self._child.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise AssertionError(f"{self.output}: did not end within {timeout * PATIENCE:.0f} s")

    def terminate(self, timeout=35.0):
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()


def run(*argv, input=None, timeout=60, check=True, env=None):
    """Run a command to its end; returns CompletedProcess with text output."""
    done = subprocess.run([str(a) for a in argv], input=input, capture_output=True, text=True,
                          timeout=timeout * PATIENCE, env={**os.environ, **(env or {})})
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))} exited {done.returncode}:\n"
                             f"{done.stdout}{done.stderr}")
    return done


def rss_kib(pid):
    """Memory of a process that is its own: RssAnon + RssShmem, in KiB."""
    total = 0
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1])
    return total


def cpu_seconds(pid):
    """User and system time of a process and its reaped children."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def monotonic():
    return time.monotonic()
