"""E01, E02, E03, E04: only CRLF.CRLF ends a message, on the whole way; nothing bare is ever sent on."""

import itertools
import re

import pytest

from rig import mail
from rig.chain import Chain
from rig.hostile import DATA, HIDDEN, START, Bench, bare
from rig.promise import size

pytestmark = pytest.mark.torture

# Every false end of data that somebody has believed (SEC Consult's and Hanno Boeck's scanners,
# CVE-2023-51764 to 51766 and 52354), and their kin: what stands before the dot, and behind it.
PIECES = [b"\n", b"\r", b"\r\n", b"\r\r", b"\n\n", b"\n\r", b"\r\r\n", b"\r\n\n", b"\r\n\r"]
ODD = [b"\x0b", b"\x0c", b"\x1a", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b" ", b"\t", b"\x1c",
       b"\x1d", b"\x1e", b"\x08", b"\x7f", b"\xe5\x98\x8a", b"\xe5\x98\x8d", b"\x8d", b"\x8a"]
NUL = b"\0"

FALSE_ENDS = [before + b"." + behind for before, behind in itertools.product(PIECES, PIECES)
              if not (before.endswith(b"\r\n") and behind.startswith(b"\r\n"))]
FALSE_ENDS += [b"\r\n." + odd + b"\r\n" for odd in ODD] + [b"\r\n" + odd + b".\r\n" for odd in ODD]
FALSE_ENDS += [odd + b"." + odd for odd in ODD] + [b"\n" + odd + b".\n" for odd in ODD[:4]]
FALSE_ENDS += [b"\r\n..\r\n", b"\r\n...\r\n", b"\r\n..\n", b"\n..\n", b"\n..\r\n", b"\r..\r", b"\r\n.\\r\\n",
               b"\r\n. .\r\n", b"\r\n.QUIT\r\n", b"\r\n.\r.\r\n", b"\r\n.\n.\r\n", b"\n.\n.\n", b"\r\n.=0D=0A",
               b"\r\n=2E\r\n", b"\r\n&#46;\r\n", b"\r\n\xef\xbc\x8e\r\n", b"\r\n\xe3\x80\x82\r\n", b"\r\n.\xff\xf4\r\n",
               b"\r" * 5 + b"." + b"\r" * 5, b"\n" * 5 + b"." + b"\n" * 5]
NUL_ENDS = [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\0\n", b"\r\0\n.\r\n", b"\0.\0", b"\r\n.\r\n"[:4] + b"\0"]
WITH_NEWLINE = [e for e in FALSE_ENDS if bare(e)]


def hidden(serial):
    """A transaction that must stay text, and can be told from all others."""
    return HIDDEN[:-5].replace(b"victim", b"victim%d" % serial)


def smuggle(end, serial=0):
    """A message with a false end of data and a transaction behind it."""
    return mail.message(body=b"first") + end + hidden(serial)


def check(messages, ends):
    """All of them came, each with its hidden part as text behind its first."""
    assert len(messages) == len(ends)
    for m in messages:
        assert m.sender == "a@src.test" and m.rcpts == ["b@dest.test"]
        assert b"first" in m.data and b"evil" in m.data and not bare(m.raw)
    serials = sorted(int(re.search(rb"victim(\d+)", m.data).group(1)) for m in messages)
    assert serials == list(range(len(ends)))


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "in TLS"])
def test_e01_false_end_of_data_is_text(world, promise, tls):
    promise("E01", f"{len(FALSE_ENDS)} false ends of data: one reply, one message, nothing bare sent on")
    bench = Bench(world, promise, tls=tls)
    ends = FALSE_ENDS[::size(3, 1)] if tls else FALSE_ENDS
    for i, end in enumerate(ends):
        with bench.client(tls=tls) as session:
            bench.play(session, repr(end), [*START, DATA])
            session.send(smuggle(end, i))
            session.send(b"\r\n.\r\n")
            assert bench.note(session.reply()).queued_id
            bench.in_step(session, repr(end))
        promise.case()
    check(list(bench.settle().values()), ends)
    for end in NUL_ENDS:
        bench.vector(repr(end), START, DATA, (smuggle(end) + b"\r\n.\r\n", "550 5.6.0"), tls=tls)
    bench.settle()


