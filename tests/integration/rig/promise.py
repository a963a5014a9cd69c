"""What a torture test proves, in how many cases: short every day, long with scripts/test --torture.

    pytestmark = pytest.mark.torture

    def test_a01_kill_9_under_load_loses_nothing(world, promise):
        promise("A01", "kill -9 at any instant: nothing acknowledged is lost")
        for _ in range(size(20, 2000)):
            ...
            promise.case()

Everything a case needs to be run again (a seed, the number of a call) belongs into its message.
"""

import os

LONG = os.environ.get("RELAYD_TORTURE") == "1"


def size(everyday, long):
    """How much of something: the everyday amount, or that of the long run."""
    return long if LONG else everyday


class Promise:
    """Counts the cases of the promise that a test names; told in the test's JUnit properties."""

    def __init__(self, record_property):
        self._record = record_property
        self._name, self._cases = None, 0

    def __call__(self, ident, text):
        """A test proves one promise: its id in the catalogue, and the promise in a line."""
        self._name = f"{ident} {text}"
        return self

    def case(self, n=1):
        self._cases += n

    def close(self):
        if self._name:
            self._record("promise", self._name)
            self._record("cases", self._cases)
