"""Non-delivery reports (RFC 3464), read by Python's email package as a mail client would."""

import re

import pytest

from rig import dkimkeys, mail
from rig.wait import until

QUICK = {"queue": {"retry": {"intervals": ["1s"], "jitter": "0%", "max_age": "2s"}}}


def bounce(world, node, rcpts="b@dest.test", message=None, params=""):
    """Submit from a@src.test and return the report that comes back."""
    back = world.mx("src.test")
    node.submit("a@src.test", rcpts, message or mail.message(), params)
    got = back.wait_mail()
    assert got.sender == "" and got.rcpts == ["a@src.test"]
    return mail.report(got.data)


def test_550_comes_back_as_a_complete_report(world):
    destination = world.postfix("mx.dest.test").as_destination("dest.test").start()
    world.dns.site("dest.test", "mx.dest.test", destination.address)
    destination.access("rcpt", "550 5.1.1 No such user here")
    node = world.node()
    message = mail.message(ident="lost1", body="private body\r\n")
    report = bounce(world, node, message=message, params="RET=FULL")

    head = report.message
    assert head["Auto-Submitted"] in ("auto-replied", "auto-generated")
    assert "a@src.test" in head["To"]
    assert head["From"] and head["Date"] and head["Message-ID"] and head["Subject"]
    assert report.status["Reporting-MTA"] == "dns; smtp-cn.relay.test"
    assert report.status["Received-From-MTA"] == "dns; client.test"
    assert report.status["Arrival-Date"]
    assert len(report.recipients) == 1
    fields = report.recipients[0]
    assert fields["Final-Recipient"] == "rfc822; b@dest.test"
    assert fields["Action"] == "failed"
    assert fields["Status"] == "5.1.1"
    assert fields["Remote-MTA"] == "dns; mx.dest.test"
    assert re.match(r"smtp; 550 5\.1\.1 .*No such user here", fields["Diagnostic-Code"])
    assert fields["Last-Attempt-Date"]
    assert report.returned_type == "message/rfc822"
    assert b"lost1" in report.returned and b"private body" in report.returned


@pytest.mark.parametrize("helo", ["[192.0.2.9]", "-office-", "x..y", "10.1.2.3"])
def test_client_without_a_name_is_told_of_by_its_address(world, helo):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no")
    with world.node().client() as session:
        session.ehlo(helo)
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        session.data(mail.message())
    report = mail.report(back.wait_mail().data)
    assert report.status["Received-From-MTA"] == "dns; [127.0.0.1]"


