"""Random dialogues against a second account of each protocol core (tests/dialog/models), in
virtual time: commands from a grammar, pipelined, cut into pieces, answered late, at odd moments.
"""

import os
import subprocess

import pytest

from rig.promise import size
from rig.node import BUILD

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("core", ["smtpd", "smtpc"])
def test_c14_random_dialogues_agree_with_the_model(promise, core):
    promise("C14", "random SMTP dialogues: replies, outcomes and messages agree with the model")
    n = size(2000, 1_000_000)
    done = subprocess.run([BUILD / "tests" / f"test_{core}_model"], text=True,
                          env={**os.environ, "RELAYD_DIALOGUES": str(n)}, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    promise.case(n)
