"""Who gets which outcome: several recipients, what a host offers, what comes behind the dot."""

import itertools
import re

import pytest

from rig import mail
from rig.promise import size
from rig.remote import CLOSE, RESET, SILENCE, Raw
from rig.vectors import ANY, DEFERRED, DELIVERED, FAILED, Row, Stage
from rig.wait import until

pytestmark = pytest.mark.torture

BASE = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"]


def no_content(stage, row):
    for command in row.mx.commands():
        assert not re.match(r"(Subject|From|Hello|Received)", command), f"content sent: {command!r}"


def lockstep(row):
    row.options = {"extensions": []}
    row.name += "-lockstep"
    return row


def mixed_rows():
    def row(name, fates, **fields):
        return Row(name, DELIVERED, rcpts=list(fates), rcpt_fates=fates, **fields)

    yield row("each-his-own", {"a": DELIVERED, "b": DEFERRED, "c": FAILED}) \
        .at("rcpt", "450 4.2.0 later", match="<b@").at("rcpt", "550 5.1.1 no", match="<c@")
    yield row("all-refused", {"a": FAILED, "b": FAILED}, also=no_content) \
        .at("rcpt", "550 5.1.1 no")
    yield row("all-refused-354", {"a": FAILED, "b": FAILED}, also=no_content) \
        .at("rcpt", "550 5.1.1 no").at("data", Raw(b"354 go\r\n"))
    yield row("all-deferred-354", {"a": DEFERRED, "b": DEFERRED}, also=no_content) \
        .at("rcpt", "450 4.2.0 no").at("data", Raw(b"354 go\r\n"))
    yield row("refused-and-data-250", {"a": FAILED, "b": DEFERRED}, also=no_content) \
        .at("rcpt", "550 5.1.1 no", match="<a@").at("data", "250 ok")
    yield row("421-at-the-second", {"a": DEFERRED, "b": DEFERRED, "c": DEFERRED}) \
        .at("rcpt", Raw(b"421 4.3.2 bye\r\n", then=CLOSE), match="<b@")
    yield row("refused-then-lost", {"a": FAILED, "b": DEFERRED}) \
        .at("rcpt", "550 5.1.1 no", match="<a@").at("rcpt", RESET, match="<b@")
    yield row("dot-refused", {"a": FAILED, "b": FAILED}).at("dot", "554 5.6.0 no")
    yield row("refused-and-dot-deferred", {"a": FAILED, "b": DEFERRED}) \
        .at("rcpt", "550 5.1.1 no", match="<a@").at("dot", "451 4.3.0 later")


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "lockstep"])
def test_b06_b07_b08_each_recipient_his_own_fate(world, promise, pipelined):
    promise("B06 B07 B08", "each recipient has his own fate; no content without a 354 and a taker")
    rows = [r if pipelined else lockstep(r) for r in mixed_rows()]
    Stage(world, promise).run(rows)


TOO_MANY = {"452": "452 4.5.3 too many", "452-bare": "452", "552": "552 too many recipients",
            "552-5-5-3": "552 5.5.3 too many recipients"}


def three_a_transaction(reply):
    """Each fourth question is answered "too many", and each beyond three in one transaction."""
    asked = itertools.count(1)

    def at_rcpt(session):
        few = len(session.mail.rcpts) < 3 and next(asked) % 4 != 0
        return "250 ok" if few else reply
    return at_rcpt


def test_b06_too_many_recipients_go_at_once_in_further_transactions(world, promise):
    promise("B06", "452 and its old form 552: the rest at once, no duplicates")
    rcpts = [f"r{i}" for i in range(20)]
    rows = [Row(f"many-{name}", DELIVERED, rcpts=rcpts, mails=ANY).at(
        "rcpt", three_a_transaction(reply)) for name, reply in TOO_MANY.items()]
    Stage(world, promise).run(rows)
    for row in rows:
        got = [r for m in row.mx.mails for r in m.rcpts]
        assert sorted(got) == sorted(f"{r}@{row.domain}" for r in rcpts), row.name
        assert len(row.mx.mails) <= 20


