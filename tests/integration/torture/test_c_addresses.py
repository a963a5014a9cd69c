"""C03, C06, C07: addresses of every form and length: verbatim to the next host, or refused."""

import pathlib
import re

import pytest

from rig import mail
from rig.hostile import DATA, EHLO, MAIL, MESSAGE, SENT, START, Bench

pytestmark = pytest.mark.torture

# Local parts that RFC 5321 section 4.1.2 allows, and that must come out as they went in.
GOOD_LOCAL = [
    "a", "A", "a.b", "a.b.c.d", "a+b", "a-b", "-a", "a_b", "_", "1", "1.2.3", "0", "!#$%&'*+-/=?^_`{|}~",
    "a%b", "a%b%c", "x!y", "x!y!z", "a/b", '"../../etc/passwd"', "|/bin/sh", "/dev/null", "${run{x}}",
    "`id`", "-oQ/tmp", "--", "a=b", "{x}", "root", "postmaster", "MAILER-DAEMON", "nobody",
    '""', '" "', '"a b"', '"a@b"', '"a@b@c"', '"<>"', '"a,b"', '"a;b"', '"a:b"', '"."', '".."', '".a"',
    '"a."', '"a..b"', '"a\\\\b"', '"a\\"b"', '"\\a"', '"(c)"', '"[x]"', '"|/bin/sh -c x"', '"a>b"', '"a<b"',
    '";wget x;#"', '"$(id)"', '" a"', '"a "', '"@"', '"b@dest.test"',
    "a" * 64, "a" * 100, '"' + "a" * 62 + '"', "a." * 31 + "aa",
]
GOOD_DOMAIN = [
    "dest.test", "DEST.TEST", "dEst.Test", "x.dest.test", "a-b.dest.test", "1.dest.test", "1a.dest.test",
    "xn--bcher-kva.dest.test", "a_b.dest.test", "a" * 63 + ".dest.test", "a--b.dest.test",
    ".".join(["a" * 61] * 3) + ".dest.test", "a." * 100 + "dest.test",
]
LITERALS = ["[192.0.2.1]", "[198.51.100.7]", "[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]",
            "[IPv6:2001:db8:0:0:0:0:0:1]"]
# Refused by their syntax, whoever asks.
BAD = [
    "", " ", "b", "@", "../../etc/passwd@dest.test", "@dest.test", "b@", "b@@dest.test", "b@dest.test@dest.test", "b@.dest.test",
    "b@dest..test", "b@.", "b@..", "b@-dest.test", "b@dest-.test", "b@dest.123", "b@1.2.3.4", "b@127.0.0.1",
    "b@1", "b@" + "a" * 64 + ".test", "b@" + "a." * 130 + "test", "a" * 200 + "@dest.test", ".b@dest.test",
    "b.@dest.test", "b..c@dest.test", "b c@dest.test", "b@dest test", "b@dest.test ", " b@dest.test",
    "b@ dest.test", "b @dest.test", "b\\@dest.test", "b\\ c@dest.test", "b,c@dest.test", "b;c@dest.test",
    "b:c@dest.test", "b(c)@dest.test", "(c)b@dest.test", "b@(c)dest.test", "b@dest.test(c)", "b[c@dest.test",
    "b]@dest.test", "b<c@dest.test", '"b@dest.test', 'b"@dest.test', 'b"c"@dest.test', '"b"c@dest.test',
    '"b".c@dest.test', 'a."b"@dest.test', '"b""c"@dest.test', '"b"@', '"b', '"', '"\\"@dest.test',
    "@a.test:b@dest.test", "@a.test,@b.test:b@dest.test", "@[127.0.0.1]:b@dest.test", "@:b@dest.test",
    "b@[", "b@[]", "b@]", "b@[dest.test]", "b@[1.2.3]", "b@[1.2.3.4.5]", "b@[256.1.1.1]", "b@[01.2.3.4]",
    "b@[1.2.3.4", "b@1.2.3.4]", "b@[ 1.2.3.4]", "b@[1.2.3.4 ]", "b@[1.2.3.4]x", "b@[2001:db8::1]",
    "b@[IPv6:]", "b@[IPv6:2001:db8::g]", "b@[IPv6:1:2:3:4:5:6:7:8:9]", "b@[IPv6:fe80::1%eth0]", "b@[0x7f.1]",
    "b@[0177.0.0.1]", "b@[2130706433]", "b@[1.2.3.4]dest.test", "b@[x:y]", "b@dest.test>", "b@dest.test>x",
    "b@*.test", "b@dest.test/x", "b@dest,test", "b@dest|test", "b@dest$.test", "b@dest'.test", "b@dest`.test",
    "b@dest:25", "b@#123", "dest.test!b", "b%dest.test", '"b@dest.test"', "<b@dest.test", "<b@dest.test>>",
]
# Of loopback and private networks, and our own: no mail is taken for these.
CLOSED_LITERALS = ["[127.0.0.1]", "[127.1.2.3]", "[0.0.0.0]", "[10.1.2.3]", "[192.168.1.1]", "[172.16.0.1]",
                   "[169.254.169.254]", "[224.0.0.1]", "[255.255.255.255]", "[IPv6:::1]", "[IPv6:::]",
                   "[IPv6:fe80::1]", "[IPv6:fc00::1]", "[IPv6:ff02::1]", "[IPv6:::ffff:127.0.0.1]",
                   "[IPv6:::ffff:10.0.0.1]"]
