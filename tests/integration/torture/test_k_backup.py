"""K09: a copy of the queue that is made while the daemon works is a queue: all that was acknowledged
before is in it, or was delivered; what it delivers once more was known to be a second copy.
"""

import pathlib
import subprocess

import pytest

from rig.mixed import QUICK, Mixed
from rig.node import merge
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("options", [[], ["-c"]], ids=["whole", "compact"])
def test_k09_copy_of_a_running_queue_restores(world, promise, options):
    promise("K09", "mdb_copy of the queue under load restores: nothing acknowledged before is missing")
    node = world.node(config=QUICK)
    traffic = Mixed(world, node)
    for turn in range(size(1, 12)):
        traffic.hosts["later"].answer("rcpt", "451 4.3.0 not now")  # so that much of it waits
        traffic.begin()
        until(lambda: traffic.promised() > 60, what="some mail")
        before = set(traffic.ledger.promised)
        copy = world.dir / f"copy{turn}"
        copy.mkdir(mode=0o700)
        subprocess.run(["mdb_copy", *options, node.config["queue"]["path"], copy], check=True)
        until(lambda: traffic.promised() > len(before) + 20, what="mail after the copy")
        traffic.end()
        node.kill()  # the machine is lost
        arrived = dict(traffic.ledger.arrived)
        other = world.node(f"re{turn}", config=merge(QUICK, {"queue": {"path": str(copy)}}),
                           start=False)
        assert pathlib.Path(copy, "data.mdb").stat().st_size > 0
        traffic.hosts["later"].behave()
        other.start()
        assert other.ctl("verify").returncode == 0
        until(lambda: not before - set(traffic.ledger.arrived), 30, "all from before the copy")
        other.wait_empty()
        # Twice arrives only what the first node delivered after the copy or shortly before.
        again = {pair for pair, n in traffic.ledger.duplicates().items() if n > 1}
        assert again <= set(arrived), "the copy delivered something twice by itself"
        assert all(n == 2 for n in traffic.ledger.duplicates().values())
        other.stop()
        promise.case()
        node = traffic.node = world.node(f"cn{turn}", config=QUICK)
        traffic.hosts["later"].answer("rcpt", traffic._later)
