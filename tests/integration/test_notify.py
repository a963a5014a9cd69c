"""Delivery status notifications as the sender asks for them (RFC 3461), and delay notices."""

import re

import pytest

from rig import mail
from rig.chain import Chain

NO_DSN = ["PIPELINING", "8BITMIME"]
LATE = {"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}, "warn_after": ["2s"]}}


def quiet(node, back):
    """Nothing was sent to the sender although all is done."""
    node.wait_empty()
    assert not back.mails and not back.sessions


def test_parameters_are_passed_on_to_a_host_that_offers_dsn(world):
    mx = world.mx("dest.test")
    world.node().submit("a@src.test", [("b@dest.test", "NOTIFY=SUCCESS,FAILURE "
                                        "ORCPT=rfc822;old+2Bname@x.test")],
                        mail.message(), params="RET=HDRS ENVID=QQ+2D1")
    got = mx.wait_mail()
    params = got.params.split()
    assert "RET=HDRS" in params and "ENVID=QQ+2D1" in params or "ENVID=QQ-1" in params
    rcpt = got.rcpt_params["b@dest.test"].upper()
    assert "ORCPT=RFC822;OLD+2BNAME@X.TEST" in rcpt
    notify = re.search(r"NOTIFY=(\S+)", rcpt).group(1).split(",")
    assert sorted(notify) == ["FAILURE", "SUCCESS"]


def test_parameters_are_left_out_for_a_host_without_dsn(world):
    mx = world.mx("dest.test", extensions=NO_DSN)
    world.node().submit("a@src.test", [("b@dest.test", "NOTIFY=FAILURE")], mail.message(),
                        params="RET=HDRS ENVID=x")
    got = mx.wait_mail()
    assert "RET" not in got.params and "NOTIFY" not in got.rcpt_params["b@dest.test"]


def test_success_is_reported_as_relayed_when_the_next_host_has_no_dsn(world):
    mx, back = world.mx("dest.test", extensions=NO_DSN), world.mx("src.test")
    world.node().submit("a@src.test", [("b@dest.test", "NOTIFY=SUCCESS")], mail.message())
    mx.wait_mail()
    report = mail.report(back.wait_mail().data)
    fields = report.recipients[0]
    assert (fields["Action"], fields["Final-Recipient"]) == ("relayed", "rfc822; b@dest.test")
    assert fields["Status"].startswith("2.")
    assert report.returned_type in (None, "text/rfc822-headers"), "a success returns no body"


def test_success_is_passed_on_when_the_next_host_has_dsn(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    node = world.node()
    node.submit("a@src.test", [("b@dest.test", "NOTIFY=SUCCESS")], mail.message())
    assert "SUCCESS" in mx.wait_mail().rcpt_params["b@dest.test"]
    quiet(node, back)


@pytest.mark.parametrize("told", [0, 1])
def test_success_is_told_of_by_us_for_each_host_without_dsn_and_for_no_other(world, told):
    """Two hosts take a recipient each, in one attempt: the first says 452 to y and is gone."""
    back = world.mx("src.test")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    hosts = [world.remote(f"mx{i + 1}.dest.test", **({"extensions": NO_DSN} if i == told else {}))
             for i in range(2)]
    hosts[0].answer("rcpt", "452 4.5.3 too many", match="y@", times=1)
    hosts[0].on_mail = lambda _: hosts[0].answer("mail", "421 4.3.2 shutting down")
    node = world.node()
    ident = node.submit("a@src.test", [(to, "NOTIFY=SUCCESS")
                                       for to in ("x@dest.test", "y@dest.test")], mail.message())
    hosts[0].wait_mail(rcpt="x@dest.test")
    hosts[1].wait_mail(rcpt="y@dest.test")
    report = mail.report(back.wait_mail().data)
    node.wait_empty()
    (fields,) = report.recipients
    assert (fields["Action"], fields["Final-Recipient"]) == (
        "relayed", f"rfc822; {'xy'[told]}@dest.test")
    assert len(back.mails) == 1
    assert len(node.log.all(event="attempt", msg=ident)) == 2


def test_wish_for_success_travels_over_the_hop_and_is_answered_there(world):
    mx = world.mx("abc.test", extensions=NO_DSN)
    back = world.mx("mydomain.test")
    chain = Chain(world, [{"domains": ["abc.test"], "route": "us"},
                          {"default": True, "route": "direct"}])
    chain.cn.submit("boss@mydomain.test", [("b@abc.test", "NOTIFY=SUCCESS")], mail.message())
    mx.wait_mail()
    got = back.wait_mail()
    report = mail.report(got.data)
    assert report.recipients[0]["Action"] == "relayed"
    assert "smtp-us.relay.test" in report.status["Reporting-MTA"]


@pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "DELAY"])
def test_failure_that_was_not_asked_for_is_not_reported(world, notify):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no")
    node = world.node()
    node.submit("a@src.test", [("b@dest.test", f"NOTIFY={notify}")], mail.message())
    node.log.wait(event="attempt", outcome="failed")
    quiet(node, back)


