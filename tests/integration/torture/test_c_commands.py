"""C01, C02, C05, C08, C11: commands out of order, too long, broken, endless, or not of this protocol."""

import itertools
import socket
import struct

import pytest

from rig import smtp
from rig.hostile import CLOSED, DATA, EHLO, HIDDEN, MAIL, MESSAGE, RCPT, SENT, START, Bench
from rig.node import sanitized
from rig.proc import rss_kib
from rig.promise import size

pytestmark = pytest.mark.torture

NOUSER = (b"RCPT TO:<x@[127.0.0.1]>\r\n", "550 5.1.2")  # refused, whoever asks
REFUSED_DATA = (b"a\0b\r\n.\r\n", "550 5.6.0")
CHUNK = (b"BDAT 7\r\nA: b\r\n\r", "250 2.0.0")


def c(line, *expected):
    """One command line."""
    return (line.encode() if isinstance(line, str) else line) + b"\r\n", *expected


ORDER = [
    ("MAIL before EHLO", c("MAIL FROM:<a@src.test>", "503 5.5.1")),
    ("RCPT before EHLO", c("RCPT TO:<b@dest.test>", "503 5.5.1")),
    ("DATA before EHLO", c("DATA", "503 5.5.1")),
    ("BDAT before EHLO", c("BDAT 3 LAST", ), (b"abc", "503 5.5.1")),
    ("STARTTLS before EHLO", c("STARTTLS", "503 5.5.1")),
    ("AUTH before EHLO", c("AUTH PLAIN", "503 5.5.1")),
    ("RSET, NOOP, VRFY, HELP before EHLO", c("RSET", "250"), c("NOOP", "250"),
     c("VRFY postmaster", "252"), c("HELP", "214")),
    ("RCPT without MAIL", EHLO, c("RCPT TO:<b@dest.test>", "503 5.5.1")),
    ("DATA without MAIL", EHLO, c("DATA", "503 5.5.1")),
    ("DATA without RCPT", EHLO, MAIL, c("DATA", "503 5.5.1|554 5.5.1")),
    ("DATA when every RCPT was refused", EHLO, MAIL, NOUSER, NOUSER, c("DATA", "554 5.5.1")),
    ("RCPT after all were refused and DATA", EHLO, MAIL, NOUSER, c("DATA", "554 5.5.1"), RCPT, DATA,
     SENT),
    ("nested MAIL", START, c("MAIL FROM:<evil@x.test>", "503 5.5.1"), DATA, SENT),
    ("nested MAIL before RCPT", EHLO, MAIL, c("MAIL FROM:<evil@x.test>", "503 5.5.1"), RCPT, DATA,
     SENT),
    ("EHLO in a transaction ends it", START, EHLO, c("RCPT TO:<b@dest.test>", "503"),
     c("DATA", "503")),
    ("HELO in a transaction ends it", START, c("HELO x", "250"), c("DATA", "503")),
    ("refused EHLO leaves the transaction", START, c("EHLO", "501"), DATA, SENT),
    ("RSET ends a transaction", START, c("RSET", "250"), c("RCPT TO:<b@dest.test>", "503"),
     c("DATA", "503")),
    ("RSET with a parameter does not", START, c("RSET x", "501"), DATA, SENT),
    ("MAIL refused, then RCPT, DATA", EHLO, c("MAIL FROM:<a@src.test", "501"),
     c("RCPT TO:<b@dest.test>", "503"), c("DATA", "503")),
    ("MAIL refused by SIZE, then RCPT", EHLO, c("MAIL FROM:<a@src.test> SIZE=99999999999", "552"),
     c("RCPT TO:<b@dest.test>", "503"), c("DATA", "503")),
    ("after an accepted message nothing is left", START, DATA, SENT,
     c("RCPT TO:<b@dest.test>", "503"), c("DATA", "503"), c("BDAT 0 LAST", "503")),
    ("after a message refused at its end nothing is left", START, DATA, REFUSED_DATA,
     c("RCPT TO:<b@dest.test>", "503"), c("DATA", "503"), c("BDAT 0 LAST", "503"), MAIL, RCPT, DATA,
     SENT),
    ("after a message too large nothing is left", EHLO, c("MAIL FROM:<a@src.test> SIZE=5", "250"),
     RCPT, DATA, (b"A: b\r\n\r\n" + (b"x" * 98 + b"\r\n") * 45000 + b".\r\n", "552 5.3.4"),
     c("RCPT TO:<b@dest.test>", "503"), c("DATA", "503")),
    ("after a chunk refused nothing is left", START, c("BDAT 3 FIRST"), (b"abc", "501"),
     c("DATA", "503"), c("BDAT 0 LAST", "503"), c("RCPT TO:<b@dest.test>", "503")),
    ("DATA after BDAT", START, CHUNK, c("DATA", "503"), (b"BDAT 5 LAST\r\n\nx\r\n", ), (b"\n", "250")),
    ("DATA after a refused BDAT", START, c("BDAT 3 LAST"), (b"a\0b", "550"), c("DATA", "503"), MAIL,
     RCPT, DATA, SENT),
    ("RCPT and MAIL after BDAT", START, CHUNK, c("RCPT TO:<evil@dest.test>", "503"),
     c("MAIL FROM:<evil@x.test>", "503"), c("RSET", "250")),
    ("EHLO after BDAT", START, CHUNK, EHLO, c("BDAT 1 LAST"), (b"x", "503")),
    ("BDAT without RCPT", EHLO, MAIL, c("BDAT 6 LAST"), (b"NOOP\r\n", "503|554")),
    ("BDAT when every RCPT was refused", EHLO, MAIL, NOUSER, c("BDAT 6 LAST"), (b"NOOP\r\n", "554")),
    ("STARTTLS, AUTH that are not offered", EHLO, c("STARTTLS", "502"), c("AUTH PLAIN", "502")),
    ("STARTTLS, AUTH in a transaction", START, c("STARTTLS", "503|502"), c("AUTH PLAIN", "503|502"),
     DATA, SENT),
    ("VRFY and EXPN in a transaction change nothing", START, c("VRFY b", "252"), c("EXPN b", "502"),
     c("NOOP", "250"), DATA, SENT),
    ("the same recipient twice", START, RCPT, DATA, SENT),
    ("DATA with a parameter", START, c("DATA x", "501"), DATA, SENT),
    ("QUIT in a transaction", START, c("QUIT", "221", CLOSED)),
    ("QUIT with a parameter", EHLO, c("QUIT now", "501")),
    ("HELO takes mail", c("HELO x", "250"), MAIL, RCPT, DATA, SENT),
    ("empty lines", (b"\r\n\r\n", "500", "500"), EHLO),
    ("blank before a verb", EHLO, c(" NOOP", "500")),
    ("verbs in any case", c("eHlO client.test", "250"), c("mail from:<a@src.test>", "250"),
     c("rCPT To:<b@dest.test>", "250"), c("data", "354"), SENT),
    ("verb glued to what follows", EHLO, c("MAILFROM:<a@src.test>", "500"), c("RSETX", "500"),
     c("NOOP\tx", "500")),
    ("obsolete verbs", EHLO, c("TURN", "500|502"), c("SEND FROM:<a@src.test>", "500|502"),
     c("SOML FROM:<a@src.test>", "500|502"), c("SAML FROM:<a@src.test>", "500|502"),
     c("ETRN x", "500|502"), c("ATRN x", "500|502"), c("BURL x", "500|502"), c("XEXCH50 1 2", "500|502"),
     c("DEBUG", "500|502"), c("WIZ", "500|502")),
]