def test_human_part_has_chinese_and_english_with_the_words_of_the_remote(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 mailbox of b is unavailable")
    report = bounce(world, world.node(config={"notices": {"language": ["zh", "en"]}}))
    assert "mailbox of b is unavailable" in report.text
    assert "b@dest.test" in report.text
    chinese = re.search(r"[\u4e00-\u9fff]", report.text)
    english = re.search(r"\b(delivered|deliver|recipient|message)\b", report.text)
    assert chinese and english and chinese.start() < english.start()


def test_only_the_configured_language_is_used(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no")
    report = bounce(world, world.node(config={"notices": {"language": ["en"]}}))
    assert not re.search(r"[\u4e00-\u9fff]", report.text)


def test_recipients_that_fail_together_share_one_report(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no such user", match="bad")
    node = world.node()
    report = bounce(world, node, ["bad1@dest.test", "good@dest.test", "bad2@dest.test"])
    failed = sorted(f["Final-Recipient"] for f in report.recipients)
    assert failed == ["rfc822; bad1@dest.test", "rfc822; bad2@dest.test"]
    assert mx.wait_mail().rcpts == ["good@dest.test"]


def test_ret_hdrs_returns_headers_only(world):
    mx = world.mx("dest.test")
    mx.answer("dot", "554 5.6.0 malformed")
    report = bounce(world, world.node(), params="RET=HDRS ENVID=abc+2Bdef",
                    message=mail.message(ident="hdrs", body="private body\r\n"))
    assert report.returned_type == "text/rfc822-headers"
    assert b"hdrs@src.test" in report.returned and b"private body" not in report.returned
    assert report.status["Original-Envelope-Id"] == "abc+def"
    assert report.recipients[0]["Status"] == "5.6.0"


def test_large_message_is_returned_as_headers_only(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no")
    big = mail.message(body="x" * 70 + "\r\n" + ("y" * 76 + "\r\n") * 40000)
    report = bounce(world, world.node(), message=big)
    assert report.returned_type == "text/rfc822-headers"
    assert len(report.returned) < 10000


def test_original_recipient_is_given_back(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no")
    report = bounce(world, world.node(), [("b@dest.test", "ORCPT=rfc822;first+2Bname@old.test")])
    given = report.recipients[0]["Original-Recipient"].replace(" ", "")
    assert given == "rfc822;first+name@old.test"


def test_nxdomain_and_null_mx_bounce_at_once_with_their_codes(world):
    world.dns.null_mx("nomail.test")
    back = world.mx("src.test")
    world.node().submit("a@src.test", ["x@nomail.test", "y@nowhere.test"], mail.message())

    def status():
        """Both are known after look-ups of their own: in one report, or in two."""
        return {f["Final-Recipient"]: f["Status"] for m in list(back.mails)
                for f in mail.report(m.data).recipients}

    until(lambda: len(status()) == 2, what="reports of both recipients")
    assert status() == {"rfc822; x@nomail.test": "5.1.10", "rfc822; y@nowhere.test": "5.1.2"}


def test_expired_message_is_returned_after_a_failed_attempt(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "450 4.2.1 mailbox busy")
    report = bounce(world, world.node(config=QUICK))
    fields = report.recipients[0]
    assert fields["Action"] == "failed"
    assert "450 4.2.1 mailbox busy" in fields["Diagnostic-Code"]
    assert len(mx.sessions) >= 2 or len([c for c in mx.commands() if c.startswith("RCPT")]) >= 2


def test_message_from_the_null_sender_never_causes_a_report(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no such user")
    node = world.node()
    ident = node.submit("", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="failed")
    node.wait_empty()
    assert len(mx.wait_sessions(1)) == 1
    assert not node.log.all(event="received", sender="", msg=lambda m: m != ident)


def test_report_is_signed_when_a_key_fits(world):
    key = world.key("relay.test", "cn")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no")
    back = world.mx("src.test")
    node = world.node(config={"dkim": [
        {"domains": ["relay.test", "*.relay.test"], "key_file": str(key.path)}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(back.wait_mail().data, world.dns, ("relay.test", "cn"))


def test_hostile_reply_text_cannot_forge_fields_or_log_lines(world):
    mx = world.mx("dest.test")

    def hostile(session):
        session.send(b"550-5.1.1 no\x1b[31m\x00 such\x07\n"
                     b"Action: delivered\r\n550 5.1.1 \xff\xfe level=alert event=forged\r\n")

    mx.answer("rcpt", hostile)
    node = world.node(config=QUICK)
    report = bounce(world, node)
    assert [f["Action"] for f in report.recipients] == ["failed"]
    assert len(report.recipients) == 1
    assert b"\x1b" not in report.message.as_bytes() and b"\x00" not in report.message.as_bytes()
    assert not node.log.all(event="forged")
    assert all("\x1b" not in line for line in node.log.lines())


def test_report_names_every_route_that_refused(world):
    mx, hop = world.mx("dest.test"), world.remote("hop.test")
    mx.answer("mail", "550 5.7.1 Service unavailable; client host blocked using sbl.spamhaus.org")
    hop.answer("rcpt", "550 5.1.1 user unknown there")
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"domains": ["src.test"], "route": "direct"},
                          {"default": True, "route": "direct", "fallback": ["out"]}]})
    report = bounce(world, node)
    assert "spamhaus" in report.text and "user unknown there" in report.text
