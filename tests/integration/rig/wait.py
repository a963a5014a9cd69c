"""Waiting for conditions, never for time."""

import datetime
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


def seconds_until(moment):
    """How far away a moment is, as relayctl gives it: RFC 3339, or (milli)seconds since 1970."""
    if isinstance(moment, str):
        then = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    else:
        then = moment / 1000 if moment > 1e11 else moment
    return then - time.time()
