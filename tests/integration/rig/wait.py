"""Waiting for conditions, never for time."""

import os
import time

# Sanitizer builds are slower: scripts/test sets a factor for every deadline.
PATIENCE = float(os.environ.get("RELAYD_TEST_PATIENCE", "1"))
DEFAULT = 20.0


def until(condition, timeout=DEFAULT, what="condition", every=0.02):
    """Return the first true value of condition(); fail after timeout (scaled by PATIENCE)."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout * PATIENCE:.0f} s in vain for {what}")
        time.sleep(every)