LENGTHS = [
    ("a command of 512 octets", EHLO, c("NOOP " + "x" * 505, "250")),
    ("1,000 octets of parameters", EHLO, c("NOOP " + "x" * 1000, "250")),
    ("2,048 octets with CRLF", EHLO, c("NOOP " + "x" * 2041, "250")),
    ("2,049", EHLO, c("NOOP " + "x" * 2042, "500 5.5.2")),
    ("5,000", EHLO, c("NOOP " + "x" * 4995, "500 5.5.2")),
    ("5,000 in a transaction", START, c("RCPT TO:<" + "x" * 4990 + ">", "500 5.5.2"), DATA, SENT),
    ("64 KB of a verb", EHLO, c("A" * 65536, "500 5.5.2")),
    ("70,000 octets of EHLO", c("EHLO " + "x" * 70000, "500 5.5.2"), EHLO),
    ("MAIL too long", EHLO, c("MAIL FROM:<" + "a" * 3000 + "@src.test>", "500 5.5.2"),
     c("RCPT TO:<b@dest.test>", "503")),
    ("a line too long that holds commands", EHLO, c(b"NOOP " + b"x" * 3000 + b" MAIL FROM:<evil@x.test>",
                                                   "500 5.5.2")),
    ("a line too long with a LF inside", EHLO, (b"N" * 4000 + b"\n" + HIDDEN, "500 5.5.2", CLOSED)),
    ("a line too long with a CR inside", EHLO, (b"N" * 4000 + b"\rNOOP\r\n", "500 5.5.2")),
    ("DATA behind a line too long", EHLO, (b"x" * 9000 + b"\r\nNOOP\r\n", "500 5.5.2", "250")),
]

