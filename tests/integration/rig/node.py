"""relayd itself: configuration, start, stop, kill, reload, log and relayctl."""

import json
import os
import pathlib
import re
import signal
import socket
import stat
import threading

import yaml

from rig import smtp
from rig.logfmt import Log
from rig.proc import Process, run
from rig.wait import DEFAULT, until

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("RELAYD_BUILD_DIR", ROOT / "build" / "release"))

# A sanitizer that finds something ends the daemon with this exit code.
SANITIZER_EXIT = 99
SANITIZER_ENV = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_EXIT}:detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"exitcode={SANITIZER_EXIT}:halt_on_error=0",
}
_REPORT = re.compile(r"ERROR: (Address|Leak)Sanitizer|runtime error:|WARNING: ThreadSanitizer|"
                     r"Assertion .* failed")


def binary(name):
    path = BUILD / "bin" / name
    assert path.exists(), f"{path} is not built (RELAYD_BUILD_DIR says where to look)"
    return path


def sanitized():
    """True for a build with a sanitizer: its memory figures mean nothing, and it needs system
    calls that the release build's filter denies."""
    return re.search(r"lib(asan|tsan|ubsan)", run("ldd", binary("relayd")).stdout) is not None


def merge(base, changes):
    """base with changes; dictionaries are merged, everything else is replaced, None removes."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


class _Notify:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, path):
        self.path, self.messages = str(path), []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o777)
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                return
            if not data:
                return
            self.messages.extend(data.decode().split("\n"))

    def count(self, line):
        return self.messages.count(line)

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


class Node:
    """One relayd. `config` is the YAML document as Python values; change it and reload()."""

    def __init__(self, directory, config, address, port=25):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o755)
        self.config, self.address, self.port = config, address, port
        self.name = config["node"]["name"]
        self.config_file = self.dir / "relayd.yaml"
        self.log_file = self.dir / "log"
        self.log = Log(self.log_file)
        self.env = {}
        self.wrapper = []  # a command to run relayd under (strace, faketime, prlimit)
        self.nice = 0      # below 0: served before others of the machine
        self._process = self._notify = None
        self._starts = 0

    # -- files

    def write_config(self, changes=None):
        if changes:
            self.config = merge(self.config, changes)
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False,
                                                   allow_unicode=True))
        return self.config_file

    def file(self, name, content, mode=0o600):
        """A file beside the configuration; returns its path."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return str(path)

    def add_user(self, name, password, users="users"):
        """An AUTH user, by relayctl as an operator does it."""
        done = run(binary("relayctl"), "user", "add", name, "--file", self.dir / users,
                   input=password + "\n")
        assert stat.S_IMODE((self.dir / users).stat().st_mode) == 0o600, done.stdout
        return str(self.dir / users)

    # -- life

    def start(self, *arguments, ready=True):
        """Start; returns when it has said READY=1 (or at once with ready=False)."""
        assert not (self._process and self._process.running()), "already running"
        self._starts += 1
        if self._notify:
            self._notify.close()
        self._notify = _Notify(self.dir / f"notify{self._starts}")
        self.write_config()
        env = {**SANITIZER_ENV, "NOTIFY_SOCKET": self._notify.path, **self.env}
        if self.wrapper[:1] == ["strace"]:  # LeakSanitizer cannot work in a traced process
            env["ASAN_OPTIONS"] += ":detect_leaks=0"
        # Under the journal log lines would start with a priority.
        os.environ.pop("JOURNAL_STREAM", None)
        wrapper = ["nice", "-n", self.nice, *self.wrapper] if self.nice else self.wrapper
        self._process = Process([*wrapper, binary("relayd"), "-c", self.config_file, *arguments],
                                self.log_file, env=env)
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=DEFAULT):
        def ready():
            if self._notify.count("READY=1"):
                return True
            assert self._process.running(), (
                f"{self.name} exited {self._process.returncode} at start:\n{self.log.tail()}")
            return False

        until(ready, timeout, f"READY=1 of {self.name} (log {self.log_file})")

    def said_ready(self):
        """True when the daemon that was started last has come up, even if it has ended."""
        return self._notify.count("READY=1") > 0

    def try_start(self, *arguments):
        """Start; None when it is ready, its exit code when it ended instead."""
        self.start(*arguments, ready=False)
        until(lambda: self._notify.count("READY=1") or not self.running(), DEFAULT,
              f"a start or an end of {self.name} (log {self.log_file})")
        return None if self.running() else self.wait_exit()

    @property
    def pid(self):
        """The daemon's own process id, also when it runs under a wrapper."""
        if not self.wrapper:
            return self._process.pid
        return int(run("pgrep", "-n", "-f", f"^{binary('relayd')} -c {self.config_file}").stdout)

    def running(self):
        return bool(self._process) and self._process.running()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def reload(self, changes=None, wait=True):
        """Write the configuration and send SIGHUP; returns when the daemon has read it."""
        self.write_config(changes)
        before = self._notify.count("READY=1")
        self._process.signal(signal.SIGHUP)
        if wait:
            until(lambda: self._notify.count("READY=1") > before, DEFAULT,
                  f"{self.name} to finish the reload (log {self.log_file})")

    def stop(self, code=0, timeout=40):
        """SIGTERM; the daemon must drain, end with this code, and leave no sanitizer report."""
        if self._process is None:
            return
        if self.running():
            os.kill(self.pid, signal.SIGTERM)
        ended = self._process.wait(timeout)
        self._process = None
        self.assert_clean()
        assert ended == code, f"{self.name} ended with {ended}, expected {code}:\n{self.log.tail()}"

    def wait_exit(self, timeout=DEFAULT):
        """The exit code of a daemon that ends by itself."""
        code = self._process.wait(timeout)
        self._process = None
        return code

    def kill(self, number=signal.SIGKILL):
        """Killed at once, as by power loss of the process."""
        os.kill(self.pid, number)
        self._process.wait()
        self._process = None

    def restart(self):
        self.stop()
        self.start()

    def close(self):
        try:
            self.stop()
        finally:
            if self._notify:
                self._notify.close()

    def assert_clean(self):
        bad = [line for line in self.log.lines() if _REPORT.search(line)]
        assert not bad, f"{self.log_file}: " + "\n".join(bad[:5])

    def logs(self):
        return [self.log_file]

    # -- the operator's side

    def ctl(self, *arguments, check=True, input=None):
        """relayctl over this node's socket; CompletedProcess."""
        return run(binary("relayctl"), "-s", self.config["control"]["socket"], *arguments,
                   check=check, input=input, timeout=30)

    def ctl_json(self, *arguments):
        return json.loads(self.ctl("--json", *arguments).stdout)

    def queue(self, *filters):
        """Waiting recipients as a list of objects (relayctl queue list)."""
        return json.loads(self.ctl("--json", "queue", "list", *filters).stdout)

    def wait_empty(self, timeout=DEFAULT):
        until(lambda: not self.queue(), timeout, f"an empty queue at {self.name}", every=0.1)

    # -- the client's side

    def client(self, **options):
        return smtp.Client(self.address, self.port, **options)

    def submit(self, sender, rcpts, message, params="", source=None):
        """Hand one message to the node; the id it was queued as."""
        return smtp.submit(self.address, self.port, sender, rcpts, message, params, source)
