"""E08, E09: every message that is delivered verifies, or is said to be unsigned, whatever it is made of."""

import random
import re

import pytest

from rig import dkimkeys, mail
from rig.hostile import DATA, START, Bench, queued_id
from rig.promise import size

pytestmark = pytest.mark.torture

QUEUED = "250 2.0.0 queued as "
FROM = b"From: a@src.test\r\n"

# name, message: signed and valid, whatever else happens to it on the way.
SIGNED = [
    ("nothing but From", FROM + b"\r\n"),
    ("no body", FROM + b"Subject: x\r\n\r\n"),
    ("no end of the header", FROM + b"Subject: x\r\n"),
    ("empty lines only", FROM + b"\r\n" + b"\r\n" * 100),
    ("blanks only", FROM + b"\r\n   \r\n\t\t\r\n \r\n"),
    ("trailing blanks", FROM + b"\r\ntext  \t \r\nmore\t\r\n   \r\n\r\n\r\n"),
    ("blanks inside", FROM + b"Subject:  a \t  b  \r\n\r\na  b\t\tc \r\n"),
    ("a dot line", FROM + b"\r\n..\r\n..x\r\n"),
    ("bare newlines", FROM + b"Subject: a\rb\n\r\nx\ny\rz\n\r\n"),
    ("a line of 5,000", FROM + b"\r\n" + b"x" * 5000 + b"\r\n"),
    ("a line of 5,000 with blanks", FROM + b"\r\n" + b"x y" * 1700 + b"\r\n"),
    ("a line of 998 and a blank", FROM + b"\r\n" + b"x" * 997 + b"  y\r\n"),
    ("long lines of UTF-8", FROM + b"\r\n" + "\u4e2d\u6587".encode() * 1000 + b"\r\n"),
    ("8-bit garbage", FROM + b"\r\n" + bytes(b for b in range(1, 256) if b not in (10, 13)) * 8 + b"\r\n"),
    ("a field to be folded", FROM + b"Subject: " + b"word " * 1000 + b"\r\n\r\nx\r\n"),
    ("a 100 KB field, folded", FROM + b"References:" + b"\r\n <id@x.test>" * 7000 + b"\r\n\r\nx\r\n"),
    ("a 100 KB To on one line", FROM + b"To: " + b"b@dest.test, " * 8000 + b"b@dest.test\r\n\r\nx\r\n"),
    ("two From, ours first", FROM + b"From: evil@x.test\r\n\r\nx\r\n"),
    ("three From, all ours", FROM * 3 + b"\r\nx\r\n"),
    ("two Subject, two To, two Date", FROM + b"Subject: a\r\nSubject: b\r\nTo: a@b\r\nTo: c@d\r\nDate: x\r\nDate: y\r\n\r\n.\r\n"
     .replace(b"\r\n.\r\n", b"\r\nx\r\n")),
    ("a folded From", b"From:\r\n\tA\r\n B\r\n <a@src.test>\r\n\r\nx\r\n"),
    ("From folded in the address", b"From: <a@\r\n src.test>\r\n\r\nx\r\n"),
    ("From with comments", b"From: (x@evil.test) \"b@evil.test\" <a@src.test> (y)\r\n\r\nx\r\n"),
    ("From of two mailboxes", b"From: a@src.test, b@evil.test\r\n\r\nx\r\n"),
    ("From in capitals", b"FROM: A@SRC.TEST\r\nSUBJECT: X\r\n\r\nx\r\n"),
    ("encoded name", b"From: =?utf-8?B?5Lit5paH?= <a@src.test>\r\n\r\nx\r\n"),
    ("8-bit name", b"From: \xe4\xb8\xad <a@src.test>\r\nSubject: \xff\xfe\r\n\r\nx\r\n"),
    ("empty fields", FROM + b"Subject:\r\nTo:\r\nCc: \r\nReply-To:\r\n\t\r\nDate:\r\n\r\nx\r\n"),
    ("every field of the list", FROM + b"".join(
        n + b": v\r\n" for n in (b"Reply-To", b"Subject", b"Date", b"To", b"Cc", b"Sender", b"Message-ID",
                                 b"In-Reply-To", b"References", b"Resent-Date", b"Resent-From", b"Resent-To",
                                 b"Resent-Cc", b"List-Id", b"List-Help", b"List-Unsubscribe",
                                 b"List-Unsubscribe-Post", b"MIME-Version", b"Content-Type",
                                 b"Content-Transfer-Encoding")) + b"\r\nx\r\n"),
    ("60 Received", b"Received: x\r\n" * 60 + FROM + b"\r\nx\r\n"),
    ("20,000 other fields", FROM + b"X-A: b\r\n" * 20000 + b"\r\nx\r\n"),
    ("somebody else's signature", b"DKIM-Signature: v=1; a=rsa-sha256; d=x.test; s=s; h=from; bh=; b=\r\n" + FROM +
     b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n\r\nx\r\n"),
    ("a broken signature", b"DKIM-Signature: \xff;;;=;d\r\n" + FROM + b"\r\nx\r\n"),
    ("tags twice in a field", FROM + b"Content-Type: text/plain; a=b; a=c\r\n\r\nx\r\n"),
    ("2 MB", FROM + b"\r\n" + (b"z" * 76 + b"\r\n") * 26000),
    ("64 KB to the octet", FROM + b"\r\n" + b"q" * 900 + b"\r\n" * 31868),
    ("format in fields", FROM + b"Subject: %s%n%x \\x00 ${x}\r\n\r\nx\r\n"),
    ("controls in fields", FROM + b"Subject: \x01\x02 \x1b\x7f\x1c\x1f\r\n\r\nx\r\n"),
    ("VT and FF in other fields", FROM + b"X-A: \x0b \x0c\r\n\r\nx\r\n"),
    *[(f"{c!r} in the body", FROM + b"\r\n" + c + b"x" + c + b" " + c + b"y " + c + b"\r\n" + c + b"\r\n")
      for c in (b"\x01", b"\x0b", b"\x0c", b"\x1a", b"\x1c", b"\x1f", b"\x7f", b"\x85", b"\xa0")],
]
# Not signed: by its form it cannot be, or nobody of ours wrote it. Said in the log where a key was there.
UNSIGNED = [
    ("From of another", b"From: a@x.test\r\n\r\nx\r\n", False),
    ("two From, ours last", b"From: evil@x.test\r\n" + FROM + b"\r\nx\r\n", False),
    ("no From", b"Subject: x\r\n\r\nx\r\n", False),
    ("an empty From", b"From:\r\n\r\nx\r\n", False),
    ("From without an address", b"From: src.test\r\n\r\nx\r\n", False),
    ("From <>", b"From: <>\r\n\r\nx\r\n", False),
    ("From whose domain only ends like ours", b"From: a@evilsrc.test\r\n\r\nx\r\n", False),
    ("From with ours in the name", b"From: \"a@src.test\" <evil@x.test>\r\n\r\nx\r\n", False),
    ("From with ours in a comment", b"From: (a@src.test) evil@x.test\r\n\r\nx\r\n", False),
    ("From with ours as a route", b"From: <@src.test:evil@x.test>\r\n\r\nx\r\n", False),
    ("From in the body", b"\r\n" + FROM, False),
    ("From behind a first line that is no field", b"x\r\n" + FROM + b"\r\nx\r\n", False),
    ("a line without a colon", FROM + b"no field\r\nSubject: x\r\n\r\nx\r\n", True),
    ("a line without a colon before the body", FROM + b"Subject: x\r\nno field\r\n\r\nx\r\n", True),
    ("a blank before a colon", FROM + b"Subject : x\r\n\r\nx\r\n", True),
    ("a tab before a colon", FROM + b"X\t: x\r\n\r\nx\r\n", True),
    ("VT in a signed field", FROM + b"Subject: a\x0bb\r\n\r\nx\r\n", True),
    ("FF in a signed field", FROM + b"To: \x0c\r\n\r\nx\r\n", True),
    ("8-bit field name", FROM + b"\xc3\xbc: x\r\n\r\nx\r\n", True),
    ("a colon first", FROM + b": x\r\n\r\nx\r\n", True),
    ("5,000 To fields", FROM + b"To: b@dest.test\r\n" * 5000 + b"\r\nx\r\n", True),
    ("5,000 From fields", FROM * 5000 + b"\r\nx\r\n", True),
]


@pytest.fixture
def bench(world, promise):
    return Bench(world, promise, kind="rsa")


def stuffed(message):
    return re.sub(rb"(^|\r\n)\.(?!\r?\n)(?!\.)", rb"\1..", message) + b".\r\n"


def signatures_of_ours(message, dns):
    return [s for s in dkimkeys.verify(message, dns) if (s.domain, s.selector) == ("src.test", "cn")]


def test_e08_every_delivered_message_verifies(bench, promise):
    promise("E08", "bodies and headers of every kind: signed after the last change, valid, oversigned, no l=")
    names = {}
    for name, message in SIGNED:
        bench.vector(name, START, DATA, (stuffed(message), QUEUED))
        names[bench.promised[-1]] = name
    bench.node.wait_empty()
    for m in bench.mx.wait_mail(len(SIGNED)):
        name = names[queued_id(m.data)]
        [signature] = signatures_of_ours(m.data, bench.world.dns)
        assert signature.valid, f"{name}: {signature}"
        assert max(map(len, m.raw.split(b"\r\n"))) <= 1000, name
        head = m.data.partition(b"\r\n\r\n")[0]
        for field in ("from", "to", "cc", "subject", "date", "reply-to"):
            there = len(re.findall(rb"(?mi)^%s[ \t]*:" % field.encode(), head))
            assert signature.fields.count(field) == there + 1, f"{name}: {field} is not oversigned"
        assert not re.search(rb"DKIM-Signature:[^:]*\bl=", head), name
        # Oversigned: a field that somebody adds breaks the signature.
        forged = m.data.replace(b"\r\nFrom:", b"\r\nSubject: forged\r\nFrom:", 1)
        if name == "no body":
            assert not signatures_of_ours(forged, bench.world.dns)[0].valid
        promise.case()
    assert not bench.node.log.all(event="unsigned")


def test_e09_tricks_with_the_header_are_signed_right_or_not_at_all(bench, promise):
    promise("E09", "two From, no From, garbage in the header: no key is lent to it, and the log says so")
    for name, message, said in UNSIGNED:
        bench.vector(name, START, DATA, (stuffed(message), QUEUED))
        ident = bench.promised[-1]
        if said:
            assert bench.node.log.wait(event="unsigned", text=lambda t, i=ident: i in t)
        promise.case()
    bench.node.wait_empty()
    mails = bench.mx.wait_mail(len(UNSIGNED))
    assert not any(b"d=src.test" in m.data for m in mails)
    bench.settle(all_signed=False)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_e08_random_messages_verify(world, promise, kind):
    promise("E08", f"messages of random lines, blanks, folds, octets and newlines: all verify ({kind})")
    key = world.key("src.test", "r", kind)
    bench = Bench(world, promise, config={
        "dkim": [{"domains": ["src.test"], "key_file": str(key.path), "selector": "r"}]})
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    pieces = [b" ", b"\t", b"x", b".", b"..", b"\r\n", b"\r\n ", b"\r\n\t", b"\r\n.", b"\n", b"\r", b"\x0b", b"\xff", b"=20",
              b"y" * 70, b"z" * 998, b"word " * 30, b"\r\n\r\n", b"  \r\n", b"a:b", b":", b"From: evil@x.test"]
    names = [b"Subject", b"To", b"X-A", b"Reply-To", b"Cc", b"Comments", b"Date", b"References", b"List-Id"]
    n = size(60, 3000)
    with bench.client() as session:
        session.ehlo()
        for _ in range(n):
            head = FROM
            for _ in range(rng.randrange(6)):
                value = b"".join(rng.choice((b" ", b"\t", b"word", b"\r\n ", b"\r\n\tx", b"\xe4", b"(", b'"', b"a" * 90))
                                 for _ in range(rng.randrange(12)))
                head += rng.choice(names) + b":" + value + b"\r\n"
            body = b"".join(rng.choice(pieces) for _ in range(rng.randrange(40)))
            session.mail("a@src.test")
            session.rcpt("b@dest.test")
            reply = bench.note(session.data(head + b"\r\n" + body + b"\r\n"))
            assert reply.code == 250, f"seed {seed}: {reply}"
            promise.case()
    messages = bench.settle().values()
    for m in messages:
        [s] = dkimkeys.verify(m.data, world.dns)
        assert s.valid and s.algorithm.startswith(kind), f"seed {seed}: {m.data!r}"
    assert len(messages) == n and mail.received(m.data)
