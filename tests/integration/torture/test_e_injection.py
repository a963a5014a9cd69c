"""E05, E06, E07: no text from outside makes a line of a header, a log, a report or a command."""

import re

import pytest

from rig import mail
from rig.certs import Certificate
from rig.hostile import DATA, EHLO, MAIL, MESSAGE, Bench, bare
from rig.oddns import OddDns
from rig.proc import run

pytestmark = pytest.mark.torture

CONTROL = [bytes([b]) for b in (*range(1, 10), 11, 12, *range(14, 32), 127)]
SPECIAL = list("()<>@,;\\\"")

NAMES = [
    *[b"a" + c + b"b" for c in CONTROL], b"a\0b", *[f"a{c}b".encode() for c in SPECIAL], b"",
    b"evil.test\tby x", b"evil.test (trusted [198.51.100.1])", b"[127.0.0.1])\t(by", b"x" * 256, b"x" * 900,
    b"x" * 1900, b"a b", b"a b c", b"\xff", "b\u00fccher.test".encode(), "a\u2028b".encode(), "a\u202eb".encode(),
    b"\xc2\x85", b"\x1b[2J", b"event=received\x0bmsg=1", b"a;b", b"$(id)",
]
# Taken, because names are not judged; no more of them may be shown than a host name can hold.
STRANGE = [b"%s%n", b"x" * 255, b"a..b", b"-", b"_", b"[", b"]", b"[]", b"[[]]", b"[IPv6:", b"a=b", b"a|b", b"a'b", b"a`b",
           b"a{b}", b"a%0d%0aX-Evil:yes", b"a&b", b"a/b", b"a?b", b"a#b", b"a!b", b"a*b", b"a+b", b"a~b", b"a^b",
           b"$PATH", b"msg=cn.1", b"level=alert", b"1", b"1.2.3.4", b"[1.2.3.4]", b"[999.1.1.1]",
           b"[IPv6:2001:db8::1]", b"localhost", b"A.B.C"]


def head_of(message):
    return message.data.partition(b"\r\n\r\n")[0]


def test_e05_names_of_clients_make_no_field_and_no_log_line(world, promise):
    promise("E05", "EHLO and HELO names with controls, brackets, 900 octets: refused, or a word")
    bench = Bench(world, promise)
    for verb in (b"EHLO ", b"HELO "):
        for name in NAMES:
            bench.vector(repr(name), (verb + name + b"\r\n", "501|500"), (b"MAIL FROM:<a@src.test>\r\n", "503"))
        for name in (b"a\nMAIL FROM:<evil@x.test>", b"a\rMAIL FROM:<evil@x.test>"):
            with bench.client() as session:
                session.send(verb + name + b"\r\n")
                assert session.reply().code == 500 and session.closed()
            promise.case()
        for name in STRANGE:
            bench.vector(repr(name), (verb + name + b"\r\n", "250"), MAIL, (b"RCPT TO:<b@dest.test>\r\n", "250"), DATA,
                         (MESSAGE + b".\r\n", "250 2.0.0 queued"))
    for m in bench.settle().values():
        received = re.match(rb"Received: from (\S+) \(\[127\.[\d.]+\]\)\r\n\tby \S+ \(relayd cn\) with E?SMTP\r\n"
                            rb"\tid \S+ for <b@dest\.test>;\r\n\t[^\r]+\r\n(?=\S)", m.data)
        assert received, m.data[:800]
        assert re.fullmatch(rb"[A-Za-z0-9._:\[\]?-]{1,255}", received.group(1))
        assert not re.search(rb"(?m)^X-Evil", m.data)


def test_e05_senders_recipients_and_parameters_make_none(world, promise):
    promise("E05", "quoted local parts full of syntax: in fields and log lines they stay one value")
    bench = Bench(world, promise)
    locals_ = ['"a) by evil (b"', '"a; b"', '"a> x=<b"', '" event=received "', '"a\\"b=c"', "a=b", '"=="', '"a\\\\"',
               '"\\\\\\""', "(".join(['"', '"']), ")".join(['"', '"']), '"' + "(" * 60 + '"', "a'b", "%s%n%x",
               '"<b@dest.test>"', '"a,b,c"', '"::"', "{}", '"\t"'.replace("\t", " ")]
    with bench.client() as session:
        session.ehlo()
        for local in locals_:
            assert session.mail(f"{local}@src.test").code == 250
            assert session.rcpt(f"{local}@dest.test").code == 250
            bench.note(session.data(MESSAGE)).queued_id
            promise.case()
    messages = bench.settle(rcpts=[f"{local}@dest.test" for local in locals_], sender=None)
    for ident, m in messages.items():
        assert len(mail.received(m.data)) == 1 and head_of(m).count(b"\nFrom:") == 1
        [entry] = bench.node.log.all(event="received", msg=ident)
        assert entry["sender"] == m.sender
        [attempt] = bench.node.log.all(event="attempt", msg=ident)
        assert attempt["rcpt"] == m.rcpts[0] and attempt["outcome"] == "delivered"