def test_e01_false_end_in_bdat_is_text(world, promise):
    promise("E01", "the same in chunks: octets are counted, not looked at")
    bench = Bench(world, promise)
    ends = [*FALSE_ENDS[::size(3, 1)], b"\r\n.\r\n"]
    for i, end in enumerate(ends):
        text = smuggle(end, i) + b"\r\n"
        chunks = [(b"BDAT %d\r\n" % i + text[:i], "250 2.0.0")] if i % 2 else []
        rest = text[i:] if i % 2 else text
        bench.vector(repr(end), START, *chunks, (b"BDAT %d LAST\r\n" % len(rest) + rest, "250 2.0.0 queued"))
    check(list(bench.settle().values()), ends)


def test_e01_listener_that_rejects_bare_newlines_refuses_each(world, promise):
    promise("E01", "bare_newline reject: 550 5.5.2 at the real end, in step, nothing delivered")
    address = world.take()
    bench = Bench(world, promise, address=address, config={
        "listeners": [{"address": f"{address}:2525", "bare_newline": "reject"}]})
    for end in WITH_NEWLINE[::size(2, 1)]:
        bench.vector(repr(end), START, DATA, (smuggle(end) + b"\r\n.\r\n", "550 5.5.2"))
    bench.vector("a clean one", START, DATA, (mail.message() + b".\r\n", "250 2.0.0 queued"))
    bench.settle()


def test_e01_false_end_in_the_header_is_text(world, promise):
    promise("E01", "false ends among the header lines, and as the very first octets")
    bench = Bench(world, promise)
    ends = FALSE_ENDS[::size(5, 1)]
    for end in ends:
        bench.vector(repr(end), START, DATA, (b"From: a@src.test\r\nSubject: first" + end + HIDDEN[:-5] + b"\r\n.\r\n",
                                              "250 2.0.0 queued"))
        if end.lstrip(b"\r\n").startswith(b".\r\n"):
            continue  # at the very start of a message that is the true end
        bench.vector(f"first {end!r}", START, DATA, (end.lstrip(b"\r\n") + HIDDEN[:-5] + b"\r\n.\r\n",
                                                     "250 2.0.0 queued"))
    bench.settle()


def test_e02_false_end_is_not_believed_on_the_whole_way(world, promise):
    promise("E02", "the same through home node, TLS, overseas node, to the destination")
    mx = world.mx("dest.test")
    chain = Chain(world, [{"default": True, "route": "us"}],
                  cn={"limits": {"sessions_per_client": 2000}}, us={"limits": {"sessions_per_client": 2000}})
    ends = FALSE_ENDS[::size(2, 1)]
    promised = []
    with chain.cn.client() as session:
        session.ehlo()
        for i, end in enumerate(ends):
            session.mail("a@src.test")
            session.rcpt("b@dest.test")
            session.cmd("DATA")
            session.send(smuggle(end, i) + b"\r\n.\r\n")
            promised.append(session.reply().queued_id)
            assert session.cmd("NOOP").code == 250
            promise.case()
    mx.wait_mail(len(ends), 60)
    chain.cn.wait_empty()
    chain.us.wait_empty()
    check(mx.mails, ends)
    came = sorted(re.findall(rb"id (cn\.[^\s;]+)", b"".join(m.data for m in mx.mails)))
    assert [i.decode() for i in came] == sorted(promised)
    assert not chain.us.log.all(sender="evil@x.test")


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "in TLS"])
def test_e03_message_in_every_split_is_the_same(world, promise, tls):
    promise("E03", "CRLF.CRLF and dots cut at every place, octet by octet, in TLS records: the same message")
    bench = Bench(world, promise, tls=tls)
    message = mail.message(body=b"a\r\n.\r\nb\r\n..\r\n.c\r\n", ident="split")
    stuffed = re.sub(rb"(\r\n)\.", rb"\1..", message) + b".\r\n"
    first = len(stuffed) - 30
    cuts = [(i,) for i in range(first, len(stuffed) + 1)]
    cuts += list(itertools.combinations(range(len(stuffed) - 6, len(stuffed)), 2))
    cuts += [tuple(range(1, len(stuffed)))]
    with bench.client(tls=tls) as session:
        session.ehlo()
        for places in cuts:
            session.mail("a@src.test")
            session.rcpt("b@dest.test")
            session.cmd("DATA")
            for start, end in zip((0, *places), (*places, len(stuffed))):
                session.send(stuffed[start:end]) if end > start else None
            assert bench.note(session.reply()).queued_id, places
            assert session.cmd("NOOP").code == 250, places
            promise.case()
        bench.in_step(session, "splits")
    assert all(m.data.endswith(message) for m in bench.settle().values())