def at_quit():
    for name, answer in {
            "close": CLOSE, "reset": RESET, "silence": SILENCE, "500": "500 5.5.2 what",
            "421": "421 4.3.2 bye", "550": "550 no", "354": "354 go", "garbage": Raw(b"\0\xff\r\n"),
            "two": Raw(b"221 a\r\n221 b\r\n"), "half": Raw(b"221", then=SILENCE)}.items():
        yield Row(f"quit-{name}", DELIVERED, sessions=1).at("quit", answer)
    for name, then in {"close": CLOSE, "reset": RESET, "silence": SILENCE}.items():
        yield Row(f"dot-250-{name}", DELIVERED).at("dot", Raw(b"250 ok\r\n", 250, then=then))
    for name, sent in {
            "421": b"421 bye\r\n", "250": b"250 ok\r\n", "550": b"550 no\r\n", "354": b"354 x\r\n",
            "garbage": b"\0\0\xff\r\n", "half": b"5", "http": b"HTTP/1.1 200 OK\r\n\r\n"}.items():
        yield Row(f"dot-250-{name}", DELIVERED, sessions=1).at(
            "dot", Raw(b"250 ok\r\n" + sent, 250))


@pytest.mark.parametrize("messages", [1, 100], ids=["quit", "idle"])
def test_b12_what_comes_behind_the_250_changes_nothing(world, promise, messages):
    promise("B12", "250 to the dot, then anything: delivered, once")
    Stage(world, promise, {"shaping": {"default": {"max_messages_per_connection": messages}}}).run(
        list(at_quit()))


def test_b13_second_reply_to_a_dot_answers_for_nobody(world, promise):
    promise("B13", "two replies to one dot: the second never answers the next transaction")
    stage = Stage(world, promise)
    node, n = stage.node, size(3, 50)
    for i in range(n):
        for name, stale, late, fates in (
                ("one", b"250 2.0.0 again\r\n", b"", {"x": None}),
                ("late", b"", b"250 2.0.0 again\r\n", {"x": None}),
                ("late-no", b"", b"554 5.7.1 no after all\r\n", {"x": None}),
                ("mixed", b"", b"250 2.0.0 again\r\n", {"x": 550, "y": None}),
                ("mixed-last", b"", b"250 2.0.0 again\r\n", {"x": None, "y": 550})):
            domain = f"{name}{i}.test"
            mx = world.mx(domain)
            mx.answer("dot", Raw(b"250 2.0.0 taken\r\n" + stale, 250), times=1)
            first = node.submit("a@src.test", f"x@{domain}", mail.message())
            node.log.wait(event="attempt", msg=first, outcome="delivered")
            if late:  # it comes together with the answer to the next MAIL
                mx.answer("mail", Raw(late + b"250 2.1.0 ok\r\n", 250), times=1)
            for rcpt, code in fates.items():
                if code:
                    mx.answer("rcpt", f"{code} 5.1.1 no", match=f"<{rcpt}@")
            second = node.submit("a@src.test", [f"{r}@{domain}" for r in fates], mail.message())
            for rcpt, code in fates.items():
                line = node.log.wait(event="attempt", msg=second, rcpt=f"{rcpt}@{domain}")
                allowed = {DELIVERED, DEFERRED} if code is None else {FAILED, DEFERRED}
                assert line["outcome"] in allowed, (domain, rcpt, line)
                copies = len(mx.received_for(f"{rcpt}@{domain}"))
                expected = (line["outcome"] == DELIVERED) + (rcpt == "x")
                assert copies == expected, (domain, rcpt, copies)
            promise.case()
    stage.check_log()


HOSTILE = {
    "no-text": b"553\r\n", "no-text-multi": b"553-\r\n553-\r\n553\r\n", "nul": b"553 a\0b\0\r\n",
    "esc": b"553 \x1b[31m\x1b]0;owned\x07 no\r\n", "cr": b"553 a\rb\rc\r\n",
    "fields": b"553-no\r\n553-Final-Recipient: rfc822;evil@x.test\r\n553-Action: delivered\r\n"
              b"553 Status: 2.0.0\r\n",
    "fields-cr": b"553 no\rFinal-Recipient: rfc822;evil@x.test\rStatus: 2.0.0\r\n",
    "header": b"553-no\r\n553-\r\n553-From: evil@x.test\r\n553 To: evil@x.test\r\n",
    "boundary": b"553 --=_relayd_boundary--\r\n", "dot": b"553-.\r\n553 .\r\n",
    "log": b"553 no\" outcome=delivered msg=\"x\r\n", "newline-escapes": b"553 no\\r\\n\\x0aevil=1\r\n",
    "high": b"553 \xff\xfe\x80\x9b31m \xc3\r\n", "c1": "553 \u0085\u009b31m\u2028\u2029\u202e\r\n".encode(),
    "chinese": "553 \u62d2\u7edd\u90ae\u4ef6\r\n".encode(), "gbk": "553 \u62d2\u7edd".encode("gbk") + b"\r\n",
    "percent": b"553 %s%n%x%1000000d\r\n", "long": b"553 " + b"w" * 2000 + b"\r\n",
    "long-multi": (b"553-" + b"word " * 300 + b"\r\n") * 30 + b"553 end\r\n",
    "html": b"553 <script>alert(1)</script>&lt;\r\n", "tabs": b"553\ta\tb\r\n",
    "crlf-encoded": b"553 =?utf-8?q?=0d=0aBcc:_evil?=\r\n",
}