CONTROLS = [
    ("NUL in a verb", EHLO, c(b"NO\0OP", "500 5.5.2")),
    ("NUL behind a verb", EHLO, c(b"NOOP\0", "500 5.5.2"), c(b"QUIT\0", "500 5.5.2")),
    ("NUL alone", EHLO, c(b"\0", "500 5.5.2")),
    ("NUL cuts no sender", EHLO, c(b"MAIL FROM:<a@src.test\0@x.test>", "500 5.5.2"),
     c(b"RCPT TO:<b@dest.test>", "503")),
    ("NUL cuts no recipient", EHLO, MAIL, c(b"RCPT TO:<b@dest.test\0.x.test>", "500 5.5.2"),
     c(b"RCPT TO:<b@dest.test>\0", "500 5.5.2"), c(b"DATA", "503")),
    ("NUL in EHLO", c(b"EHLO cli\0ent", "500|501"), EHLO),
    ("NUL in a parameter", EHLO, c(b"MAIL FROM:<a@src.test> SIZE=1\0", "500 5.5.2")),
    ("TAB, VT, FF, ESC, DEL, BEL, BS", EHLO,
     *[c(b"NOOP x" + bytes([b]) + b"y", "500 5.5.2") for b in (9, 11, 12, 27, 127, 7, 8)]),
    ("ESC in an address", EHLO, c(b"MAIL FROM:<\x1b[31ma@src.test>", "500 5.5.2")),
    ("broken UTF-8", EHLO, c(b"MAIL FROM:<\xff\xfe@src.test> SMTPUTF8", "500 5.5.2"),
     c(b"MAIL FROM:<\xc0\xaf@src.test> SMTPUTF8", "500 5.5.2"),
     c(b"MAIL FROM:<\xed\xa0\x80@src.test> SMTPUTF8", "500 5.5.2")),
    ("Telnet options", c(b"\xff\xfd\x01\xff\xfd\x03", "500 5.5.2"), EHLO),
    ("NEL and other new lines of Unicode", EHLO,
     c("MAIL FROM:<a\x85b@src.test> SMTPUTF8", "501"), c(b"EHLO a\xc2\x85b", "501"),
     c("EHLO a\u2028b", "501")),
    ("UTF-8 in EHLO", c("EHLO b\u00fccher.test", "501"), EHLO),
]
# Where a chunk ends is not known then: what it holds must never be taken for commands.
CONTROLS += [(f"BDAT that cannot be read: {line[:16]!r}", START, (line + b"\r\n" + HIDDEN, reply, CLOSED))
             for line, reply in ((b"BDAT", "501"), (b"BDAT x", "501"), (b"BDAT -1", "501"),
                                 (b"BDAT \xd9\xa1 LAST", "501"), (b"BDAT 9\0 LAST", "500"),
                                 (b"BDAT\t9 LAST", "500"), (b"bdat 9\tLAST", "500"),
                                 (b"BDAT \xff", "500"), (b"BDAT " + b"9" * 3000, "500"),
                                 (b"BDAT 18446744073709551616 LAST", "501"), (b"BDAT 0x10 LAST", "501"),
                                 (b"BDAT +9 LAST", "501"))]
