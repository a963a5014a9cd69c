"""K06: a log target that blocks, is full, is moved away or gone: mail goes on as fast as before, and
what could not be written is counted and told.
"""

import fcntl
import os
import re
import urllib.request

import pytest

from rig import mail
from rig.node import merge
from rig.promise import size
from rig.volume import Volume
from rig.wait import until

pytestmark = pytest.mark.torture

FAST = {"shaping": {"default": {"max_rate": "none"}}}
PIPE_BYTES = 4096  # small, so that it is full at once


@pytest.fixture
def bed(world):
    mx = world.mx("dest.test")
    node = world.node(start=False, config=merge(FAST, {
        "http": {"address": f"{world.take()}:8025"}}))
    return world, mx, node


def dropped(node):
    with urllib.request.urlopen(f"http://{node.config['http']['address']}/metrics", timeout=10) as a:
        return int(float(re.search(r"^relayd_log_dropped_total (\S+)", a.read().decode(), re.M)[1]))


def mail_goes_on(node, mx, count):
    before = len(mx.mails)
    with node.client() as c:
        c.ehlo()
        for _ in range(count):
            c.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail(before + count, timeout=60)


def to_pipe(world, node):
    """Standard error is a pipe; returns the end that nobody reads yet."""
    pipe = world.dir / "stderr"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    node.wrapper = ["sh", "-c", f'exec "$@" 2>{pipe}', "sh"]
    return reader


def drain(reader, done):
    """Read the pipe until done(all that came) is true."""
    got = bytearray()

    def read():
        try:
            got.extend(os.read(reader, 1 << 20))
        except BlockingIOError:
            pass
        return done(bytes(got))

    until(read, 20, "what the log must say", every=0.001)


def told(said):
    """Lines that are lost by what the log says itself."""
    return max((int(n) for n in re.findall(rb"event=log_dropped .*?total=(\d+)", said)), default=0)


def test_k06_target_that_blocks(bed, promise):
    promise("K06", "nobody reads the log: mail goes on, losses are counted and told afterwards")
    world, mx, node = bed
    reader = to_pipe(world, node)
    node.start()
    mail_goes_on(node, mx, size(2500, 20_000))  # two lines each: more than the ring holds
    lost = dropped(node)
    assert lost > 0, "nothing was lost: the test is too small"
    drain(reader, lambda said: told(said) >= lost)
    assert dropped(node) >= lost
    mail_goes_on(node, mx, 1)
    drain(reader, lambda said: b"outcome=delivered" in said)
    node.kill()
    os.close(reader)
    promise.case()


def test_k06_target_that_is_gone(bed, promise):
    promise("K06", "the log's reader has gone: mail goes on, losses are counted")
    world, mx, node = bed
    reader = to_pipe(world, node)
    node.start()
    os.close(reader)
    mail_goes_on(node, mx, 50)
    until(lambda: dropped(node) >= 100, what="100 lost lines counted")
    node.stop()
    promise.case()


def test_k06_target_on_a_full_disk(bed, promise):
    promise("K06", "the log's disk is full: mail goes on, losses are counted, and it goes on after")
    world, mx, node = bed
    volume = Volume(world, "tmpfs", 2)
    file = volume.path / "log"
    node.write_config({"log": {"target": str(file)}})
    node.start()
    for _ in range(size(1, 5)):
        mail_goes_on(node, mx, 5)
        volume.fill()
        before = dropped(node)
        mail_goes_on(node, mx, 100)
        until(lambda: dropped(node) > before, what="lost lines counted")
        volume.clear()
        mail_goes_on(node, mx, 5)
        until(lambda: b"event=log_dropped" in file.read_bytes(), what="a word about the loss")
        # Whole lines only, but for the one at which the disk was full.
        broken = [line for line in file.read_bytes().split(b"\n")[:-1]
                  if not line.startswith(b"time=")]
        assert len(broken) <= 1, broken[:3]
        promise.case()
    node.stop()


def test_k06_target_that_is_rotated_under_load(bed, promise):
    promise("K06", "rotated under load, moved and opened again: every line is in one of the files")
    world, mx, node = bed
    file = world.dir / "logs" / "relayd.log"
    file.parent.mkdir()
    node.write_config({"log": {"target": str(file)}})
    node.start()
    turns, ids = size(5, 100), []
    for turn in range(turns):
        with node.client() as c:
            c.ehlo()
            for i in range(20):
                ids.append(c.submit("a@src.test", "b@dest.test", mail.message()))
                if i == 10:
                    file.rename(file.with_suffix(f".{turn}"))
                    node.reload()
        promise.case()
    mx.wait_mail(turns * 20)
    node.wait_empty()
    node.stop()
    lines = b"".join(f.read_bytes() for f in file.parent.iterdir()).split(b"\n")
    said = {}
    for line in lines:
        match = re.search(rb"event=(received|attempt) .*?msg=(\S+)", line)
        if match:
            said.setdefault(match[2].decode(), []).append(match[1])
    for ident in ids:
        assert sorted(said.get(ident, [])) == [b"attempt", b"received"], (ident, said.get(ident))


def test_k06_target_whose_directory_is_gone(bed, promise):
    promise("K06", "the log's directory was removed: the old file is kept, mail goes on")
    world, mx, node = bed
    file = world.dir / "logs" / "relayd.log"
    file.parent.mkdir()
    node.write_config({"log": {"target": str(file)}})
    node.start()
    file.unlink()
    file.parent.rmdir()
    node.send_signal(1)
    mail_goes_on(node, mx, 20)
    assert node.running()
    node.stop()
    promise.case()


@pytest.mark.skipif(os.path.exists("/dev/log"), reason="this machine has a syslog")
def test_k06_syslog_that_is_not_there(bed, promise):
    promise("K06", "no syslog: mail goes on, losses are counted")
    world, mx, node = bed
    node.write_config({"log": {"target": "syslog"}})
    node.start()
    mail_goes_on(node, mx, 50)
    until(lambda: dropped(node) >= 100, what="100 lost lines counted")
    node.stop()
    promise.case()
