"""C04, C09, C10: sizes that lie, chunks of every kind, and headers that are none."""

import random
import re

import pytest

from rig import mail
from rig.hostile import CLOSED, DATA, EHLO, HIDDEN, MAIL, MESSAGE, RCPT, SENT, START, Bench
from rig.node import sanitized
from rig.proc import rss_kib
from rig.promise import size

pytestmark = pytest.mark.torture

LIMIT = 4 << 20  # of the bench
QUEUED = "250 2.0.0 queued as "


def mail_size(value):
    return f"MAIL FROM:<a@src.test> SIZE={value}\r\n".encode()


def body_of(total):
    """A message of so many octets."""
    head = mail.message(body="")
    lines, rest = divmod(total - len(head), 100)
    return head + (b"y" * 98 + b"\r\n") * (lines - 1) + b"z" * (98 + rest) + b"\r\n"


SIZES = [
    ("at the limit", EHLO, (mail_size(LIMIT), "250"), RCPT, DATA, (body_of(LIMIT) + b".\r\n", QUEUED)),
    ("one over", EHLO, (mail_size(LIMIT), "250"), RCPT, DATA,
     (body_of(LIMIT + 1) + b".\r\n", "552 5.3.4"), MAIL, RCPT, DATA, SENT),
    ("declared one over", EHLO, (mail_size(LIMIT + 1), "552 5.3.4"), (b"RCPT TO:<b@dest.test>\r\n", "503")),
    ("a lie: 1 octet declared", EHLO, (mail_size(1), "250"), RCPT, DATA, SENT),
    ("a lie: over the limit though 10 are declared", EHLO, (mail_size(10), "250"), RCPT, DATA,
     (body_of(LIMIT + 5000) + b".\r\n", "552 5.3.4")),
    ("over the limit in one line", START, DATA, (MESSAGE + b"x" * (LIMIT + 99) + b"\r\n.\r\n", "552 5.3.4")),
    ("over the limit, and commands behind it", START, DATA,
     (body_of(LIMIT + 70000) + b".\r\nRSET\r\nMAIL FROM:<a@src.test>\r\n", "552 5.3.4", "250", "250")),
    ("twice too large", START, DATA, (body_of(LIMIT + 1) + b".\r\n", "552"), MAIL, RCPT, DATA,
     (body_of(2 * LIMIT) + b".\r\n", "552")),
    ("as many dots as octets", START, DATA, (MESSAGE + b"..\r\n" * 20000 + b".\r\n", QUEUED)),
    ("a header over 1 MiB", START, DATA, (b"A: b\r\n" * 200000 + b"\r\n.\r\n", "554 5.6.0"), MAIL, RCPT, DATA,
     SENT),
    *[(f"SIZE={v}", EHLO, (mail_size(v), "552 5.3.4")) for v in
      ("18446744073709551615", "18446744073709551616", "9223372036854775808", "4294967296", "99999999999999999999",
       str(LIMIT + 1))],
    *[(f"SIZE={v}", EHLO, (mail_size(v), "250"), RCPT, DATA, SENT) for v in ("0", "00000000000000000001")],
]


def bdat(data, last=False):
    return f"BDAT {len(data)}{' LAST' if last else ''}\r\n".encode() + data