for new, end in ((b"\n", "LF"), (b"\r", "CR"), (b"\r\r\n", "CRCRLF"), (b"\n\r", "LFCR")):
    CONTROLS += [(f"bare {end} in {verb}", *before, (line.replace(b"|", new) + b"\r\n" + HIDDEN,
                                                     "500 5.5.2", CLOSED))
                 for verb, before, line in (
                     ("NOOP", (EHLO,), b"NOOP|RSET"),
                     ("EHLO", (), b"EHLO a|MAIL FROM:<evil@x.test>"),
                     ("MAIL", (EHLO,), b"MAIL FROM:<a@src.test>|RCPT TO:<victim@dest.test>"),
                     ("a parameter", (EHLO,), b"MAIL FROM:<a@src.test> BODY=7BIT|RCPT TO:<victim@dest.test>"),
                     ("RCPT", (EHLO, MAIL), b"RCPT TO:<b@dest.test>|DATA"),
                     ("DATA", START, b"DATA|" + MESSAGE),
                     ("QUIT", (EHLO,), b"QUIT|"))]

BAD_PARAMETERS = [
    "FOO=bar", "FOO", "X-Y=1", "HOLDFOR=5", "SIZE=", "SIZE", "SIZE=-1", "SIZE=+1", "SIZE=1x", "SIZE=0x10",
    "SIZE=1.5", "SIZE=1 SIZE=1", "SIZE=" + "9" * 21, "BODY=BINARYMIME", "BODY=", "BODY", "BODY=9BIT",
    "BODY=7BIT BODY=8BITMIME", "SMTPUTF8=1", "SMTPUTF8 SMTPUTF8", "RET=ALL", "RET", "RET=FULL RET=HDRS",
    "ENVID=", "ENVID=a=b", "ENVID=+0", "ENVID=+0g", "ENVID=+0a", "ENVID=" + "x" * 101, "ENVID=a ENVID=b",
    "AUTH=<a@src.test>", "=", "=1", "SIZE==1", "-A=1", "A_B=1", "SIZE=1\u00fc", "NOTIFY=NEVER",
    "ORCPT=rfc822;b@dest.test", "TRANSID=<1@x>", "MT-PRIORITY=9", "BY=120;R",
]
BAD_RCPT_PARAMETERS = [
    "FOO=bar", "NOTIFY=", "NOTIFY", "NOTIFY=SOMETIMES", "NOTIFY=NEVER,SUCCESS", "NOTIFY=SUCCESS,SUCCESS",
    "NOTIFY=,", "NOTIFY=DELAY,", "NOTIFY=NEVER NOTIFY=NEVER", "ORCPT=", "ORCPT", "ORCPT=b@dest.test",
    "ORCPT=;b@dest.test", "ORCPT=rfc822;", "ORCPT=rfc822;a+0", "ORCPT=rfc822;a+zz", "ORCPT=rfc822;a=b",
    "ORCPT=rfc822;" + "x" * 500, "ORCPT=rfc822;a ORCPT=rfc822;b", "ORCPT=rf c822;a", "SIZE=1", "BODY=7BIT",
    "SMTPUTF8", "RET=FULL", "ENVID=1",
]
PARAMETERS = [
    *[(f"MAIL {p[:40]}", EHLO, c(f"MAIL FROM:<a@src.test> {p}", "501 5.5.4|555 5.5.4"),
       c("RCPT TO:<b@dest.test>", "503")) for p in BAD_PARAMETERS],
    *[(f"RCPT {p[:40]}", EHLO, MAIL, c(f"RCPT TO:<b@dest.test> {p}", "501 5.5.4|555 5.5.4"),
       c("DATA", "503|554")) for p in BAD_RCPT_PARAMETERS],
    ("parameters without a blank", EHLO, c("MAIL FROM:<a@src.test>SIZE=1", "501")),
    ("many blanks", EHLO, c("MAIL FROM:<a@src.test>   SIZE=100   BODY=7BIT  ", "250"), RCPT, DATA, SENT),
    ("every good parameter", EHLO,
     c("MAIL FROM:<a@src.test> size=1000 body=8bitmime smtputf8 ret=hdrs envid=e+2B1", "250"),
     c("RCPT TO:<b@dest.test> notify=success,failure,delay orcpt=rfc822;b+2Bc@dest.test", "250"),
     DATA, SENT),
    ("parameters to the end of the line", EHLO, c("MAIL FROM:<a@src.test> SIZE=" + "0" * 20, "250")),
]

