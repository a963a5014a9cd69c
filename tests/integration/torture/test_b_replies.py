"""Hosts whose replies are none, odd, contradicting, cut, early or too many, at every stage.

A session's stages are asked the same questions: what is no SMTP is an error and defers (behind the
dot with the warning that it may be delivered twice), what is odd but clear is taken by its code, a
refusal has the fate of its stage, and what ends the path leads to the next host.
"""

import pytest

from rig.promise import size
from rig.remote import CLOSE, RESET, SILENCE, Raw, octets
from rig.vectors import DEFERRED, DELIVERED, FAILED, Row, Stage

pytestmark = pytest.mark.torture

GOOD = {"greeting": 220, "ehlo": 250, "mail": 250, "rcpt": 250, "data": 354, "dot": 250}

# No SMTP reply, whatever the stage.
NONSENSE = {
    "code-000": b"000 ok\r\n", "code-100": b"100 wait\r\n", "code-199": b"199 wait\r\n",
    "code-600": b"600 no\r\n", "code-999": b"999 no\r\n", "two-digits": b"25\r\n",
    "four-digits": b"2500 ok\r\n", "no-separator": b"250ok\r\n", "odd-separator": b"250=ok\r\n",
    "comma": b"250, ok\r\n", "negative": b"-250 ok\r\n", "hex": b"0xfa ok\r\n",
    "no-digits": b"ok\r\n", "empty-line": b"\r\n", "empty-lf": b"\n", "blanks": b"     \r\n",
    "leading-blank": b" 250 ok\r\n", "leading-nul": b"\x00250 ok\r\n", "nul-code": b"25\x00 ok\r\n",
    "nul-behind": b"250\x00ok\r\n", "bom": b"\xef\xbb\xbf250 ok\r\n", "high": b"\xff\xfe\x80\r\n",
    "wide-digits": "\uff12\uff15\uff10 ok\r\n".encode(), "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "imap": b"* OK IMAP4rev1 ready\r\n",
    "pop": b"+OK ready\r\n", "json": b'{"code": 250}\r\n', "tls-alert": b"\x15\x03\x03\x00\x02\x02\x28\n",
    "two-then-five": b"250-yes\r\n550 no\r\n", "five-then-two": b"550-no\r\n250 yes\r\n",
    "four-then-two": b"450-later\r\n250 yes\r\n", "two-then-text": b"250-yes\r\nno code\r\n",
    "two-then-empty": b"250-yes\r\n\r\n250 yes\r\n", "line-of-3000": b"250 " + b"x" * 3000 + b"\r\n",
    "line-in-many": b"250-a\r\n250 " + b"y" * 2100 + b"\r\n", "lines-501": b"250-x\r\n" * 501 + b"250 x\r\n",
    "octets-70k": (b"250-" + b"z" * 1990 + b"\r\n") * 35 + b"250 ok\r\n",
}

# Odd, and clear: by its code. {0} is the stage's good code.
ODD = {
    "no-text": b"%d\r\n", "blank-only": b"%d \r\n", "tab": b"%d\tok\r\n", "bare-lf": b"%d ok\n",
    "multi": b"%d-one\r\n%d-two\r\n%d three\r\n", "multi-no-text": b"%d-\r\n%d\r\n",
    "multi-mixed-lf": b"%d-one\n%d two\r\n", "nul-in-text": b"%d o\x00k\r\n",
    "esc-in-text": b"%d \x1b[2J\x1b]0;x\x07ok\r\n", "lone-cr": b"%d ok\r%d ok\r\n",
    "cr-cr-lf": b"%d ok\r\r\n", "high-text": b"%d \xff\xfe\x80\x9b31m\r\n",
    "c1-text": "%d \u0085\u009b31m \u202e ok\r\n".encode(), "line-of-2000": b"%d " + b"x" * 2000 + b"\r\n",
    "lines-400": b"%d-x\r\n" * 400 + b"%d x\r\n", "enhanced-wrong": b"%d 5.0.0 all is well\r\n",
    "enhanced-broken": b"%d 2.999999.1 ok\r\n", "percent": b"%d %%s%%n%%x\r\n",
}


def some(table, stage):
    """All of a table; every day a third of it, another one at the next stage."""
    every = size(3, 1)
    return list(table.items())[list(GOOD).index(stage) % every::every]


def odd(pattern, code):
    return pattern.replace(b"%d", b"%d" % code).replace(b"%%", b"%")