UTF8 = ["\u00fc@dest.test", "b@b\u00fccher.test", "\u4e2d\u6587@\u4f8b\u5b50.\u6d4b\u8bd5", '"\u00fc \u00e4"@dest.test']


@pytest.fixture
def bench(world, promise):
    bench = Bench(world, promise)
    for name in ("*.dest.test", "xn--bcher-kva.test"):
        world.dns.mx(name, bench.mx.hostname)
    return bench


def batches(rows, n=15):
    return [rows[i:i + n] for i in range(0, len(rows), n)]


@pytest.mark.parametrize("how", ["recipients", "senders"])
def test_c06_every_good_address_goes_out_as_it_came_in(bench, promise, how):
    promise("C06", f"{how}: quoted, escaped, strange but right: verbatim to the next host")
    good = [f"{local}@dest.test" for local in GOOD_LOCAL] + [f"b@{domain}" for domain in GOOD_DOMAIN]
    assert all(len(a) <= 254 for a in good)
    if how == "recipients":
        n = len(GOOD_LOCAL)  # at one domain; the domains by themselves, each is a transaction of its own
        for batch in [*batches(good[:n], 40), *batches(good[n:], 1)]:
            bench.vector("good recipients", EHLO, MAIL,
                         *[(f"RCPT TO:<{a}>\r\n".encode(), "250") for a in batch], DATA, SENT)
        bench.node.wait_empty()
        came = [rcpt for m in bench.mx.mails for rcpt in m.rcpts]

        def canonical(address):  # the domain's case may change, nothing else
            local, domain = address.rsplit("@", 1)
            return f"{local}@{domain.lower()}"

        assert sorted(map(canonical, came)) == sorted(map(canonical, good))
        promise.case(len(good))
        bench.settle(rcpts=None)
        return
    with bench.client() as session:
        session.ehlo()
        for a in good + [f"a@{literal}" for literal in LITERALS + CLOSED_LITERALS]:
            assert session.mail(a).code == 250, a
            session.rcpt("b@dest.test")
            bench.note(session.data(MESSAGE)).queued_id
            promise.case()
    bench.settle(sender=None)
    assert sorted(m.sender for m in bench.mx.mails) == sorted(
        good + [f"a@{literal}" for literal in LITERALS + CLOSED_LITERALS])