TAKEN = "250 2.0.0"
CHUNKS = [
    ("one chunk", START, (bdat(MESSAGE, True), QUEUED)),
    ("two", START, (bdat(MESSAGE[:50]), TAKEN), (bdat(MESSAGE[50:], True), QUEUED)),
    ("an empty last one", START, (bdat(MESSAGE), TAKEN), (b"BDAT 0 LAST\r\n", QUEUED)),
    ("only an empty one", START, (b"BDAT 0 LAST\r\n", QUEUED)),
    ("empty ones between", START, (b"BDAT 0\r\n" * 20, *[TAKEN] * 20), (bdat(MESSAGE, True), QUEUED)),
    ("pipelined", START, (bdat(MESSAGE[:9]) + bdat(MESSAGE[9:]) + b"BDAT 0 LAST\r\n", TAKEN, TAKEN, QUEUED)),
    ("envelope and chunks in one group", EHLO, (MAIL[0] + RCPT[0] + bdat(MESSAGE, True), "250", "250", QUEUED)),
    ("two messages in one group", EHLO, ((MAIL[0] + RCPT[0] + bdat(MESSAGE, True)) * 2,
                                        *["250", "250", QUEUED] * 2)),
    ("last in any case", START, (b"bdat %d last\r\n" % len(MESSAGE) + MESSAGE, QUEUED)),
    ("dots are text", START, (bdat(mail.message(body=b"a\r\n.\r\n..\r\n" + HIDDEN), True), QUEUED)),
    ("without CRLF at its end", START, (bdat(MESSAGE[:-2], True), QUEUED)),
    ("cut inside CRLF", START, (bdat(MESSAGE[:-1]), TAKEN), (b"BDAT 1 LAST\r\n\n", QUEUED)),
    ("a CR at the very end", START, (bdat(MESSAGE + b"x\r", True), QUEUED)),
    ("bare newlines", START, (bdat(mail.message(body=b"a\nb\rc\n.\n" + HIDDEN), True), QUEUED)),
    ("NUL", START, (bdat(MESSAGE + b"\0", True), "550 5.6.0"), (b"DATA\r\n", "503")),
    ("NUL in the first of two", START, (bdat(MESSAGE + b"\0"), "550|250"), (b"RSET\r\n", "250")),
    ("junk behind the size", START, (b"BDAT 9 FIRST\r\n123456789", "501"), (b"DATA\r\n", "503")),
    ("LAST twice", START, (b"BDAT 9 LAST LAST\r\n123456789", "501"), (b"DATA\r\n", "503")),
    ("LASTX", START, (b"BDAT 9 LASTX\r\n123456789", "501"), (b"DATA\r\n", "503")),
    ("commands inside a refused chunk", START, (b"BDAT %d FIRST\r\n" % len(HIDDEN) + HIDDEN, "501")),
    ("commands inside a chunk without MAIL", EHLO, (bdat(HIDDEN, True), "503")),
    ("commands inside a chunk without RCPT", EHLO, MAIL, (bdat(HIDDEN, True), "503|554")),
    ("too large by its size", START, (bdat(b"z" * (LIMIT + 1), True), "552 5.3.4"), MAIL, RCPT, DATA, SENT),
    ("too large by parts", START, (bdat(body_of(LIMIT)), TAKEN), (bdat(b"zz\r\n", True), "552 5.3.4"),
     (b"BDAT 0 LAST\r\n", "503")),
    ("after LAST", START, (bdat(MESSAGE, True), QUEUED), (bdat(HIDDEN, True), "503")),
    ("RSET between", START, (bdat(MESSAGE), TAKEN), (b"RSET\r\n", "250"), (bdat(HIDDEN, True), "503")),
    ("QUIT between", START, (bdat(MESSAGE), TAKEN), (b"QUIT\r\n", "221", CLOSED)),
    ("NOOP, VRFY, HELP between", START, (bdat(MESSAGE), TAKEN), (b"NOOP\r\n", "250"), (b"VRFY x\r\n", "252"),
     (b"HELP\r\n", "214"), (b"BDAT 0 LAST\r\n", QUEUED)),
    ("BINARYMIME is not offered", EHLO, (b"MAIL FROM:<a@src.test> BODY=BINARYMIME\r\n", "501|555")),
    *[(f"BDAT {v}", START, (f"BDAT {v}\r\n".encode() + HIDDEN, "501 5.5.4", CLOSED)) for v in
      ("-1", "", "LAST", "1e3", "0x5", "+5", "5,5", "5.0", "18446744073709551616", "9" * 40, "\u00b2", "5LAST")],
    ("BDAT 2^64-1", START, (b"BDAT 18446744073709551615 LAST\r\nx", )),
    ("BDAT 2^63", EHLO, (b"BDAT 9223372036854775808\r\nRSET\r\nNOOP\r\n", )),
]
ENDLESS = {"BDAT 2^64-1", "BDAT 2^63"}