BAD_XTEXT = ["+0D+0A", "+0A", "+0D", "a+0D+0AMAIL+20FROM:<evil@x.test>", "+00", "+09", "+1B", "+7F", "+0d+0a", "+", "+A",
             "+0", "+GG", "+-1", "+0x", "a+", "a=b", "+85+0A"]


def test_e06_xtext_newlines_never_become_newlines(world, promise):
    promise("E06", "ORCPT, ENVID, AUTH with +0D+0A: refused; other octets reach hop and report encoded")
    bench = Bench(world, promise)
    home = world.mx("src.test")
    for text in BAD_XTEXT:
        bench.vector(text, EHLO, (f"MAIL FROM:<a@src.test> ENVID={text}\r\n".encode(), "501"),
                     (f"MAIL FROM:<a@src.test> AUTH={text}\r\n".encode(), "501|555"), MAIL,
                     (f"RCPT TO:<b@dest.test> ORCPT=rfc822;{text}\r\n".encode(), "501"),
                     (f"RCPT TO:<b@dest.test> ORCPT=utf-8;{text}\r\n".encode(), "501"))
    for text in (r"\x{0D}\x{0A}", r"\x{0A}", r"\x{85}", r"\x{1B}", r"\x{D800}", r"\x{}", r"\x{110000}", r"\n", "\\"):
        bench.vector(text, EHLO, MAIL, (f"RCPT TO:<b@dest.test> ORCPT=utf-8;{text}\r\n".encode(), "501"))
    # Encoded octets that are not controls go on as they came, and are decoded only in a report.
    good = ["a+2Bb", "+22a+20b+22", "a+3Db", "+85x", "+C2+85x", "+E2+80+A8x", "+FF+FE", "+3Ca+3E", "+28a+29", "a+3Bb",
            "a+20+20+20b", "+22+5C+22", "x" * 100]
    bench.mx.answer("rcpt", "550 5.1.1 no such user", match="gone")
    for text in good:
        bench.vector(text, EHLO, (f"MAIL FROM:<a@src.test> RET=HDRS ENVID={text[:100]}\r\n".encode(), "250"),
                     (f"RCPT TO:<b@dest.test> ORCPT=rfc822;{text}\r\n".encode(), "250"), DATA,
                     (MESSAGE + b".\r\n", "250 2.0.0 queued"))
    came = bench.settle().values()
    assert sorted(m.rcpt_params["b@dest.test"] for m in came) == sorted(f"ORCPT=rfc822;{t}" for t in good)
    assert sorted(m.params.partition("ENVID=")[2] for m in came) == sorted(good)
    with bench.client() as session:
        session.ehlo()
        for text in good:
            session.submit("a@src.test", [("gone@dest.test", f"ORCPT=rfc822;{text}")], MESSAGE,
                           f"RET=HDRS ENVID={text[:100]}")
            promise.case()
    for m in home.wait_mail(len(good)):
        assert not bare(m.raw)
        assert all(32 <= b < 127 or b in b"\r\n\t" for b in head_of(m)), head_of(m)
        status = m.data.partition(b"message/delivery-status")[2].partition(b"\r\n--")[0]
        assert all(32 <= b < 127 or b in b"\r\n\t" for b in status), status
        report = mail.report(m.data)
        assert len(report.recipients) == 1 and report.recipients[0]["Final-Recipient"] == "rfc822; gone@dest.test"
        assert "Original-Recipient" in report.recipients[0]
    bench.node.wait_empty()
    bench.assert_log()


REPLIES = ["550 5.1.1 plain", "550 5.1.1 \x1b[31mred\x07\x08", "550 5.1.1 a\x00b", "550 5.1.1 a\rb", "550 5.1.1 a\nb",
           "550", "550 ", "550 5.1.1", "550 5.1.1 \xff\xfe\x85", "550 5.1.1 \u2028\u202e\u0085", "550 5.1.1 " + "x" * 1900,
           "550 5.1.1 event=alert msg=\"x\"", "550 5.1.1 x\nAction: delivered\nStatus: 2.0.0",
           "550 5.1.1 Final-Recipient: rfc822; evil@x.test", "550 5.1.1 =?utf-8?q?=0D=0A?=", "550 5.1.1 %s%n",
           "550-5.1.1 a\r\n550 5.1.1 .\r\n.", "550 5.1.1 --boundary--", "550 5.1.1 <b@dest.test>: 250 ok"]