def test_failure_is_reported_only_for_the_recipients_that_want_it(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no")
    world.node().submit("a@src.test", [("never@dest.test", "NOTIFY=NEVER"),
                                       ("wants@dest.test", "NOTIFY=FAILURE")], mail.message())
    report = mail.report(back.wait_mail().data)
    assert [f["Final-Recipient"] for f in report.recipients] == ["rfc822; wants@dest.test"]


def test_delay_notice_is_sent_once_with_the_time_it_is_tried_until(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 disk trouble")
    node = world.node(config=LATE)
    node.submit("a@src.test", "b@dest.test", mail.message())
    report = mail.report(back.wait_mail().data)
    fields = report.recipients[0]
    assert fields["Action"] == "delayed" and fields["Status"].startswith("4.")
    assert fields["Will-Retry-Until"]
    assert "disk trouble" in fields["Diagnostic-Code"]
    assert report.returned_type in (None, "text/rfc822-headers")
    tries = len([c for c in mx.commands() if c.startswith("RCPT")])
    mx.wait_command("^RCPT", count=tries + 3)
    assert len(back.mails) == 1
    assert node.queue()[0]["rcpt"] == "b@dest.test"


def test_delay_notice_is_in_chinese_and_english_in_the_configured_order(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 disk trouble")
    world.node(config=LATE).submit("a@src.test", "b@dest.test", mail.message())
    text = mail.report(back.wait_mail().data).text
    chinese = re.search(r"[\u4e00-\u9fff]", text)
    assert chinese and re.search(r"[A-Za-z]{4,}", text).start() < chinese.start()
    assert "cn" in text, "the node is not named"


@pytest.mark.parametrize("notify", ["NEVER", "FAILURE"])
def test_delay_that_was_not_asked_for_is_not_reported(world, notify):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 disk trouble")
    node = world.node(config=LATE)
    node.submit("a@src.test", [("b@dest.test", f"NOTIFY={notify}")], mail.message())
    mx.wait_command("^RCPT", count=5)
    assert not back.sessions


def test_no_delay_notices_when_none_are_configured(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "451 4.3.0 disk trouble")
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"},
                                        "warn_after": []}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^RCPT", count=5)
    assert not back.sessions


@pytest.mark.parametrize("bad", ["NOTIFY=NEVER,SUCCESS", "NOTIFY=SOMETIMES", "ORCPT=no-type",
                                 "ORCPT=rfc822;a+ZZb", "NOTIFY=", "UNKNOWN=1"])
def test_bad_parameters_are_refused(world, bad):
    with world.node().client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test", bad).code in (501, 555)
        assert session.rcpt("b@dest.test").code == 250


def test_newlines_hidden_in_xtext_never_come_out(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no")
    back = world.mx("src.test")
    node = world.node()
    with node.client() as session:
        session.ehlo()
        reply = session.mail("a@src.test", "ENVID=x+0D+0AAction:+20delivered")
        if reply.code == 250:
            session.rcpt("b@dest.test", "ORCPT=rfc822;a+0D+0AAction:+20delivered")
            session.rcpt("b@dest.test")
            session.data(mail.message())
            report = mail.report(back.wait_mail().data)
            assert [f["Action"] for f in report.recipients] == ["failed"]
            assert not report.status["Action"]
        else:
            assert reply.code == 501
