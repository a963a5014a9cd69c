"""relayctl classify: what a refusal means and what is done about it."""

import json

import pytest

from rig import mail
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


OWN = [{"name": "gone", "class": "inactive-mailbox", "action": "bounce", "match": "for ever"}]


@pytest.mark.parametrize("reply, action, outcome", [
    ("452 4.2.2 gone for ever", "bounce", "failed"),
    ("452 4.2.2 https://support.google.com/mail/?p=OverQuotaPerm", "retry", "deferred"),
    ("452 4.3.4 message too large", "retry", "deferred"),
    ("550 5.1.1 gone for ever", "bounce", "failed"),
    ("552 5.2.2 mailbox full", "retry", "deferred"),
])
def test_verb_tells_what_the_daemon_does(world, reply, action, outcome):
    """A 4xx is temporary, unless a rule of the administrator's says otherwise."""
    mx = world.mx("dest.test")
    world.mx("src.test")
    mx.answer("rcpt", reply)
    node = world.node(config={"classify": {"rules": OWN}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    said = run(binary("relayctl"), "-c", str(node.config_file), "classify",
               input=json.dumps({"response": reply, "stage": "rcpt"}) + "\n").stdout
    line = node.log.wait(event="attempt", msg=ident)
    assert (line["outcome"], json.loads(said)["action"]) == (outcome, action)
