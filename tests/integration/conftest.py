"""One World per test; the ends of all logs are shown with a failure."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from rig.promise import Promise  # noqa: E402 (the path comes first)
from rig.world import World  # noqa: E402

LINES_SHOWN = 40


@pytest.fixture
def world(request):
    world = World()
    request.node.stash[_WORLD] = world
    yield world
    failed = request.node.stash.get(_FAILED, False)
    world.close(keep=failed)


@pytest.fixture
def promise(record_property):
    """What this test proves and in how many cases: see rig/promise.py."""
    promise = Promise(record_property)
    yield promise
    promise.close()


_WORLD = pytest.StashKey()
_FAILED = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    world = item.stash.get(_WORLD, None)
    if call.when == "teardown" and world:
        del item.stash[_WORLD]  # items live as long as the run
    if not report.failed or not world:
        return
    item.stash[_FAILED] = True
    for path in world.logs():
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            report.sections.append((str(path), "\n".join(lines[-LINES_SHOWN:])))