FIELD = b"X-Filler: 0123456789\r\n"
FROM = b"From: a@src.test\r\n"
# name, the message as sent (before the final dot), what is answered
ZOO = [
    ("20,000 header lines", FROM + FIELD * 20000 + b"\r\nbody\r\n", QUEUED),
    ("20,000 folded lines in one field", FROM + b"X-Long: a\r\n" + b" folded\r\n" * 20000 + b"\r\nbody\r\n",
     QUEUED),
    ("1,000,000 octets of header", FROM + (b"X: " + b"y" * 495 + b"\r\n") * 1990 + b"\r\nbody\r\n", QUEUED),
    ("1 MiB and more", FROM + (b"X: " + b"y" * 495 + b"\r\n") * 2200 + b"\r\nbody\r\n", "554 5.6.0"),
    ("a header without an end", FROM + FIELD * 100, QUEUED),
    ("only a From field", FROM, QUEUED),
    ("an empty message", b"", QUEUED),
    ("one CRLF", b"\r\n", QUEUED),
    ("only CRLFs", b"\r\n" * 1000, QUEUED),
    ("only blanks", b"   \r\n\t\r\n", QUEUED),
    ("no header, text", b"Hello, this is no header\r\nat all\r\n", QUEUED),
    ("no header, an empty line first", b"\r\nHello\r\n", QUEUED),
    ("garbage first line", b"\xff\xfe garbage\r\n" + MESSAGE, QUEUED),
    ("mbox line first", b"From a@src.test Fri Nov 20 10:00:00 2026\r\n" + MESSAGE, QUEUED),
    ("quoted mbox line first", b">From a@src.test\r\n" + MESSAGE, QUEUED),
    ("a continuation first", b" folded from nothing\r\n" + MESSAGE, QUEUED),
    ("a colon first", b": empty name\r\n" + MESSAGE, QUEUED),
    ("a colon alone", b":\r\n" + MESSAGE, QUEUED),
    ("garbage in the middle", FROM + b"this is no field\r\nSubject: x\r\n\r\nbody\r\n", QUEUED),
    ("garbage at the end of the header", FROM + b"Subject: x\r\nno field at all\r\n\r\nbody\r\n", QUEUED),
    ("binary in the header", FROM + b"Subject: \x01\x02\x7f\xff\r\n\r\nbody\r\n", QUEUED),
    ("8-bit field name", FROM + b"X-\xfc: y\r\n\r\nbody\r\n", QUEUED),
    ("blank before the colon", FROM + b"Subject : x\r\n\r\nbody\r\n", QUEUED),
    ("tab before the colon", FROM + b"Subject\t: x\r\n\r\nbody\r\n", QUEUED),
    ("no blank behind the colon", b"From:a@src.test\r\nSubject:x\r\n\r\nbody\r\n", QUEUED),
    ("empty fields", FROM + b"Subject:\r\nX:\r\nTo: \r\n\r\nbody\r\n", QUEUED),
    ("a field of blanks", FROM + b"Subject: \r\n \r\n\t\r\n\r\nbody\r\n", QUEUED),
    ("a line of blanks for the empty one", FROM + b"Subject: x\r\n \r\nbody\r\n", QUEUED),
    ("a name of 900 octets", FROM + b"X" * 900 + b": y\r\n\r\nbody\r\n", QUEUED),
    ("a name of 5,000 octets", FROM + b"X" * 5000 + b": y\r\n\r\nbody\r\n", "550 5.6.0"),
    ("a first line of 5,000 octets", b"x" * 5000 + b"\r\n" + MESSAGE, QUEUED),
    ("a first line of 5,000 octets with a colon at its end", b"x" * 5000 + b": y\r\n" + MESSAGE, QUEUED + "|550"),
    ("a value of 100 KB with blanks", FROM + b"Subject:" + b" word" * 20000 + b"\r\n\r\nbody\r\n", QUEUED),
    ("a value of 100 KB without", FROM + b"Subject: " + b"x" * 100000 + b"\r\n\r\nbody\r\n", "550 5.6.0"),
    ("a line of 100 KB of blanks", FROM + b"Subject: x" + b" " * 100000 + b"\r\n\r\nbody\r\n", "550 5.6.0"),
    ("998 octets of a field", FROM + b"S: " + b"x" * 995 + b"\r\n\r\nbody\r\n", QUEUED),
    ("999 octets of a field", FROM + b"S: " + b"x" * 996 + b"\r\n\r\nbody\r\n", "250|550"),
    ("999 octets with a blank", FROM + b"S: x " + b"x" * 994 + b"\r\n\r\nbody\r\n", QUEUED),
    ("NUL in the header", FROM + b"Subject: a\0b\r\n\r\nbody\r\n", "550 5.6.0"),
    ("bare newlines in the header", b"From: a@src.test\nSubject: x\rTo: y\n\nbody\r\n", QUEUED),
    ("bare CRs make no fields", FROM + b"Subject: x\rBcc: evil@x.test\r\n\r\nbody\r\n", QUEUED),
    ("61 Received", b"Received: from a by b; Fri, 20 Nov 2026 10:00:00 +0000\r\n" * 61 + MESSAGE, QUEUED),
    ("99 Received", b"Received: x\r\n" * 99 + MESSAGE, QUEUED),
    ("100 Received", b"Received: x\r\n" * 100 + MESSAGE, "554 5.4.6"),
    ("1,000 Received in any case", b"rEcEiVeD: x\r\n" * 1000 + MESSAGE, "554 5.4.6"),
    ("Received behind the header", MESSAGE + b"Received: x\r\n" * 200, QUEUED),
    ("no line end at the end, a dot", MESSAGE + b"..\r\n", QUEUED),
    ("every octet but NUL, CR, LF", MESSAGE + bytes(b for b in range(1, 256) if b not in (10, 13)) + b"\r\n", QUEUED),
]