def test_c06_every_bad_address_is_refused_and_leaves_nothing(bench, promise):
    promise("C06", "addresses that are none are 5xx, at MAIL as at RCPT")
    for batch in batches(BAD):
        bench.vector("bad recipients", EHLO, MAIL,
                     *[(f"RCPT TO:<{a}>\r\n".encode(), "501|550|553") for a in batch],
                     (b"DATA\r\n", "503|554"))
    for batch in batches([a for a in BAD if a]):
        bench.vector("bad senders", EHLO,
                     *[(f"MAIL FROM:<{a}>\r\n".encode(), "501|550|553") for a in batch],
                     (b"RCPT TO:<b@dest.test>\r\n", "503"))
    for batch in batches([f"b@{literal}" for literal in CLOSED_LITERALS]):
        bench.vector("literals of nobody", EHLO, MAIL,
                     *[(f"RCPT TO:<{a}>\r\n".encode(), "550 5.1.2") for a in batch])
    own = bench.node.address
    bench.vector("our own literal", EHLO, MAIL, (f"RCPT TO:<b@[{own}]>\r\n".encode(), "550 5.1.2"))
    for form in ("b@dest.test", "<b@dest.test", "b@dest.test>", "", "<>", "<<b@dest.test>>", "<b@dest.test>x",
                 "\"Name\" <b@dest.test>", "<b@dest.test> <c@dest.test>", "<b@dest.test>,<c@dest.test>"):
        bench.vector(f"RCPT TO:{form}", EHLO, MAIL, (f"RCPT TO:{form}\r\n".encode(), "501|555"))
        if form != "<>":
            bench.vector(f"MAIL FROM:{form}", EHLO, (f"MAIL FROM:{form}\r\n".encode(), "501|555"))
    for line in ("RCPT <b@dest.test>", "RCPT TO <b@dest.test>", "RCPT FROM:<b@dest.test>", "RCPT", "RCPT TO",
                 "RCPT TO:", "RCPT T0:<b@dest.test>"):
        bench.vector(line, EHLO, MAIL, (line.encode() + b"\r\n", "501"))
    promise.case(2 * len(BAD) + len(CLOSED_LITERALS))
    bench.settle()


def test_c06_utf8_needs_smtputf8_and_goes_out_whole(bench, promise):
    promise("C06", "UTF-8 in addresses: refused without SMTPUTF8, whole with it")
    for a in UTF8:
        bench.vector(a, EHLO, (f"MAIL FROM:<{a}>\r\n".encode(), "553 5.6.7"), MAIL,
                     (f"RCPT TO:<{a}>\r\n".encode(), "553 5.6.7"), (b"DATA\r\n", "503|554"))
    utf8 = (b"MAIL FROM:<a@src.test> SMTPUTF8\r\n", "250")
    for a in ("\u00fc@dest.test", '"\u00fc \u00e4"@dest.test', "b@b\u00fccher.test"):
        bench.vector(a, EHLO, utf8, (f"RCPT TO:<{a}>\r\n".encode(), "250"), DATA, SENT)
    for bad in ("\u00fc..\u00fc@dest.test", "\u00fc \u00fc@dest.test", "b@\u00fc..test", "\x85@dest.test",
                "\x9b31m@dest.test"):
        bench.vector(bad, EHLO, utf8, (f"RCPT TO:<{bad}>\r\n".encode(), "501"))
    messages = bench.settle(rcpts=None).values()
    assert sorted(m.rcpts[0] for m in messages) == ['"\u00fc \u00e4"@dest.test', "b@xn--bcher-kva.test",
                                                   "\u00fc@dest.test"]


# What other mailers have executed, expanded or opened (CVE-2019-10149, CVE-2020-7247, CVE-2020-28020 ...).
SHELL = ["${run{/bin/touch /tmp/relayd-was-here}}", "$(touch${IFS}/tmp/relayd-was-here)",
         "`touch${IFS}/tmp/relayd-was-here`", "|touch/tmp/relayd-was-here", "/tmp/relayd-was-here",
         "../../../tmp/relayd-was-here", "-C/etc/passwd", "-oQ/tmp", "%s%s%s%n", "%{x}", "{{7*7}}",
         '";touch /tmp/relayd-was-here;#"', '"|touch /tmp/relayd-was-here"', '"> /tmp/relayd-was-here"',
         ":include:/etc/passwd"]


def test_c07_nothing_in_an_address_is_executed_expanded_or_opened(bench, promise):
    promise("C07", "shell, format, template and file forms of addresses are letters, or refused")
    here = pathlib.Path("/tmp/relayd-was-here")
    assert not here.exists()
    taken = 0
    for local in SHELL:
        with bench.client() as session:
            session.ehlo()
            if session.mail(f"{local}@src.test").code != 250:
                session.mail("a@src.test")
            reply = session.rcpt(f"{local}@dest.test")
            if reply.code == 250:
                bench.note(session.data(MESSAGE))
                taken += 1
            else:
                assert reply.code == 501
            bench.in_step(session, local)
        promise.case()
    assert taken >= 10
    messages = bench.settle(rcpts=[f"{local}@dest.test" for local in SHELL], sender=None).values()
    assert all(m.rcpts[0] in [f"{local}@dest.test" for local in SHELL] for m in messages)
    assert not here.exists()


