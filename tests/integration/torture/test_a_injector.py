"""A client that dies: what has no final dot is never delivered, what has one at most once."""

import re
import socket
import struct
import time

import pytest

from rig import mail
from rig.crash import Crash
from rig.ledger import ident
from rig.promise import size
from rig.wait import until

pytestmark = [pytest.mark.crash, pytest.mark.torture]

END = b"\r\n.\r\n"
HOWS = ("close", "reset", "half")


def leave(session, how):
    """End a session as a killed client does (FIN or RST), or only its way to the server."""
    if how == "reset":
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        session.socket.shutdown(socket.SHUT_WR)
    else:
        session.close()


def cuts(message):
    """Where a transmission ends before its dot: at each octet near the ends, and in between."""
    last = len(message)
    return sorted({1, 2, 100, last // 3, last // 2, *range(last - 6, last)})


def test_a12_client_that_dies_before_the_dot_has_sent_nothing_and_after_it_one_copy(world, promise):
    """RFC 5321 4.1.1.4: only the dot makes a message; cut everywhere, in each way to end."""
    promise("A12", "a client killed in DATA has sent nothing, one killed after the dot at most once")
    mx = world.mx("dest.test")
    node = world.node()
    complete = {}
    for body in ("small", "x" * 70 + "\r\n", "y" * 70 + "\r\n"):
        # The last two go to the queue in chunks while they come.
        text = body if body == "small" else body * (300_000 // 72)
        for how in HOWS:
            name = f"{how}-{body[0]}"
            plain = mail.message(ident="dummy", body=text).rstrip(b"\r\n") + END
            for cut in [*cuts(plain), len(plain)]:
                name = f"{how}{body[0]}{cut}"
                whole = mail.message(ident=name, body=text).rstrip(b"\r\n") + END
                at = cut + len(whole) - len(plain)
                session = node.client()
                session.ehlo()
                session.mail("a@src.test")
                session.rcpt("b@dest.test")
                assert session.cmd("DATA").code == 354
                session.send(whole[:at])
                complete[name] = at == len(whole)
                leave(session, how)
                promise.case()
    node.submit("a@src.test", "b@dest.test", mail.message(ident="last"))
    until(lambda: any(ident(m.data) == "last" for m in mx.mails), what="the last message")
    node.wait_empty()
    arrived = [ident(m.data) for m in mx.mails]
    assert len(arrived) == len(set(arrived)), "a copy of one message"
    wrong = [a for a in arrived if a != "last" and not complete[a]]
    assert not wrong, f"delivered without their dot: {wrong}"
    assert all(m.data.endswith(b"\r\n") and not re.search(rb"\r\n\.$", m.data) for m in mx.mails)
    assert node.ctl("verify").returncode == 0


def test_a12_injector_killed_at_any_instant_has_sent_whole_messages_or_none(world, promise):
    """kill -9 of a program with many sessions; the ledger has each number before its dot goes."""
    promise("A12", "a client killed in DATA has sent nothing, one killed after the dot at most once")
    crash = Crash(world, faults=10)
    for _ in range(size(4, 200)):
        crash.wait_load(20)
        time.sleep(crash.random.uniform(0, 0.1))  # the instant is what is random here
        crash.source.kill()
        crash.source_again()
        promise.case()
    crash.settle()