def refusals(stage, name, reply, outcome, **fields):
    """A row, and one with a second host where this stage's refusal leads there."""
    row = Row(f"{stage}-{name}", outcome, **fields).at(stage, reply)
    if outcome != DELIVERED and stage in ("greeting", "ehlo"):
        return [row, Row(f"{stage}-{name}-next", DELIVERED, next_mx=True).at(stage, reply)]
    return [row]


def phase_of(stage):
    return "body-end" if stage == "dot" else stage


@pytest.mark.parametrize("stage", GOOD)
def test_b04_what_is_no_reply_is_an_error_and_defers(world, promise, stage):
    promise("B04", "what is no SMTP reply defers the mail, at every stage")
    rows = []
    for name, sent in some(NONSENSE, stage):
        rows += refusals(stage, name, Raw(sent), DEFERRED, phase=phase_of(stage), enh="4.5.0")
    Stage(world, promise).run(rows)


@pytest.mark.parametrize("stage", GOOD)
def test_b04_what_is_odd_but_clear_is_taken_by_its_code(world, promise, stage):
    promise("B04", "a reply that is odd but clear counts by its code, at every stage")
    code = GOOD[stage]
    rows = [Row(f"{stage}-{name}", DELIVERED).at(stage, Raw(odd(sent, code), code))
            for name, sent in some(ODD, stage)]
    same = {"greeting": b"220-a\r\n250 b\r\n", "data": b"354-a\r\n354 b\r\n"}
    rows.append(Row(f"{stage}-same-digit", DELIVERED).at(
        stage, Raw(same.get(stage, b"250-a\r\n251 b\r\n"), code)))
    reply = b"%d-one\r\n%d two\r\n" % (code, code)
    rows.append(Row(f"{stage}-octets", DELIVERED).at(
        stage, Raw(octets(reply), code, every=0.005)))
    rows.append(Row(f"{stage}-in-code", DELIVERED).at(
        stage, Raw([reply[:2], reply[2:11], reply[11:-1], reply[-1:]], code, every=0.02)))
    Stage(world, promise).run(rows)