HTTP = [
    (f"HTTP {verb}", (f"{verb} / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n".encode() + b"EHLO x\r\n" +
                      HIDDEN, "500 5.5.2", CLOSED))
    for verb in ("POST", "GET", "PUT", "HEAD", "DELETE", "CONNECT", "PATCH", "OPTIONS", "TRACE")
] + [("HTTP/2", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, "500 5.5.2", CLOSED)),
     ("HTTP behind EHLO", EHLO, (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN, "500 5.5.2", CLOSED))]

PIPELINED = [
    ("a whole envelope at once", (b"EHLO x\r\n", "250"),
     (MAIL[0] + RCPT[0] + b"DATA\r\n", "250", "250", "354"), SENT),
    ("two messages at once", (EHLO[0], "250"),
     (MAIL[0] + RCPT[0] + b"DATA\r\n", "250", "250", "354"),
     (MESSAGE + b".\r\n" + MAIL[0] + RCPT[0] + b"DATA\r\n", "250 2.0.0 queued", "250", "250", "354"),
     (MESSAGE + b".\r\nQUIT\r\n", "250 2.0.0 queued", "221", CLOSED)),
    ("content behind DATA", EHLO,
     (MAIL[0] + RCPT[0] + b"DATA\r\n" + MESSAGE + b".\r\n", "250", "250", "554 5.5.0", CLOSED)),
    ("content behind a DATA that is refused", EHLO,
     (b"MAIL FROM:<a@src.test>\r\nDATA\r\n" + HIDDEN, "250", "554 5.5.0", CLOSED)),
    ("behind EHLO", (b"EHLO x\r\nMAIL FROM:<a@src.test>\r\n", "554 5.5.0", CLOSED)),
    ("behind NOOP", EHLO, (b"NOOP\r\nMAIL FROM:<a@src.test>\r\n", "554 5.5.0", CLOSED)),
    ("behind VRFY", EHLO, (b"VRFY x\r\nMAIL FROM:<a@src.test>\r\n", "554 5.5.0", CLOSED)),
    ("behind QUIT", EHLO, (b"QUIT\r\n" + HIDDEN, "221", CLOSED)),
    ("RSET before an envelope", EHLO, (b"RSET\r\n" + MAIL[0] + RCPT[0] + b"DATA\r\n", "250", "250", "250",
                                       "354"), SENT),
    ("100 RSETs", EHLO, (b"RSET\r\n" * 100, *["250"] * 100)),
    ("1,000 recipients at once, the same one", EHLO, MAIL, (RCPT[0] * 1000, *["250"] * 1000), DATA, SENT),
    ("every RCPT refused, and DATA at once", EHLO,
     (MAIL[0] + NOUSER[0] * 3 + b"DATA\r\n", "250", "550", "550", "550", "554")),
    ("MAIL refused, the rest at once", EHLO,
     (b"MAIL FROM:<a@src.test\r\n" + RCPT[0] + b"DATA\r\n", "501", "503", "503")),
    ("an early talker", (b"", "554 5.5.0", CLOSED)),
]


@pytest.fixture
def bench(world, promise):
    return Bench(world, promise)


