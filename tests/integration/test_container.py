"""The image: built from the Dockerfile with podman, run unprivileged, and it keeps its queue.

No Docker registry is needed: the base image is made with debootstrap from the machine's own Debian
mirror and imported under the name that the Dockerfile uses.
"""

import json
import os
import pathlib
import re
import subprocess
import time

import pytest
import yaml

from rig import mail, smtp
from rig.net import wait_listening
from rig.node import ROOT
from rig.proc import run
from rig.wait import until

pytestmark = pytest.mark.container

PODMAN = ["podman", "--storage-driver=vfs"]
RUN = ["--runtime", "runc", "--cgroup-manager=cgroupfs", "run", "--network=host",
       "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
BASE = "docker.io/library/debian:bookworm-slim"
CONTAINER_UID = 8025
MINUTES = 60


def podman(*arguments, timeout=60, check=True):
    return run(*PODMAN, *arguments, timeout=timeout, check=check)


def apt_mirror():
    """The Debian mirror of this machine's apt."""
    done = run("apt-cache", "policy", "libc6").stdout
    match = re.search(r"\d (https?://\S+) bookworm/main", done)
    assert match, f"no bookworm mirror in: {done}"
    return match.group(1)


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """The built image's name."""
    if podman("image", "exists", BASE, check=False).returncode != 0:
        root = tmp_path_factory.mktemp("debootstrap") / "base"
        run("debootstrap", "--variant=minbase", "bookworm", root, apt_mirror(),
            timeout=15 * MINUTES)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run([*PODMAN, "import", "-", BASE], stdin=tar.stdout, check=True)
    podman("--cgroup-manager=cgroupfs", "build", "--isolation=chroot", "--network=host",
           "-t", "relayd", ROOT, timeout=20 * MINUTES)
    return "localhost/relayd"


class Container:
    def __init__(self, world, image, config):
        self.address, self.dir = world.take(), world.dir / "etc"
        self.dir.mkdir()
        self.dir.chmod(0o755)
        config = {"node": {"name": "us", "hostname": "smtp-us.relay.test"},
                  "listeners": [{"address": f"{self.address}:25"}],
                  "trusted_clients": [{"cidr": "127.0.0.0/8"}],
                  "queue": {"min_free": "64MiB", "max_size": "1GiB"},
                  "resolver": {"servers": [world.dns.server]},
                  "direct": {"allow_private": True, "source": {"v4": self.address}},
                  "transport_map": [{"default": True, "route": "direct"}],
                  "allow_gateway": True, **config}
        (self.dir / "relayd.yaml").write_text(yaml.safe_dump(config))
        self.volume = f"relayd-test-{os.getpid()}"
        self.image = image

    def start(self):
        self.id = podman(*RUN, "-d", "-v", f"{self.dir}:/etc/relayd:ro",
                         "-v", f"{self.volume}:/var/lib/relayd", self.image,
                         timeout=300).stdout.strip()
        try:
            wait_listening(self.address, 25, 60)
        except AssertionError:
            raise AssertionError(self.logs()) from None

    def logs(self):
        done = podman("logs", self.id)
        return done.stdout + done.stderr

    def exec(self, *command):
        return podman("--runtime", "runc", "--cgroup-manager=cgroupfs", "exec", self.id, *command)

    def inspect(self):
        return json.loads(podman("inspect", self.id).stdout)[0]

    def stop(self):
        podman("--runtime", "runc", "--cgroup-manager=cgroupfs", "stop", "-t", "40", self.id,
               timeout=120)

    def remove(self):
        podman("--runtime", "runc", "--cgroup-manager=cgroupfs", "rm", "-f", self.id, check=False)
        podman("volume", "rm", "-f", self.volume, check=False)


@pytest.fixture
def container(world, image):
    made = Container(world, image, {"queue": {"min_free": "64MiB", "max_size": "1GiB",
                                              "retry": {"intervals": ["1h"]}}})
    made.start()
    yield made
    made.remove()


def test_image_runs_without_root_binds_port_25_and_delivers(world, container):
    mx = world.mx("dest.test")
    smtp.submit(container.address, 25, "a@src.test", "b@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    pid = container.inspect()["State"]["Pid"]
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    assert re.search(rf"^Uid:\t{CONTAINER_UID}\t{CONTAINER_UID}\t", status, re.M)
    assert "event=attempt" in container.logs(), "the log goes to standard error"


def test_health_check_is_the_status_verb(container):
    config = json.loads(podman("inspect", "--type", "image", container.image).stdout)[0]["Config"]
    assert config.get("StopSignal") in ("SIGTERM", "15")
    assert "/var/lib/relayd" in config["Volumes"]
    assert config["User"] == "relayd"
    done = container.exec("relayctl", "-c", "/etc/relayd/relayd.yaml", "status")
    assert "us" in done.stdout


def test_queue_survives_a_new_container_and_stop_is_orderly(world, container):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    smtp.submit(container.address, 25, "a@src.test", "b@dest.test", mail.message())
    until(lambda: "outcome=deferred" in container.logs(), 30, "the deferral")
    begun = time.monotonic()
    container.stop()
    assert time.monotonic() - begun < 35
    assert container.inspect()["State"]["ExitCode"] == 0
    podman("--runtime", "runc", "--cgroup-manager=cgroupfs", "rm", container.id)
    container.start()
    listed = container.exec("relayctl", "-c", "/etc/relayd/relayd.yaml", "--json", "queue", "list")
    assert [w["rcpt"] for w in json.loads(listed.stdout)] == ["b@dest.test"]
    mx.behave()
    container.exec("relayctl", "-c", "/etc/relayd/relayd.yaml", "queue", "retry", "--domain",
                   "dest.test")
    assert mx.wait_mail()


def test_image_is_small_and_holds_no_compiler(image):
    size = json.loads(podman("inspect", "--type", "image", image).stdout)[0]["Size"]
    assert size < 400e6
    done = podman(*RUN, "--rm", "--entrypoint", "sh", image, "-c", "command -v cc gcc; true",
                  timeout=300)
    assert not done.stdout.strip()


def test_gateway_in_a_trusted_network_is_refused(world, image):
    """In a container, a trusted network that holds the gateway would trust the world."""
    config = world.dir / "gw.yaml"
    config.write_text(yaml.safe_dump({
        "node": {"name": "us", "hostname": "smtp-us.relay.test"},
        "trusted_clients": [{"cidr": "0.0.0.0/0"}],
        "transport_map": [{"default": True, "route": "direct"}]}))
    done = podman(*RUN, "--rm", "-v", f"{config}:/etc/relayd/relayd.yaml:ro", image, "-c",
                  "/etc/relayd/relayd.yaml", "--check", timeout=300, check=False)
    assert done.returncode == 78 and "allow_gateway" in done.stdout + done.stderr
