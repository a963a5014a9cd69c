"""Descriptors run out: accepting pauses without spinning, deliveries keep theirs, all comes back."""

import socket
import time

import pytest

from rig import mail
from rig.proc import cpu_seconds
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture


def crowd(node, n):
    """n connections, whatever becomes of them."""
    held = []
    for _ in range(n):
        s = socket.create_connection((node.address, node.port), 5)
        s.setblocking(False)
        held.append(s)
    return held


@pytest.mark.parametrize("nofile", size([64], [64, 100, 128, 256]))
def test_k03_few_descriptors(world, promise, nofile):
    promise("K03", "descriptors run out: no spinning, deliveries keep a reserve, accepting resumes")
    domains = [f"d{i}.test" for i in range(8)]
    mxs = [world.mx(d) for d in domains]
    node = world.node(start=False)
    node.wrapper = ["prlimit", f"--nofile={nofile}:{nofile}"]
    node.start()
    insider = node.client()
    insider.ehlo()
    held = []
    try:
        for round_ in range(size(1, 30)):
            held += crowd(node, 2 * nofile)
            # Those that find no place are told so, one in a while: no core is burnt on the rest.
            begun, cpu = time.monotonic(), cpu_seconds(node.pid)
            until(lambda: time.monotonic() > begun + 1, what="a second of it")
            used = cpu_seconds(node.pid) - cpu
            assert used < 0.3, f"{used:.2f} s of processor time in a second: it spins"
            # While every place for clients is taken: accepted, stored and delivered, to all of them
            # at once, and the operator gets in.
            for domain in domains:
                insider.submit("a@src.test", f"u{round_}@{domain}", mail.message())
            for mx in mxs:
                mx.wait_mail(round_ + 1)
            assert node.ctl("status").returncode == 0
            while held:
                held.pop().close()
            begun = time.monotonic()
            until(lambda: admitted(node), 5, "a new client to be let in")
            promise.case()
    finally:
        for s in held:
            s.close()
    insider.quit()
    node.wait_empty()
    assert not node.log.all(event="attempt", outcome="deferred")


def admitted(node):
    try:
        with node.client() as session:
            return session.greeting.code == 220
    except Exception:  # refused while the old ones are being closed
        return False