REFUSALS = [
    # stage, name, reply, outcome, fields
    ("greeting", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("greeting", "450", "450 4.3.2 not now", DEFERRED, {"code": "450"}),
    ("greeting", "554", "554 no mail here", FAILED, {"code": "554"}),
    ("greeting", "554-bare", "554", FAILED, {"code": "554"}),
    ("greeting", "554-for-now", "554 5.3.2 no mail now", DEFERRED, {"code": "554"}),
    ("greeting", "354", "354 go ahead", DEFERRED, {"enh": "4.5.0"}),
    ("greeting", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("greeting", "reset", RESET, DEFERRED, {}),
    ("greeting", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("greeting", "cut", Raw(b"220 mx.t", then=CLOSE), DEFERRED, {"enh": "4.4.2"}),
    ("greeting", "cut-silent", Raw(b"220 mx.t", then=SILENCE), DEFERRED, {"enh": "4.4.2"}),
    ("greeting", "cut-multi", Raw(b"220-mx\r\n220-", then=RESET), DEFERRED, {}),
    ("greeting", "cr-only", Raw(b"220 mx\r", then=SILENCE), DEFERRED, {"enh": "4.4.2"}),
    ("greeting", "then-close", Raw(b"220 mx\r\n", then=CLOSE), DEFERRED, {}),
    ("greeting", "then-reset", Raw(b"220 mx\r\n", then=RESET), DEFERRED, {}),
    ("greeting", "twice", Raw(b"220 mx\r\n220 mx\r\n", 220), DEFERRED, {"enh": "4.5.0"}),
    ("greeting", "then-421", Raw(b"220 mx\r\n421 no\r\n", 220), DEFERRED, {"enh": "4.5.0"}),
    ("greeting", "early-ehlo", Raw(b"220 mx\r\n250 hi\r\n", 220), DEFERRED, {"enh": "4.5.0"}),
    ("ehlo", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("ehlo", "450", "450 4.3.2 not now", DEFERRED, {"code": "450"}),
    ("ehlo", "554", "554 no", FAILED, {"code": "554"}),
    ("ehlo", "354", "354 go", DEFERRED, {"enh": "4.5.0"}),
    ("ehlo", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("ehlo", "reset", RESET, DEFERRED, {"enh": "4.4.2"}),
    ("ehlo", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("ehlo", "cut", Raw(b"250-mx\r\n250-PIPE", then=CLOSE), DEFERRED, {"enh": "4.4.2"}),
    ("ehlo", "cut-silent", Raw(b"250-mx\r\n250-", then=SILENCE), DEFERRED, {"enh": "4.4.2"}),
    ("ehlo", "then-close", Raw(b"250 mx\r\n", then=CLOSE), DEFERRED, {}),
    ("ehlo", "then-reset", Raw(b"250 mx\r\n", then=RESET), DEFERRED, {}),
    ("ehlo", "twice", Raw(b"250 mx\r\n250 mx\r\n", 250), DEFERRED, {"enh": "4.5.0"}),
    ("ehlo", "then-421", Raw(b"250 mx\r\n421 bye\r\n", 250), DEFERRED, {"enh": "4.5.0"}),
    ("mail", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("mail", "450", "450 4.2.0 not now", DEFERRED, {"code": "450"}),
    ("mail", "452", "452 4.3.1 no room", DEFERRED, {"code": "452"}),
    ("mail", "501", "501 5.1.7 bad sender", FAILED, {"code": "501"}),
    ("mail", "550", "550 5.1.0 no", FAILED, {"code": "550"}),
    ("mail", "552", "552 5.3.4 too big", FAILED, {"code": "552"}),
    ("mail", "354", "354 go", DEFERRED, {"enh": "4.5.0"}),
    ("mail", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("mail", "reset", RESET, DEFERRED, {"enh": "4.4.2"}),
    ("mail", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("mail", "cut", Raw(b"25", then=CLOSE), DEFERRED, {"enh": "4.4.2"}),
    ("mail", "4xx-close", Raw(b"451 4.3.0 no\r\n", then=CLOSE), DEFERRED, {"code": "451"}),
    ("mail", "5xx-close", Raw(b"550 5.1.0 no\r\n", then=CLOSE), FAILED, {"code": "550"}),
    ("mail", "5xx-reset", Raw(b"550 5.1.0 no\r\n", then=RESET), None, {}),
    ("mail", "twice", Raw(b"250 ok\r\n250 ok\r\n", 250), DEFERRED, {"enh": "4.5.0"}),
    ("rcpt", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("rcpt", "450", "450 4.2.0 not now", DEFERRED, {"code": "450"}),
    ("rcpt", "451", "451 4.3.0 not now", DEFERRED, {"code": "451"}),
    ("rcpt", "452", "452 4.5.3 too many", DEFERRED, {"code": "452"}),
    ("rcpt", "452-bare", "452", DEFERRED, {"code": "452"}),
    ("rcpt", "552-bare", "552 too many recipients", DEFERRED, {"code": "552"}),
    ("rcpt", "552-no-text", "552", DEFERRED, {"code": "552"}),
    ("rcpt", "552-5-5-3", "552 5.5.3 too many recipients", DEFERRED, {"code": "552"}),
    ("rcpt", "552-5-3-4", "552 5.3.4 too big", FAILED, {"code": "552"}),
    ("rcpt", "552-5-2-3", "552 5.2.3 too big for him", FAILED, {"code": "552"}),
    ("rcpt", "550", "550 5.1.1 unknown", FAILED, {"code": "550"}),
    ("rcpt", "550-bare", "550", FAILED, {"code": "550"}),
    ("rcpt", "551", "551 5.1.6 moved", FAILED, {"code": "551"}),
    ("rcpt", "553-no-text", "553", FAILED, {"code": "553"}),
    ("rcpt", "555", "555 5.5.4 what", FAILED, {"code": "555"}),
    ("rcpt", "251", Raw(b"251 will forward\r\n", 251), DELIVERED, {}),
    ("rcpt", "252", Raw(b"252 will try\r\n", 250), DELIVERED, {}),
    ("rcpt", "354", "354 go", DEFERRED, {"enh": "4.5.0"}),
    ("rcpt", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("rcpt", "reset", RESET, DEFERRED, {"enh": "4.4.2"}),
    ("rcpt", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("rcpt", "550-close", Raw(b"550 5.1.1 no\r\n", then=CLOSE), FAILED, {"code": "550"}),
    ("rcpt", "450-close", Raw(b"450 4.2.0 no\r\n", then=CLOSE), DEFERRED, {"code": "450"}),
    ("rcpt", "twice", Raw(b"250 ok\r\n250 ok\r\n", 250), DEFERRED, {"enh": "4.5.0"}),
    ("data", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("data", "451", "451 4.3.0 not now", DEFERRED, {"code": "451"}),
    ("data", "554", "554 5.5.1 no", FAILED, {"code": "554"}),
    ("data", "503", "503 5.5.1 no", FAILED, {"code": "503"}),
    ("data", "250", "250 ok", DEFERRED, {"enh": "4.5.0"}),
    ("data", "221", "221 bye", DEFERRED, {"enh": "4.5.0"}),
    ("data", "334", "334 go on", DEFERRED, {"enh": "4.5.0"}),
    ("data", "353", "353 go on", DEFERRED, {"enh": "4.5.0"}),
    ("data", "399", "399 go on", DEFERRED, {"enh": "4.5.0"}),
    ("data", "354-354", Raw(b"354 go\r\n354 go\r\n", 354), DEFERRED, {"enh": "4.5.0"}),
    ("data", "354-250", Raw(b"354 go\r\n250 ok\r\n", 354), DEFERRED, {"enh": "4.5.0"}),
    ("data", "354-garbage", Raw(b"354 go\r\n\x00\x01\r\n", 354), DEFERRED, {"enh": "4.5.0"}),
    ("data", "354-421", Raw(b"354 go\r\n421 no\r\n", 354), DEFERRED, {"code": "421"}),
    ("data", "354-451", Raw(b"354 go\r\n451 4.3.0 no\r\n", 354), DEFERRED, {"code": "451"}),
    ("data", "354-550", Raw(b"354 go\r\n550 5.7.0 no\r\n", 354), FAILED, {"code": "550"}),
    ("data", "354-close", Raw(b"354 go\r\n", then=CLOSE), DEFERRED, {}),
    ("data", "354-reset", Raw(b"354 go\r\n", then=RESET), DEFERRED, {}),
    ("data", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("data", "reset", RESET, DEFERRED, {"enh": "4.4.2"}),
    ("data", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("dot", "421", "421 4.3.2 closing", DEFERRED, {"code": "421"}),
    ("dot", "450", "450 4.2.0 not now", DEFERRED, {"code": "450"}),
    ("dot", "452", "452 4.3.1 no room", DEFERRED, {"code": "452"}),
    ("dot", "550", "550 5.6.0 no", FAILED, {"code": "550"}),
    ("dot", "552", "552 5.3.4 too big", FAILED, {"code": "552"}),
    ("dot", "554-bare", "554", FAILED, {"code": "554"}),
    ("dot", "251", Raw(b"251 ok\r\n", 250), DELIVERED, {}),
    ("dot", "299", Raw(b"299 ok\r\n", 250), DELIVERED, {}),
    ("dot", "354", "354 more", DEFERRED, {"enh": "4.5.0"}),
    ("dot", "close", CLOSE, DEFERRED, {"enh": "4.4.2"}),
    ("dot", "reset", RESET, DEFERRED, {"enh": "4.4.2"}),
    ("dot", "silence", SILENCE, DEFERRED, {"enh": "4.4.2"}),
    ("dot", "cut", Raw(b"250 ok", then=CLOSE), DEFERRED, {"enh": "4.4.2"}),
    ("dot", "cut-multi", Raw(b"250-ok\r\n", then=RESET), DEFERRED, {"enh": "4.4.2"}),
    ("dot", "cr-only", Raw(b"250 ok\r", then=SILENCE), DEFERRED, {"enh": "4.4.2"}),
    ("dot", "4xx-close", Raw(b"451 4.3.0 no\r\n", then=CLOSE), DEFERRED, {"code": "451"}),
    ("dot", "5xx-close", Raw(b"554 5.6.0 no\r\n", then=CLOSE), FAILED, {"code": "554"}),
]
LOST = ("close", "reset", "silence", "cut", "cut-silent", "cut-multi", "cr-only", "then-close",
        "then-reset")


def row_of(stage, name, reply, outcome, fields):
    lockstep = {"options": {"extensions": []}} if name == "twice" else {}
    return Row(f"{stage}-{name}", outcome, **lockstep, **fields).at(stage, reply)


@pytest.mark.parametrize("stage", GOOD)
def test_b05_refusals_and_losses_have_the_fate_of_their_stage(world, promise, stage):
    promise("B01 B05 B08 B10 B11", "refused, lost, cut or early: each with the fate of its stage")
    rows = [row_of(*r) for r in REFUSALS if r[0] == stage and r[3] is not None]
    for r in REFUSALS:
        leads_on = stage in ("greeting", "ehlo") or r[1] in LOST or (
            stage == "mail" and r[1] in ("421", "450", "452", "4xx-close"))
        if r[0] == stage and leads_on and stage != "dot":
            row = row_of(stage, r[1], r[2], DELIVERED, {})
            row.name, row.next_mx = f"{stage}-{r[1]}-next", True
            rows.append(row)
    Stage(world, promise).run(rows)
    twice = [r for r in rows if r.outcome == DEFERRED and stage == "dot" and not r.fields.get("code")]
    for row in twice:
        assert "twice" in row.line["text"], row.name
    assert stage != "dot" or twice
