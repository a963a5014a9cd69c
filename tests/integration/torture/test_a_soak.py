"""Hours of load with kills, in small: nothing grows."""

import os

import pytest

from rig.crash import Crash, Lmdb
from rig.node import sanitized
from rig.proc import rss_kib
from rig.promise import size

pytestmark = [pytest.mark.crash, pytest.mark.torture]

ROUNDS = size(5, 40)
MESSAGES = size(600, 5000)
RSS_SPARE_KIB = 4096   # what one round's luck adds: buffers of a burst
FILE_SPARE = 16 << 20  # pages of one burst that waited


def figures(node):
    """What must not grow; the history may, to its million rows, and is told apart."""
    queue = node.config["queue"]["path"]
    with Lmdb(queue) as lmdb:
        history = lmdb.table_bytes("history")
    return {"rss": rss_kib(node.pid), "descriptors": len(os.listdir(f"/proc/{node.pid}/fd")),
            "file": os.stat(os.path.join(queue, "data.mdb")).st_size - history}


def test_a18_memory_descriptors_and_file_stay_flat_and_readers_leave(world, promise):
    """Load, everything delivered, figures; every third round ends with a kill."""
    promise("A18", "load with kills, on and on: memory, descriptors, file flat; no reader left behind")
    crash = Crash(world, faults=20)
    rows = []
    for round_ in range(ROUNDS):
        crash.wait_load(MESSAGES)
        crash.settle()
        crash.sink.stop()  # what it holds open is not the node's to close
        crash.sink.start()
        rows.append(figures(crash.node))
        crash.load()
        if round_ % 3 == 2:
            crash.kill()
        with Lmdb(crash.node.config["queue"]["path"]) as lmdb:
            readers, dead = lmdb.readers()
        assert dead == 0 and readers <= {crash.node.pid}, (readers, dead)
        promise.case()
    crash.settle()
    first, later = rows[1], rows[2:]
    told = f"{first} at first, later {later}"
    assert max(r["file"] for r in later) <= 2 * first["file"] + FILE_SPARE, told
    assert max(r["descriptors"] for r in later) <= first["descriptors"] + 20, told
    if not sanitized():
        assert max(r["rss"] for r in later) <= 1.5 * first["rss"] + RSS_SPARE_KIB, told
