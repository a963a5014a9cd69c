"""What the log tells of every message: one `received` line, one `attempt` line an attempt."""

import json

import pytest

from rig import mail
from rig.remote import CLOSE
from rig.wait import until

RECEIVED = {"msg", "sender", "rcpts", "size", "client", "proto", "tls", "user", "message_id",
            "signed", "delay"}
ATTEMPT = {"msg", "rcpt", "sender", "route", "site", "peer", "tls", "phase", "code", "enh", "class",
           "outcome", "delay", "queue", "connect", "transfer"}
ONCE = {"queue": {"retry": {"intervals": ["1h"]}}}


def test_every_message_has_one_received_line(world):
    key = world.key("src.test", "cn")
    mx = world.mx("dest.test")
    node = world.node(config={"dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]})
    message = mail.message(ident="said")
    ident = node.submit("a@src.test", ["b@dest.test", "c@dest.test"], message)
    mx.wait_mail()
    node.log.wait(event="received", msg=ident)
    (line,) = node.log.all(event="received", msg=ident)
    assert RECEIVED <= set(line)
    assert (line["sender"], line["rcpts"], line["size"]) == ("a@src.test", "2", str(len(message)))
    assert line["message_id"] == "<said@src.test>" and line["signed"] == "src.test/cn"
    assert "127.0.0.1" in line["client"] and line["proto"] == "ESMTP"


def test_report_has_its_received_line_too_and_names_the_original(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no")
    node = world.node()
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    back.wait_mail()
    line = node.log.wait(event="received", original=ident)
    assert (line["sender"], line["rcpt"], line["notice"]) == ("", "a@src.test", "failed")
    assert node.log.wait(event="attempt", msg=line["msg"], outcome="delivered")["sender"] == ""


@pytest.mark.parametrize("stage, reply, outcome, klass, code, enh", [
    ("dot", "250 2.0.0 taken", "delivered", "ok", "250", "2.0.0"),
    ("rcpt", "550 5.1.1 no such user here", "failed", "bad-mailbox", "550", "5.1.1"),
    ("rcpt", "451 4.3.0 try again later", "deferred", "server-busy", "451", "4.3.0"),
    ("greeting", "554 5.7.1 no such user here, go away", "failed", "bad-mailbox", "554", "5.7.1"),
    ("greeting", "421 4.3.2 too busy", "deferred", "server-busy", "421", "4.3.2"),
    ("mail", CLOSE, "deferred", "routing-error", "0", "4.4.2")])
def test_every_attempt_has_one_line_with_all_its_fields(world, stage, reply, outcome, klass, code,
                                                        enh):
    mx = world.mx("dest.test")
    mx.answer(stage, reply)
    world.mx("src.test")
    node = world.node(config=ONCE)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome=outcome)
    assert len(node.log.all(event="attempt", msg=ident)) == 1
    assert ATTEMPT <= set(line)
    assert (line["rcpt"], line["sender"]) == ("b@dest.test", "a@src.test")
    assert (line["route"], line["site"]) == ("direct", mx.hostname)
    assert line["peer"] == f"{mx.address}:25"
    phase = "body-end" if stage == "dot" else stage
    assert (line["phase"], line["code"], line["enh"]) == (phase, code, enh)
    assert line["class"] == klass
    for part in ("delay", "queue", "connect", "transfer"):
        assert float(line[part]) >= 0


def test_attempt_that_reaches_nobody_names_whom_it_tried(world):
    address = world.take()
    world.dns.site("dest.test", "mx.dest.test", address)
    node = world.node(config=ONCE)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert (line["peer"], line["host"], line["phase"]) == (f"{address}:25", "mx.dest.test",
                                                          "connect")


def test_refusal_by_every_host_is_reported_with_the_host_that_said_it(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("greeting", "554 5.7.1 no such user here, go away")
    world.node().submit("a@src.test", "b@dest.test", mail.message())
    fields = mail.report(back.wait_mail().data).recipients[0]
    assert fields["Remote-MTA"] == f"dns; {mx.hostname}"
    assert fields["Diagnostic-Code"] == "smtp; 554 5.7.1 no such user here, go away"


def test_each_recipient_is_told_of_with_the_host_that_decided_about_it(world):
    """The first host refuses one recipient and is lost; the second takes the other."""
    back = world.mx("src.test")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    first = world.remote("mx1.dest.test", certificate=world.ca.issue("mx1.dest.test"))
    second = world.remote("mx2.dest.test")
    first.answer("rcpt", "550 5.1.1 no such user", match="bad@")
    first.answer("data", CLOSE)
    node = world.node()
    ident = node.submit("a@src.test", ["bad@dest.test", "good@dest.test"], mail.message())
    fields = mail.report(back.wait_mail().data).recipients[0]
    bad = node.log.wait(event="attempt", msg=ident, rcpt="bad@dest.test")
    good = node.log.wait(event="attempt", msg=ident, rcpt="good@dest.test")
    assert (bad["host"], bad["peer"]) == (first.hostname, f"{first.address}:25")
    assert (good["host"], good["peer"]) == (second.hostname, f"{second.address}:25")
    assert bad["tls"].startswith("TLSv1.3 ") and not good["tls"]
    assert fields["Remote-MTA"] == f"dns; {first.hostname}"


def test_tls_of_an_attempt_is_in_its_line(world):
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))
    node = world.node()
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    line = node.log.wait(event="attempt", msg=ident, outcome="delivered")
    assert line["tls"].startswith("TLSv1.3 ")


def test_json_lines_hold_the_same_fields(world):
    mx = world.mx("dest.test")
    node = world.node(config={"log": {"format": "json"}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()

    def lines(event):
        found = [json.loads(line) for line in node.log.lines() if line.startswith("{")]
        return [e for e in found if e["event"] == event and e.get("msg") == ident]

    until(lambda: lines("attempt"), what="the attempt line")
    assert RECEIVED <= set(lines("received")[0]) and ATTEMPT <= set(lines("attempt")[0])


def test_level_leaves_out_what_is_below_it(world):
    mx = world.mx("dest.test")
    node = world.node(config={"log": {"level": "warn"}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    node.wait_empty()
    node.stop()
    assert not node.log.all(level="info") and node.log.all(level="warning")
