"""A disk that fails at the n-th call of a kind (torture/faults.c, preloaded into a node)."""

import errno
import pathlib

from rig.preload import library

SOURCE = pathlib.Path(__file__).parents[1] / "torture" / "faults.c"


class Disk:
    """The disk under a node's queue."""

    def __init__(self, world, node):
        self._node = node
        self._library = library(world, "faults", SOURCE)
        self._off = world.dir / "faults.off"

    def fail(self, call, error, at, times=1, how="none"):
        """From the node's next start on: call number `at` fails, and so many in all (-1: all).
        how: none, half or late (faults.c)."""
        self._off.unlink(missing_ok=True)
        self._node.env = {
            "LD_PRELOAD": str(self._library), "FAULT_DIR": self._node.config["queue"]["path"],
            "FAULT_CALL": call, "FAULT_AT": str(at), "FAULT_TIMES": str(times),
            "FAULT_ERRNO": str(getattr(errno, error)), "FAULT_HOW": how,
            "FAULT_OFF": str(self._off)}

    def heal(self):
        """Nothing fails any more, also in a node that runs."""
        self._off.touch()
        self._node.env = {}