def test_e07_words_of_servers_stay_words_in_logs_and_reports(world, promise):
    promise("E07", "replies with controls, fields, dots and no text: log and report hold one value")
    bench = Bench(world, promise)
    home = world.mx("src.test")
    served = iter(REPLIES)

    def answer(session):
        session.send(next(served).encode("latin-1", "replace") + b"\r\n")
        return None

    bench.mx.answer("rcpt", answer)
    for _ in REPLIES:
        bench.node.submit("a@src.test", "b@dest.test", MESSAGE)
        done = bench.node.log.wait(event="attempt", rcpt="b@dest.test", count=1, since=promise_mark(bench))
        assert done["outcome"] in ("failed", "deferred"), done
        promise.case()
    bench.assert_log()
    for m in list(home.mails):
        assert not bare(m.raw)
        report = mail.report(m.data)
        assert [r["Action"] for r in report.recipients] == ["failed"], m.data
        assert report.recipients[0]["Status"].startswith("5.")
        assert all(32 <= b < 127 or b in b"\r\n\t" for b in head_of(m))
    assert len(home.mails) >= len(REPLIES) // 2
    bench.node.ctl("queue", "remove", "--domain", "dest.test", check=False)
    bench.node.wait_empty()


def promise_mark(bench):
    """The log as far as the attempts that have been seen already."""
    mark, bench.seen = getattr(bench, "seen", 0), bench.node.log.mark()
    return mark


def test_e07_names_in_dns_stay_names(world, promise):
    promise("E07", "MX targets with newlines, blanks, controls, quotes: no line of a log or report")
    odd = [r"mx\010evil.test", r"mx\013\010x.test", r"a\032b.test", r"\027[31m.test", r"a\"b.test", r"a\=b.test",
           r"\000.test", r"\255\254.test", r"a\;b.test", r"x\.y.test", "a" * 63 + ".test", r"\(a\).test", "*.test"]
    asked = {f"d{i}.test": target for i, target in enumerate(odd)}

    def answer(name, kind):
        if name in asked and kind == "MX":
            return [(name, "MX", f"10 {asked[name]}.")]
        return None

    resolver = world.keep(OddDns(world.take(), answer))
    home = world.mx("src.test")
    node = world.node(config={"resolver": {"servers": [resolver.server]}, "log": {"level": "debug"},
                              "transport_map": [{"domains": ["src.test"], "route": "home"},
                                                {"default": True, "route": "direct"}],
                              "hops": {"home": {"address": f"{home.address}:25", "tls": "off"}}})
    with node.client() as session:
        session.ehlo()
        for name in asked:
            session.submit("a@src.test", f"b@{name}", MESSAGE)
            promise.case()
    node.log.wait(event="attempt", count=len(asked), rcpt=lambda r: r.startswith("b@d"))
    for line in node.log.lines():
        assert re.match(r"time=\S+ level=\w+ event=\w+ node=cn ", line), line
        assert not [c for c in line if ord(c) < 32 or 127 <= ord(c) < 160], line
    for m in list(home.mails):
        assert not bare(m.raw)
        assert all(32 <= b < 127 or b in b"\r\n\t" for b in head_of(m))


def test_e07_names_in_certificates_stay_names(world, promise, tmp_path):
    promise("E07", "a certificate whose names hold newlines: refused by its name, told in one line")
    config = tmp_path / "odd.cnf"
    config.write_text("[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\nutf8=yes\n[dn]\nCN=\"x\\nevent=alert "
                      "msg=1\"\nO=\"\\x1b[31m\"\n[ext]\nsubjectAltName=DNS:evil.test\n")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-config", config, "-keyout", tmp_path / "odd.key", "-out", tmp_path / "odd.pem")
    hop = world.remote("hop.test", port=587, certificate=Certificate(tmp_path / "odd.pem", tmp_path / "odd.key"))
    node = world.node(config={"log": {"level": "debug"}, "transport_map": [{"default": True, "route": "us"}],
                              "hops": {"us": {"address": f"{hop.address}:587", "ca_file": str(tmp_path / "odd.pem")}}})
    node.submit("a@src.test", "b@dest.test", MESSAGE)
    node.log.wait(event="attempt", outcome="deferred")
    promise.case()
    assert not hop.mails
    for line in node.log.lines():
        assert re.match(r"time=\S+ level=\w+ event=\w+ node=cn ", line), line
        assert not [c for c in line if ord(c) < 32 or 127 <= ord(c) < 160], line
    node.ctl("queue", "remove", "--domain", "dest.test")
