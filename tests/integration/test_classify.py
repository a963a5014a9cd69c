"""relayctl classify: what a refusal means and what is done about it."""

import json

from rig.node import binary
from rig.proc import run


def test_classify_verb_needs_no_daemon():
    lines = [{"response": "550 5.1.1 user unknown", "stage": "rcpt"},
             {"response": "421 4.7.0 Greylisted, please come back later", "stage": "rcpt"},
             {"response": "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using "
                          "zen.spamhaus.org", "stage": "rcpt"}]
    done = run(binary("relayctl"), "classify",
               input="".join(json.dumps(line) + "\n" for line in lines))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["class"] for a in answers] == ["bad-mailbox", "greylisted", "ip-blocklisted"]
    assert [a["action"] for a in answers] == ["bounce", "retry", "reroute"]
    assert [a["response"] for a in answers] == [line["response"] for line in lines]
    assert all("rule" in a for a in answers)
