"""Only CRLF.CRLF ends a message, also through both nodes; nothing bare is ever sent on."""

import re

import pytest

from rig import mail
from rig.chain import Chain

ENDS = [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r.\n",
        b"\r\n.\r\r\n", b"\r\n.\n\r\n", b"\r\n.\x0b\r\n", b"\r\n. \r\n", b"\r\n\x85.\r\n"]

HIDDEN = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@abc.test>\r\nDATA\r\nSubject: evil\r\n\r\nx"


@pytest.mark.parametrize("end", ENDS, ids=[repr(e)[2:-1] for e in ENDS])
def test_false_end_of_data_is_not_believed_on_the_whole_way(world, end):
    mx = world.mx("abc.test")
    chain = Chain(world, [{"default": True, "route": "us"}])
    with chain.cn.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@abc.test")
        session.cmd("DATA")
        session.send(mail.message(body=b"first") + end + HIDDEN + b"\r\n.\r\n")
        assert session.reply().queued_id
        session.send(b"NOOP\r\n")
        assert session.reply().code == 250
    got = mx.wait_mail()
    chain.cn.wait_empty()
    chain.us.wait_empty()
    assert [m.rcpts for m in mx.mails] == [["b@abc.test"]]
    assert b"evil" in got.data, "the hidden part belongs to the one message"
    assert not re.search(rb"[^\r]\n|\r[^\n]|\r\Z", got.raw), "a bare CR or LF was sent on"


def test_nul_is_refused_and_the_session_stays_in_step(world):
    with world.node().client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        reply = session.data(mail.message(body=b"a\0b\r\n"))
        assert 500 <= reply.code < 600
        assert session.cmd("NOOP").code == 250


@pytest.mark.parametrize("command", [b"EHLO a\nMAIL FROM:<a@src.test>\r\n", b"NOOP\rNOOP\r\n"])
def test_bare_newline_in_a_command_closes_the_session(world, command):
    with world.node().client() as session:
        session.send(command)
        reply = session.reply()
        assert reply.code == 500 and reply.text.startswith("5.5.2")
        assert session.closed()


def test_message_in_every_split_is_the_same(world):
    """CRLF.CRLF cut at every place."""
    mx = world.mx("dest.test")
    node = world.node()
    message = mail.message(body=b"a\r\n.\r\nb\r\n", ident="split")
    stuffed = message.replace(b"\r\n.\r\n", b"\r\n..\r\n") + b".\r\n"
    tail = len(stuffed) - 16
    with node.client() as session:
        session.ehlo()
        for cut in range(tail, len(stuffed)):
            session.mail("a@src.test")
            session.rcpt("b@dest.test")
            session.cmd("DATA")
            session.send(stuffed[:cut])
            session.send(stuffed[cut:])
            session.reply().queued_id
    got = mx.wait_mail(len(stuffed) - tail)
    assert all(m.data.endswith(message) for m in got)


def test_headers_that_loop_are_refused(world):
    node = world.node()
    received = ["Received: from a by b; Fri, 20 Nov 2026 10:00:00 +0000"] * 101
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        reply = session.data(mail.message(headers=received))
        assert reply.code == 554 and reply.text.startswith("5.4.6")


def test_message_that_passed_here_twice_is_refused(world):
    mx = world.mx("dest.test")
    node = world.node()
    data = mail.message()
    for _ in range(2):
        node.submit("a@src.test", "b@dest.test", data)
        node.wait_empty()
        data = mx.mails[-1].data
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        reply = session.data(data)
        assert reply.code == 554 and reply.text.startswith("5.4.6"), str(reply)
