"""relayd's image and containers of it, by podman, and a machine for them to run on.

No registry is needed: the base image is made with debootstrap from this machine's own Debian mirror
and imported under the name that the Dockerfile uses. Images and containers are kept in build/podman,
apart from whatever else podman does here.
"""

import ipaddress
import itertools
import json
import os
import pathlib
import re
import subprocess

import yaml

from rig.logfmt import Log
from rig.node import ROOT
from rig.proc import Process, run
from rig.wait import DEFAULT, until

STORE = ROOT / "build" / "podman"
# No cgroup manager and no systemd are taken for granted; the vfs driver works on any file system.
PODMAN = ["podman", "--root", STORE / "storage", "--runroot", "/run/relayd-test-podman",
          "--storage-driver=vfs", "--runtime=runc", "--cgroup-manager=cgroupfs"]
ENV = {"DISABLE_HC_SYSTEMD": "true"}
BASE = "docker.io/library/debian:bookworm-slim"
IMAGE = "localhost/relayd-test"
UID = 8025  # of the image's user
MINUTES = 60


def podman(*arguments, timeout=60, check=True, input=None):
    return run(*PODMAN, *arguments, timeout=timeout, check=check, input=input, env=ENV)


def apt_mirror():
    """The Debian mirror of this machine's apt."""
    done = run("apt-cache", "policy", "libc6").stdout
    match = re.search(r"\d (https?://\S+) bookworm/main", done)
    assert match, f"no bookworm mirror in: {done}"
    return match.group(1)