def test_e03_dots_at_the_borders_of_every_buffer_are_text(world, promise):
    promise("E03", "CRLF.CRLF and dot lines +-6 octets around 998, 4 KB, 16 KB, 64 KB: the same message")
    bench = Bench(world, promise)
    sent = {}
    borders = (998, 1000, 2048, 4096, 8192, 16384, 65536, 131072)
    with bench.client() as session:
        session.ehlo()
        for border in borders:
            for shift in range(-6, 7):
                head = mail.message(body=b"")
                pad = border + shift - len(head)
                lines = b"x" * (pad % 100) + b"\r\n" + (b"y" * 98 + b"\r\n") * (pad // 100)
                message = head + lines[:-2] + b"\r\n.\r\n..z\r\n.\r\n"
                session.mail("a@src.test")
                session.rcpt("b@dest.test")
                sent[bench.note(session.data(message)).queued_id] = message
                promise.case()
    messages = bench.settle()
    for ident, message in sent.items():
        assert messages[ident].data.endswith(message), ident


def test_e04_what_goes_out_is_stuffed_and_clean_whatever_came_in(world, promise):
    """Fields are folded, lines broken, newlines mended, texts quoted in reports: all before the wire."""
    promise("E04", "reports, folded headers, broken lines, mended newlines: re-stuffed, CRLF only")
    bench = Bench(world, promise)
    home = world.mx("src.test")
    bench.mx.answer("rcpt", "550 5.1.1 no\x08 such\x1b[31m user \x00\r\n.\r\nMAIL FROM:<evil@x.test>", match="gone")
    odd = [b".\n.\r.\r\n..\r\n", b"." * 3000 + b"\r\n", b"x" * 997 + b"." + b".\r\n" + b"y" * 998 + b"..\r\n",
           b"\n" * 50 + b"." + b"\r" * 50, b"a\n.\nb\n..\nc\n...\n\r\n", b"\r\n" * 40 + b"..\r\n" + b"\n.\n" * 40 + b"\r\n"]
    folded = b"From: a@src.test\r\nSubject: " + b"." * 500 + b" " + b"." * 600 + b" ." + b"\r\n .\r\n\r\nx\r\n"
    for body in [*(mail.message(body=b) for b in odd), folded]:
        bench.vector(repr(body[:20]), START, DATA, (body + b"\r\n.\r\n", "250 2.0.0 queued"))
    sent = list(bench.settle().values())
    assert len(sent) == len(odd) + 1
    with bench.client() as session:
        session.ehlo()
        for body in [*(mail.message(body=b) for b in odd), folded]:
            session.mail("a@src.test", "RET=FULL")
            session.rcpt("gone@dest.test")
            session.cmd("DATA")
            session.send(body + b"\r\n.\r\n")
            session.reply().queued_id
            promise.case()
    for m in home.wait_mail(len(odd) + 1):
        assert m.rcpts == ["a@src.test"] and m.sender == ""
        assert not bare(m.raw), bare(m.raw)
        assert max(map(len, m.raw.split(b"\r\n"))) <= 1000
        assert mail.report(m.data).recipients[0]["Action"] == "failed"
    bench.node.wait_empty()
    assert not any(m.sender == "evil@x.test" for m in [*home.mails, *bench.mx.mails])
    bench.assert_log()


def test_e03_starttls_and_dots_survive_small_tls_records(world, promise):
    promise("E03", "one octet a TLS record, commands and message alike")
    bench = Bench(world, promise, tls=True)
    message = mail.message(body=b"tls\r\n.\r\n")
    with bench.client(tls=True) as session:
        lines = [b"EHLO x\r\n", b"MAIL FROM:<a@src.test>\r\n", b"RCPT TO:<b@dest.test>\r\n", b"DATA\r\n",
                 message.replace(b"\r\n.", b"\r\n..") + b".\r\n"]
        for line in lines:
            for octet in line:
                session.send(bytes([octet]))
            reply = bench.note(session.reply())
            assert reply.code in (250, 354)
            promise.case()
    [m] = bench.settle().values()
    assert m.data.endswith(message)