def clean_report(stage, row):
    until(lambda: stage.reports(row), what="a report")
    raw = stage.reports(row)[0].data
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", raw), "a control character"
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", raw), "a bare CR or LF"
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    raw.split(b"\r\n\r\n", 1)[0].decode("ascii")
    report = mail.report(raw)
    assert len(report.recipients) == 1, "a block more than there are recipients"
    block = report.recipients[0]
    assert block.get_all("Action") == ["failed"] and len(block.get_all("Final-Recipient")) == 1
    assert block["Status"].startswith("5."), block["Status"]
    assert "evil" not in block["Final-Recipient"]
    assert report.message["From"].count("evil") == 0 and "Bcc" not in report.message


def test_b14_hostile_words_of_a_refusal_stay_words(world, promise):
    promise("B14", "whatever a refusal says: report and log are clean, and say what happened")
    Stage(world, promise).run([
        Row(f"{stage}-{name}", FAILED, also=clean_report, code="553").at(stage, Raw(sent))
        for name, sent in HOSTILE.items() for stage in ("rcpt", "dot")])


def never_asked(stage, row):
    assert not [c for c in row.mx.commands() if c.startswith(("MAIL", "RCPT", "DATA"))]


def said(pattern, times=None):
    def check(stage, row):
        hits = [c for c in row.mx.commands() if re.search(pattern, c)]
        assert len(hits) == times if times is not None else hits, f"/{pattern}/: {hits}"
    return check


def offer(name, offers, outcome=DELIVERED, **fields):
    return Row(name, outcome, options={"extensions": offers}, **fields)


def test_b15_b16_b22_what_a_host_offers_is_used_as_offered(world, promise):
    promise("B15 B16 B22", "offers are used as offered: SIZE, 8BITMIME, SMTPUTF8, PIPELINING")
    eight = mail.message(body="\u4e2d\u6587 \u00e4\r\n", ident="eight")
    utf8 = {"rcpts": ["\u7528\u6237"], "params": "SMTPUTF8"}
    rows = [
        offer("size-100", ["SIZE 100"], FAILED, enh="5.3.4", also=never_asked),
        offer("size-1", [*BASE, "SIZE 1"], FAILED, enh="5.3.4", also=never_asked),
        offer("size-0", [*BASE, "SIZE 0"]), offer("size-none", [*BASE, "SIZE"], also=said(" SIZE=")),
        offer("size-word", [*BASE, "SIZE lots"]), offer("size-negative", [*BASE, "SIZE -1"]),
        offer("size-float", [*BASE, "SIZE 1e3"]), offer("size-hex", [*BASE, "SIZE 0x10"]),
        offer("size-overflow", [*BASE, "SIZE 99999999999999999999999999"]),
        offer("size-18446744073709551615", [*BASE, "SIZE 18446744073709551615"]),
        offer("size-equals", [*BASE, "SIZE=5"]), offer("size-two", [*BASE, "SIZE 100 200"]),
        offer("size-twice", [*BASE, "SIZE 100000", "SIZE 200000"]),
        offer("not-offered", [], also=said("SIZE=|BODY=|NOTIFY=|SMTPUTF8", 0)),
        offer("8bit", BASE, message=eight, params="BODY=8BITMIME", also=said("BODY=8BITMIME")),
        offer("no-8bit", ["PIPELINING"], message=eight, params="BODY=8BITMIME",
              also=said("BODY=", 0)),
        offer("utf8", BASE, **utf8, also=said("MAIL .* SMTPUTF8")),
        offer("no-utf8", ["8BITMIME", "PIPELINING"], FAILED, enh="5.6.7", **utf8, also=never_asked),
        offer("no-utf8-at-all", [], FAILED, enh="5.6.7", **utf8, also=never_asked),
        offer("utf8-not-needed", [], params="SMTPUTF8"),
        offer("pipelining-twice", ["PIPELINING", "PIPELINING"]),
        offer("pipelining-argument", ["PIPELINING yes"]),
        offer("lower-case", ["pipelining", "size 1000000", "8bitmime"], also=said(" SIZE=")),
        offer("unknown", ["X-EVIL", "XCLIENT NAME", "AUTH", "AUTH=", "LIMITS", "LIMITS X=Y=Z",
                          "LIMITS RCPTMAX=0", "CHUNKING", "BINARYMIME", "BURL", "ETRN", "=", "-"]),
        offer("empty-lines", ["", " ", "PIPELINING"]),
        offer("three-hundred", [f"X{i}" for i in range(300)] + ["PIPELINING"]),
        offer("auth-unwanted", ["AUTH PLAIN LOGIN CRAM-MD5"], also=said("AUTH", 0)),
        Row("in-first-line", DELIVERED, also=said("SIZE=", 0)).at(
            "ehlo", Raw(b"250 SIZE 100\r\n", 250)),
        Row("starttls-argument", DELIVERED).at("ehlo", Raw(b"250-mx\r\n250 STARTTLSX\r\n", 250)),
        *[Row(f"ehlo-{code}-helo", DELIVERED, also=said("^HELO", 1)).at("ehlo", f"{code} what")
          for code in (500, 501, 502, 504, 550)],
        Row("ehlo-502-helo-554", FAILED, code="554").at("ehlo", "502 what").at("helo", "554 no"),
        Row("ehlo-502-helo-421", DEFERRED).at("ehlo", "502 what").at("helo", "421 4.3.2 no"),
        Row("ehlo-500-close", DEFERRED).at("ehlo", Raw(b"500 what\r\n", then=CLOSE)),
        Row("ehlo-550-5-7-1-next", DELIVERED, next_mx=True).at("ehlo", "550 5.7.1 no"),
    ]
    Stage(world, promise).run(rows)


