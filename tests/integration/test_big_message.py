"""A 50 MiB message goes through both nodes unchanged, signed, and without filling the memory."""

import random

from rig import dkimkeys, mail
from rig.chain import Chain
from rig.node import sanitized
from rig.proc import rss_kib

MIB = 1 << 20


def body(size):
    random.seed(1)
    line = bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz0123456789+/", k=76)) + b"\r\n"
    return line * (size // len(line))


def test_fifty_mebibytes_through_two_nodes(world):
    mx = world.mx("abc.test")
    chain = Chain(world, [{"default": True, "route": "us"}])
    message = mail.message("boss@mydomain.test", "x@abc.test", body=body(50 * MIB - 20000))
    chain.cn.submit("boss@mydomain.test", "x@abc.test", message)
    got = mx.wait_mail(timeout=120)
    assert got.data.endswith(message)
    dkimkeys.assert_signed(got.data, world.dns, ("mydomain.test", "cn"), ("mydomain.test", "us"))
    chain.cn.wait_empty()
    chain.us.wait_empty()


def test_ten_big_messages_at_once_are_streamed_and_not_kept_in_memory(world):
    mx = world.mx("dest.test")
    node = world.node()
    before = rss_kib(node.pid)
    sessions = [node.client() for _ in range(10)]
    message = mail.message(body=body(20 * MIB))
    half = len(message) // 2
    for session in sessions:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        assert session.cmd("DATA").code == 354
        session.send(message[:half])
    grown = rss_kib(node.pid) - before
    for session in sessions:
        session.send(message[half:] + b".\r\n")
        session.reply().queued_id
    assert sanitized() or grown < 64 * 1024, f"{grown} KiB for ten half messages of 10 MiB"
    assert len(mx.wait_mail(10, timeout=120)) == 10
    node.wait_empty()
    assert all(m.data.endswith(message) for m in mx.mails)


def test_too_large_is_refused_at_mail_and_after_the_dot(world):
    node = world.node(config={"limits": {"message_size": "1MiB"}})
    with node.client() as session:
        assert session.ehlo()["SIZE"] == str(MIB)
        reply = session.mail("a@src.test", f"SIZE={2 * MIB}")
        assert reply.code == 552 and reply.text.startswith("5.3.4")
        session.mail("a@src.test", "SIZE=1000")
        session.rcpt("b@dest.test")
        reply = session.data(mail.message(body=body(2 * MIB)))
        assert reply.code == 552
        assert session.cmd("NOOP").code == 250, "the session must stay in step"
    assert not node.queue()


def test_incomplete_message_is_never_delivered_and_leaves_nothing(world):
    mx = world.mx("dest.test")
    node = world.node()
    session = node.client()
    session.ehlo()
    session.mail("a@src.test")
    session.rcpt("b@dest.test")
    session.cmd("DATA")
    session.send(mail.message(body=body(2 * MIB)))
    session.close()
    node.submit("a@src.test", "c@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["c@dest.test"]
    node.wait_empty()
    assert len(mx.mails) == 1
    assert node.ctl("verify").returncode == 0


def test_bdat_chunks_make_one_message(world):
    mx = world.mx("dest.test")
    node = world.node()
    message = mail.message(body=body(600000))
    with node.client() as session:
        assert "CHUNKING" in session.ehlo() and "BINARYMIME" not in session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        middle = 123457
        session.send(f"BDAT {middle}\r\n".encode() + message[:middle])
        assert session.reply().code == 250
        session.send(f"BDAT {len(message) - middle} LAST\r\n".encode() + message[middle:])
        session.reply().queued_id
    assert mx.wait_mail().data.endswith(message)