def test_c03_lengths_that_rfc_5321_promises_are_taken(bench, promise):
    promise("C03", "local part 64, domain 253, path 256, 1,000 recipients, lines of 998; more is told so")
    labels = ".".join(["d" * 63, "d" * 63, "d" * 63, "d" * (253 - 3 * 64 - len(".test")) + ".test"])
    assert len(labels) == 253
    local = "l" * 64
    domain = ".".join(["d" * 61] * 3 + ["test"])
    path = f"{'x' * (254 - 1 - len(domain))}@{domain}"
    for address, code in ((f"{local}@dest.test", "250"), (f"b@{labels}"[:256], "501"), (path, "250"),
                          ("x" + path, "501"), ("b@" + "d" * 63 + ".test", "250"),
                          ("b@" + "d" * 64 + ".test", "501"), (f"{'l' * 300}@dest.test", "501")):
        bench.vector(f"{len(address)} octets", EHLO, (f"MAIL FROM:<{address}>\r\n".encode(), code))
        bench.vector(f"{len(address)} octets", EHLO, MAIL, (f"RCPT TO:<{address}>\r\n".encode(), code))
    # 100, 1,000 and one more than the limit: the rest is told to come again, the others have their mail.
    for n in (100, 1000):
        bench.vector(f"{n} recipients", EHLO, MAIL,
                     *[(f"RCPT TO:<r{i}@dest.test>\r\n".encode(), "250") for i in range(n)], DATA, SENT)
    bench.vector("1,001 recipients", EHLO, MAIL,
                 (b"".join(f"RCPT TO:<r{i}@dest.test>\r\n".encode() for i in range(1010)),
                  *["250"] * 1000, *["452 4.5.3"] * 10), (b"RCPT TO:<r3@dest.test>\r\n", "250"), DATA, SENT)
    bench.node.wait_empty(60)
    rcpts = [r for m in bench.mx.mails for r in m.rcpts]
    assert len(rcpts) == 100 + 1000 + 1000 and len(set(rcpts)) == 1000
    ids = {}
    for m in bench.mx.mails:  # a message of many recipients goes in transactions of 100
        assert m.data.endswith(MESSAGE)
        ids.setdefault(re.search(rb"\s+id (\S+?);", m.data).group(1), []).extend(m.rcpts)
    assert sorted(map(len, ids.values())) == [100, 1000, 1000]
    assert sorted(i.decode() for i in ids) == sorted(bench.promised)


def test_c03_recipients_of_a_message_share_its_transaction_though_connections_wait(bench, promise):
    promise("C03", "40 recipients at one site: the message goes once, not once over each idle connection")
    for n in range(5):
        bench.world.dns.mx(f"d{n}.test", bench.mx.hostname)
        rcpts = [f"b{i}@d{n}.test" for i in range(40)]
        with bench.client() as session:
            session.ehlo()
            bench.promised.append(session.submit("a@src.test", rcpts, MESSAGE))
        bench.node.wait_empty()
        promise.case()
    assert [len(m.rcpts) for m in bench.mx.mails] == [40] * 5
    bench.settle(rcpts=None)


LINES = (0, 1, 76, 77, 997, 998, 999, 1000, 1001, 1996, 1997, 2048, 4095, 4096, 4097, 16384, 65535, 65536,
         200000)


def test_c03_lines_of_every_length_arrive_and_none_is_too_long(bench, promise):
    promise("C03", "lines of 0 to 64 KB: 998 octets go through, longer ones are folded, nothing is lost")
    for n in LINES:
        body = b"x" * n + b"\r\n"
        bench.vector(f"{n}", START, DATA, (mail.message(body=body) + b".\r\n", "250 2.0.0 queued"))
        # Dots where a line begins, ends, and is broken: they are text.
        dots = b"." * (n + 2) + b"\r\n..\r\n"
        bench.vector(f"{n} dots", START, DATA, (mail.message(body=dots) + b".\r\n", "250 2.0.0 queued"))
    for message in bench.settle().values():
        assert max(map(len, message.raw.split(b"\r\n"))) <= 1000
        body = message.data.split(b"\r\n\r\n", 1)[1]
        if b"." in body:
            assert body.endswith(b"\r\n.\r\n") and len(body.replace(b"\r\n ", b"")) in {n + 6 for n in LINES}
        else:
            assert len(body.replace(b"\r\n ", b"")) - 2 in LINES