@pytest.mark.parametrize("ident, text, rows", [
    ("C01", "verbs out of order are refused, and no refusal leaves anything behind", ORDER),
    ("C02", "commands of any length: taken or refused, always in step", LENGTHS),
    ("C05", "controls, NUL and bare newlines in commands cut, end and smuggle nothing", CONTROLS),
    ("C08", "unknown, bad and repeated parameters are refused, and nothing is left", PARAMETERS),
    ("C11", "HTTP that carries SMTP is one error and the end", HTTP),
], ids=lambda v: v if isinstance(v, str) and len(v) == 3 else "")
def test_vectors_c01_c02_c05_c08_c11(bench, promise, ident, text, rows):
    promise(ident, text)
    for name, *steps in rows:
        bench.vector(name, *steps)
    bench.settle()


def test_c01_pipelining_is_obeyed_and_abuse_ends_the_session(bench, promise):
    promise("C01", "a group is answered in order; what may not follow in it ends the session")
    for name, *steps in PIPELINED:
        if name == "an early talker":
            with smtp.Client(bench.node.address, bench.node.port, greet=False,
                             first=EHLO[0] + HIDDEN) as session:
                reply = session.reply()
                if reply.code == 220:  # the greeting was on its way already
                    reply = session.reply()
                assert reply.code == 554 and session.closed(), name
            promise.case()
        else:
            bench.vector(name, *steps)
    bench.settle()


WALK = {"MAIL": MAIL[0], "RCPT": RCPT[0], "NOUSER": NOUSER[0], "RSET": b"RSET\r\n", "EHLO": EHLO[0],
        "DATA": b"DATA\r\n", "BDAT": b"BDAT 2\r\n\r\n", "LAST": b"BDAT 0 LAST\r\n",
        "BAD": b"MAIL FROM:<>> x\r\n"}


def model(state, verb):
    """(the next state, the code of the reply) of RFC 5321 section 4.1.4 and RFC 3030 section 4.2."""
    if verb in ("RSET", "EHLO"):
        return "ready", 250
    if state == "ready":
        return {"MAIL": ("mail", 250), "BAD": (state, 501)}.get(verb, (state, 503))
    if verb in ("MAIL", "BAD"):
        return state, 503
    if verb in ("RCPT", "NOUSER"):
        if state == "bdat":
            return state, 503
        return ("rcpt", 250) if verb == "RCPT" else ("rcpt" if state == "rcpt" else "refused", 550)
    if state in ("mail", "refused"):
        return state, 554 if state == "refused" else 503
    if verb == "DATA":
        return ("ready", 354) if state == "rcpt" else (state, 503)
    return ("ready" if verb == "LAST" else "bdat"), 250


def test_c01_every_walk_through_the_verbs_is_answered_as_the_model_says(bench, promise):
    promise("C01", "any verbs in any order: the state machine of RFC 5321, and nothing else")
    for walk in list(itertools.product(WALK, repeat=size(3, 4)))[::size(3, 1)]:
        state = "ready"
        with bench.client() as session:
            session.ehlo()
            for verb in walk:
                state, code = model(state, verb)
                session.send(WALK[verb])
                reply = bench.note(session.reply())
                assert reply.code == code, f"{walk}: {verb} was answered {reply}, expected {code}"
                if code == 354:
                    session.send(SENT[0])
                    bench.note(session.reply())
            session.send(b"QUIT\r\n")
            assert session.reply().code == 221, walk
        promise.case()
    bench.settle()


def test_c02_endless_line_is_read_to_its_end_in_little_memory(bench, promise):
    promise("C02", "a line of 8 MB is refused, in step, and takes no memory")
    with bench.client() as session:
        session.ehlo()
        before = rss_kib(bench.node.pid)
        for mb in (8, size(8, 64)):
            session.send(b"NOOP ")
            for _ in range(mb * 16):
                session.send(b"x" * 65536)
            if not sanitized():
                assert rss_kib(bench.node.pid) < before + 2048
            session.send(b"\r\n")
            assert str(session.reply()).startswith("500 5.5.2")
            promise.case()
        bench.in_step(session, "8 MB")
    bench.settle()