@pytest.fixture
def bench(world, promise):
    return Bench(world, promise)


def test_c04_size_too_large_false_or_beyond_numbers(bench, promise):
    promise("C04", "SIZE too big, false, of 20 digits; too much data: 552, in step, nothing kept")
    for name, *steps in SIZES:
        bench.vector(name, *steps)
    bench.settle()


def test_c09_chunks_of_every_kind(bench, promise):
    promise("C09", "BDAT in any order, of any size: one answer each, octets never become commands")
    for name, *steps in CHUNKS:
        if name not in ENDLESS:
            bench.vector(name, *steps)
            continue
        with bench.client() as session:  # its end never comes: nothing may be answered but 552
            bench.play(session, name, [s for step in steps for s in (step if isinstance(step[0], tuple) else [step])])
            session.socket.settimeout(0.3)
            try:
                data = session.socket.recv(100)
            except TimeoutError:
                data = b""
            assert not data
        promise.case()
    bench.settle()


def test_c09_20000_tiny_chunks_take_no_memory(bench, promise):
    promise("C09", "20,000 chunks of one octet: one message, no memory (Postfix 20260805)")
    with bench.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        body = mail.message(body=b"tiny\r\n" * size(400, 4000))
        body += b"." * (20000 - len(body) - 2) + b"\r\n" if len(body) < 20000 else b""
        before = rss_kib(bench.node.pid)
        for start in range(0, len(body), 500):
            part = body[start:start + 500]
            session.send(b"".join(b"BDAT 1\r\n" + bytes([b]) for b in part))
            for _ in part:
                assert session.reply().code == 250
            promise.case(len(part))
        for _ in range(size(20, 200)):  # and chunks of nothing, without end
            session.send(b"BDAT 0\r\n" * 1000)
            for _ in range(1000):
                assert session.reply().code == 250
        if not sanitized():
            assert rss_kib(bench.node.pid) < before + 4096
        session.send(b"BDAT 0 LAST\r\n")
        assert bench.note(session.reply()).queued_id
    [message] = bench.settle().values()
    assert message.data.replace(b"\r\n ", b"").endswith(body[-5000:].replace(b"\r\n ", b""))


def test_c09_message_in_random_chunks_is_the_message(bench, promise):
    promise("C09", "however a message is cut into chunks, and they into segments, it is the same")
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    body = mail.message(body=b"a\r\n.\r\n..\r\n.x\r\n\r\nno dot is special here\r\n", ident="chunks")
    for _ in range(size(60, 2000)):
        wire, at = b"", 0
        n_chunks = 1
        while at < len(body):
            n = min(rng.choice((0, 1, 2, 3, 50, 400)), len(body) - at)
            last = at + n == len(body)
            wire += bdat(body[at:at + n], last)
            at += n
            n_chunks += not last
        with bench.client() as session:
            session.ehlo()
            session.mail("a@src.test")
            session.rcpt("b@dest.test")
            while wire:
                n = rng.choice((1, 2, 7, 1000))
                session.send(wire[:n])
                wire = wire[n:]
            replies = [bench.note(session.reply()) for _ in range(n_chunks)]
            assert all(r.code == 250 for r in replies), f"seed {seed}"
            bench.in_step(session, f"seed {seed}")
        promise.case()
    assert all(m.data.endswith(body) for m in bench.settle().values()), f"seed {seed}"


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_c10_header_zoo(world, promise, kind):
    promise("C10", "20,000 lines, 1 MB, none, garbage: one answer, alive, signed or said why not")
    bench = Bench(world, promise, kind=kind)
    for name, text, answer in ZOO:
        stuffed = re.sub(rb"(^|\r\n)\.(?!\.\r\n\Z)", rb"\1..", text)
        bench.vector(name, START, DATA, (stuffed + b".\r\n", answer))
    messages = bench.settle().values()
    assert len(messages) >= 40
    for m in messages:
        head, _, _ = m.data.partition(b"\r\n\r\n")
        assert re.search(rb"(?mi)^Received: from client\.test \(\[127\.", head), m.data[:500]
        assert max(map(len, m.raw.split(b"\r\n"))) <= 998
        assert not re.search(rb"(?m)^Bcc:", head)