def _make_base(directory):
    root = directory / "base"
    run("debootstrap", "--variant=minbase", "bookworm", root, apt_mirror(), timeout=15 * MINUTES)
    tar = ["tar", "-C", root, "-c", "--exclude=./var/cache/apt/archives/*.deb",
           "--exclude=./var/lib/apt/lists/*", "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
        subprocess.run([*PODMAN, "import", "-", BASE], stdin=packed.stdout, check=True,
                       capture_output=True)


def build_image(directory):
    """Build the image from the Dockerfile as it is; directory: where a base may be made."""
    STORE.mkdir(parents=True, exist_ok=True)
    # What a killed run has left behind.
    podman("rm", "-f", "-a")
    podman("volume", "prune", "-f")
    if podman("image", "exists", BASE, check=False).returncode != 0:
        _make_base(directory)
    # Layers would be full copies with the vfs driver: 10 GB for nothing. The Docker format is the
    # one that has health checks.
    podman("build", "--isolation=chroot", "--network=host", "--format=docker", "--layers=false",
           "-t", IMAGE, ROOT, timeout=20 * MINUTES)
    podman("image", "prune", "-f")
    return IMAGE


def image_config(image):
    return json.loads(podman("inspect", "--type", "image", image).stdout)[0]


def compose_service(name="relayd"):
    """A service of etc/compose.yaml as Python values."""
    return yaml.safe_load((ROOT / "etc" / "compose.yaml").read_text())["services"][name]


def compose_options():
    """What etc/compose.yaml asks for to confine the container, as podman's options."""
    service = compose_service()
    options = ["--read-only", "--read-only-tmpfs=false"] if service.get("read_only") else []
    options += [f"--cap-drop={c}" for c in service.get("cap_drop", ())]
    options += [f"--cap-add={c}" for c in service.get("cap_add", ())]
    options += [f"--tmpfs={t}" for t in service.get("tmpfs", ())]
    options += [f"--security-opt={o}" for o in service.get("security_opt", ())]
    return options


class Machine:
    """Another machine: a network namespace whose default route leads to this one.

    Stands in for rig.net.Block: the addresses of take() are this machine's and can be reached from
    there, so the tests' name server and recipients are the Internet of the other side. `gateway` is
    where everything seems to come from when a userland proxy stands in front of a container.
    """

    _serial = itertools.count()

    def __init__(self):
        number = (os.getpid() + next(self._serial)) % 250
        self.name = f"relayd-test-{os.getpid()}-{number}"
        self._link = f"rd{os.getpid()}"
        near, self._far = (ipaddress.ip_network(f"10.{n}.{number}.0/24") for n in (214, 213))
        self.cidr, self.network = str(self._far), str(near)
        self.gateway, self.address = str(near[1]), str(near[2])
        self._hosts = iter(self._far.hosts())
        there = ["ip", "-n", self.name]
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "eth0", "netns", self.name)
        run("ip", "address", "add", f"{self.gateway}/{near.prefixlen}", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        run("ip", "route", "add", "local", self.cidr, "dev", "lo")
        run(*there, "address", "add", f"{self.address}/{near.prefixlen}", "dev", "eth0")
        run(*there, "link", "set", "lo", "up")
        run(*there, "link", "set", "eth0", "up")
        run(*there, "route", "add", "default", "via", self.gateway)

    @property
    def option(self):
        return f"--network=ns:/run/netns/{self.name}"

    def take(self):
        return str(next(self._hosts))

    def release(self):
        run("ip", "route", "del", "local", self.cidr, "dev", "lo", check=False)
        run("ip", "netns", "del", self.name, check=False)


class Container:
    """A container of the image on a machine, confined as etc/compose.yaml says.

    `etc` is what it sees as /etc/relayd; its log is followed while it is written.
    """

    _serial = itertools.count(1)

    def __init__(self, image, machine, directory):
        self.image, self.machine = image, machine
        self.dir = pathlib.Path(directory)
        self.etc = self.dir / "etc"
        self.etc.mkdir(parents=True)
        self.dir.chmod(0o755)
        os.chown(self.etc, UID, UID)
        self.etc.chmod(0o750)
        self.name = f"relayd-{os.getpid()}-{next(self._serial)}"
        self.log_file = self.dir / "log"
        self.log = Log(self.log_file)
        self._process = None

    def file(self, name, content, mode=0o600):
        """A file in /etc/relayd that belongs to the image's user."""
        path = self.etc / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.chown(path, UID, UID)
        path.chmod(mode)
        return path

    def write_config(self, config):
        self.config = config
        text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        self.file("relayd.yaml", text, 0o644)

    def _run(self, *options):
        return ["run", "--rm", self.machine.option, "--ulimit=nofile=1024:1024",
                "--ulimit=nproc=1024:1024", *options]

    def tool(self, *command, input=None, check=True):
        """A program of the image on the configuration's directory, as the README does it."""
        return podman(*self._run("-i", "-v", f"{self.etc}:/etc/relayd", "-w", "/etc/relayd",
                                 f"--entrypoint={command[0]}"),
                      self.image, *command[1:], input=input, check=check, timeout=3 * MINUTES)

    def start(self, ready=True, without=()):
        """without: options of etc/compose.yaml to leave out."""
        options = [o for o in compose_options() if o not in without]
        command = self._run(f"--name={self.name}", *options,
                            "-v", f"{self.etc}:/etc/relayd:ro",
                            "-v", f"{self.name}:/var/lib/relayd")
        self._process = Process([*PODMAN, *command, self.image], self.log_file, env=ENV)
        if ready:
            mark = self.log.mark()

            def up():
                assert self._process.running(), f"it ended at start:\n{self.log.tail()}"
                return self.log.all(mark, event="ready")

            until(up, 3 * MINUTES, f"the container to be ready ({self.log_file})")
        return self

    def wait_exit(self, timeout=3 * MINUTES):
        """The exit code of the container, which podman hands on."""
        code, self._process = self._process.wait(timeout), None
        return code

    def stop(self):
        """As Docker stops it: the image's stop signal, and nothing else within the grace period."""
        if self._process is None:
            return
        if self._process.running():
            grace = re.fullmatch(r"(\d+)s", compose_service()["stop_grace_period"]).group(1)
            podman("stop", "-t", grace, self.name, timeout=2 * MINUTES)
        code = self.wait_exit()
        assert code == 0, f"the container ended with {code}:\n{self.log.tail()}"

    def close(self):
        try:
            self.stop()
        finally:
            podman("rm", "-f", "-i", self.name, check=False)
            podman("volume", "rm", "-f", self.name, check=False)

    def exec(self, *command, check=True):
        return podman("exec", self.name, *command, check=check)

    def ctl(self, *arguments, check=True):
        return self.exec("relayctl", *arguments, check=check)

    def queue(self):
        return json.loads(self.ctl("--json", "queue", "list").stdout)

    def wait_empty(self, timeout=DEFAULT):
        until(lambda: not self.queue(), timeout, f"an empty queue in {self.name}", every=0.5)

    def health(self):
        """The exit code of the image's health check."""
        return podman("healthcheck", "run", self.name, check=False).returncode

    def status(self):
        """/proc/PID/status of the daemon as a dictionary."""
        pid = json.loads(podman("inspect", self.name).stdout)[0]["State"]["Pid"]
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (x.partition(":") for x in lines)}

    def logs(self):
        return [self.log_file]