def one_command(session):
    """Read one line, and that nothing is sent behind it before it is answered."""
    line = session.readline()
    session.socket.settimeout(0.15)
    try:
        more = session._input + session.socket.recv(100)
    except TimeoutError:
        more = session._input
    session.socket.settimeout(None)
    assert not more, f"{more!r} behind {line!r}"
    session.commands.append(line.decode())
    return session.commands[-1]


def strict(session):
    session.socket.settimeout(0.5)
    try:
        early = session.socket.recv(100)
    except TimeoutError:
        early = b""
    session.socket.settimeout(None)
    if early:
        session.commands.append(f"EARLY {early!r}")
        return
    session.send("220 mx\r\n")
    for answer in ("250 mx\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"):
        one_command(session)
        session.send(answer)
    session.read_data()
    session.commands.append("dot")
    session.send("250 ok\r\n")
    one_command(session)


def test_b22_nothing_before_the_banner_and_no_pipelining_unless_offered(world, promise):
    promise("B22", "nothing is sent before the banner, nothing pipelined unless it is offered")
    rows = [Row("strict", DELIVERED, options={"script": strict}, mails=0)]
    Stage(world, promise, {"shaping": {"default": {"max_messages_per_connection": 1}}}).run(rows)
    until(lambda: rows[0].mx.commands()[-1] == "QUIT", what="QUIT")
    verbs = [c.split()[0] for c in rows[0].mx.commands()]
    assert verbs == ["EHLO", "MAIL", "RCPT", "DATA", "dot", "QUIT"]


def one_message(mx, behind):
    """The host ends each connection after one message."""
    if behind == "dot-close":
        return "dot", Raw(b"250 ok\r\n", 250, then=CLOSE)
    if behind == "dot-reset":
        return "dot", Raw(b"250 ok\r\n", 250, then=RESET)
    if behind == "dot-421":
        return "dot", Raw(b"250 ok\r\n421 enough\r\n", 250, then=CLOSE)
    answer = CLOSE if behind == "mail-close" else Raw(b"421 4.4.2 enough\r\n", then=CLOSE)
    return "mail", lambda session: answer if any(
        m.connection == session.number for m in list(mx.mails)) else "250 ok"


def test_b18_host_that_takes_one_message_a_connection_costs_no_attempt(world, promise):
    promise("B18", "a connection that ends between two messages costs no attempt")
    stage = Stage(world, promise)
    hosts = {}
    for behind in ("dot-close", "dot-reset", "dot-421", "mail-close", "mail-421"):
        mx = hosts[behind] = world.mx(f"{behind}.test")
        mx.answer(*one_message(mx, behind))
    n = size(10, 300)
    idents = {}
    for i in range(n):
        for behind in hosts:
            rcpt = f"b{i}@{behind}.test"
            idents[rcpt] = stage.node.submit("a@src.test", rcpt, mail.message())
    stage.node.wait_empty(120)
    for rcpt, ident in idents.items():
        lines = stage.node.log.all(event="attempt", msg=ident)
        assert [(x["outcome"], x["attempt"]) for x in lines] == [(DELIVERED, "1")], (rcpt, lines)
        mx = hosts[rcpt.split("@")[1].removesuffix(".test")]
        assert len(mx.received_for(rcpt)) == 1, rcpt
        promise.case()
    stage.check_files()