def test_c05_command_cut_at_every_place_is_the_same_command(bench, promise):
    promise("C05", "commands mean the same however the segments fall")
    text = MAIL[0] + RCPT[0] + b"RSET\r\nFOO\r\n" + MAIL[0] + b"RSET\r\n"
    with bench.client() as session:
        session.ehlo()
        for cut in range(1, len(text)):
            if cut % 15 == 0:
                session.close()
                session = bench.client()
                session.ehlo()
            for part in (text[:cut], text[cut:]):
                session.send(part)
            assert [session.reply().code for _ in range(6)] == [250, 250, 250, 500, 250, 250], cut
            promise.case()
        session.close()
    with bench.client() as session:
        for line, *codes in ((EHLO[0], 250), (text, 250, 250, 250, 500, 250, 250), (b"QUIT\r\n", 221)):
            for byte in line:
                session.send(bytes([byte]))
            assert [session.reply().code for _ in codes] == codes
    promise.case()
    bench.settle()


def test_c11_300_bad_commands_end_the_session(bench, promise):
    promise("C11", "20 errors end a session, however many more are sent")
    for name, line in (("unknown", b"FOO bar\r\n"), ("syntax", b"MAIL FROM:x\r\n"), ("order", b"RCPT TO:<b@dest.test>\r\n"),
                       ("control", b"\x01\r\n"), ("long", b"x" * 3000 + b"\r\n")):
        with bench.client() as session:
            session.ehlo()
            codes = []
            try:
                for _ in range(300):
                    session.send(line)
                    codes.append(session.reply().code)
            except (smtp.Closed, OSError):
                pass
            assert len(codes) == 21 and codes[-1] == 421, f"{name}: {codes}"
            assert all(500 <= code < 600 for code in codes[:-1])
        promise.case()
        with bench.client() as session:  # all at once
            session.ehlo()
            session.send(line * 300)
            codes = [session.reply().code for _ in range(21)]
            assert codes[-1] == 421 and session.closed(), f"{name}: {codes}"
        promise.case()
    # Good commands in between do not start it anew.
    with bench.client() as session:
        session.ehlo()
        for _ in range(19):
            assert session.cmd("FOO").code == 500
            assert session.cmd("NOOP").code == 250
        assert session.cmd("FOO").code == 500
        assert session.reply().code == 421
    promise.case()
    bench.settle()


STATES = [
    ("new", ()), ("hello", (EHLO,)), ("mail", (EHLO, MAIL)), ("rcpt", START), ("data", (*START, DATA)),
    ("half a line", (*START, (b"NOO",))), ("in the header", (*START, DATA, (b"From: a@src.test\r\nSub",))),
    ("in the body", (*START, DATA, (MESSAGE,))), ("at the dot", (*START, DATA, (MESSAGE + b".",))),
    ("CR of the dot", (*START, DATA, (MESSAGE + b".\r",))), ("bdat", (*START, CHUNK)),
    ("in a chunk", (*START, (b"BDAT 100 LAST\r\nabc",))), ("long line", (EHLO, (b"x" * 5000,))),
    ("refused and draining", (*START, DATA, (b"a\0b\r\n",))),
]


@pytest.mark.parametrize("how", ["half-closed", "reset", "closed"])
def test_c01_client_that_goes_at_any_state_leaves_nothing(bench, promise, how):
    promise("C01", f"a client that is {how} at any state: nothing is delivered that was not promised")
    for name, steps in STATES:
        session = bench.client()
        bench.play(session, name, steps)
        if how == "reset":
            session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            session.close()
        elif how == "closed":
            session.close()
        else:
            session.socket.shutdown(socket.SHUT_WR)
            assert session.closed(), name
            session.close()
        promise.case()
        assert bench.node.running(), name
    # Who has sent everything before he closes his half gets all his answers.
    with bench.client() as session:
        bench.play(session, "all sent", (*START, DATA))
        session.send(MESSAGE + b".\r\nMAIL FROM:<a@src.test>\r\nQUIT\r\n")
        if how == "half-closed":
            session.socket.shutdown(socket.SHUT_WR)
        assert bench.note(session.reply()).queued_id
        assert [session.reply().code, session.reply().code] == [250, 221]
        assert session.closed()
    promise.case()
    bench.settle()
    assert not bench.node.queue()
