"""H10: no memory. A parser returns an error without a leak, or the process ends with "relayd: out of
memory" (policy/base/mem.h): the queue is safe, the next start goes on, and no message is blamed.
"""

import pathlib
import random
import re
import signal
import subprocess

import pytest

from rig.mixed import QUICK, Mixed
from rig.node import BUILD, merge, sanitized
from rig.preload import library
from rig.promise import LONG, size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

FUZZ = pathlib.Path(__file__).parents[2] / "fuzz"
TARGETS = sorted(f.relative_to(FUZZ) for f in FUZZ.glob("*/fuzz_*.c"))
IN_FLIGHT = 40        # deliveries between a remote's 250 and our commit when the daemon ends
FILTER = 4000         # allocations of libseccomp for the filter, at least
DIED = -signal.SIGABRT


@pytest.fixture
def seed():
    if sanitized():
        pytest.skip("a sanitizer has an allocator of its own")
    return random.SystemRandom().randrange(1 << 30)


@pytest.mark.parametrize("layer", sorted({str(t.parent) for t in TARGETS}))
def test_h10_parsers_without_memory(promise, seed, layer):
    """Every fuzz target with its corpus, its n-th allocation failing, each in its own process."""
    promise("H10", "every failing allocation in a parser: an error without a leak, or an end that "
                   "says why")
    for target in (t for t in TARGETS if str(t.parent) == layer):
        name = target.stem.removeprefix("fuzz_")
        files = sorted((FUZZ / layer / "corpus" / name).iterdir())
        if not LONG:
            files = random.Random(seed).sample(files, min(2, len(files)))
        done = subprocess.run([BUILD / "tests" / f"nomem_{name}", str(size(15, 4000)), str(seed),
                               *files], capture_output=True, text=True, errors="replace",
                              timeout=600 * PATIENCE)
        found = re.search(r"^cases (\d+) bad (\d+)$", done.stdout, re.M)
        assert done.returncode == 0 and found, f"seed {seed}: {done.stdout}{done.stderr[-2000:]}"
        promise.case(int(found[1]))


@pytest.fixture
def bed(world, seed):
    nomem = library(world, "nomem", pathlib.Path(__file__).with_name("nomem.c"))
    key = world.key("src.test", "cn")
    node = world.node(start=False, config=merge(QUICK, {
        "dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]}))
    return node, Mixed(world, node), nomem


def says_why(code, said):
    """Is this an end as it should be?"""
    if code == DIED:
        return "relayd: out of memory" in said
    return code in range(64, 79) and any(
        line.startswith("relayd:") or "yaml" in line or "Cannot allocate memory" in line
        for line in said)


def run_case(bed, at, times):
    """The daemon's allocation `at` fails, and some more; then a start with all there is."""
    node, traffic, nomem = bed
    mark = node.log.mark()
    before = len(node.log.lines())
    node.env = {"LD_PRELOAD": str(nomem), "NOMEM_AT": str(at), "NOMEM_TIMES": str(times)}
    code = node.try_start()
    duplicates = 0
    traffic.begin(250)
    if code is None:
        until(lambda: not node.running() or not traffic.going(), 60, "the end of the load")
        if not node.running():
            code = node.wait_exit()
            duplicates = IN_FLIGHT
    traffic.end()
    hit = bool(node.log.all(since=mark, event="nomem"))
    said = node.log.lines()[before:]
    if code is not None:
        assert hit and says_why(code, said), f"exit {code}: {said[-3:]}"
    node.env = {}
    if node.running():
        node.stop()  # it went on: that must end well, too
    node.start()
    assert not node.log.all(since=mark, alert="poison"), "a message was blamed for it"
    traffic.settle(duplicates)
    node.wait_empty()
    assert node.ctl("verify").returncode == 0
    node.stop()
    return hit


def test_h10_daemon_without_memory(bed, promise, seed):
    promise("H10", "any failing allocation of the daemon: it goes on, or ends and says why; nothing "
                   "acknowledged is lost")
    rng = random.Random(seed)
    for _ in range(size(4, 250)):
        at = int(10 ** rng.uniform(1, 5))
        times = rng.choice((1, 1, 3, 100))
        try:
            promise.case(run_case(bed, at, times))
        except AssertionError as e:
            raise AssertionError(f"allocation {at}, times {times}, seed {seed}: {e}") from e


def test_h10_filter_without_memory(bed, promise, seed):
    """libseccomp crashes, hangs, or makes another filter than it was asked for, and says nothing."""
    promise("H10", "any failing allocation of libseccomp: a filter as it should be, or none, and "
                   "the log says so")
    node, _, nomem = bed
    for at in random.Random(seed).sample(range(FILTER), size(5, 150)):
        mark = node.log.mark()
        node.env = {"LD_PRELOAD": str(nomem), "NOMEM_AT": str(at), "NOMEM_TIMES": "1",
                    "NOMEM_FILTER": "yes"}
        node.start()
        warned = node.log.all(since=mark, event="sandbox")
        filtered = node.log.wait(since=mark, event="ready")["seccomp"]
        assert filtered == ("no" if warned else "yes"), f"allocation {at}, seed {seed}"
        assert node.log.all(since=mark, event="nomem"), f"there is no allocation {at} any more"
        assert not any("crashed" in line for line in node.log.lines())
        node.stop()
        promise.case()
