"""Hosts that take their time, never end, or stop reading: a deadline for each, and little memory."""

import itertools
import pathlib
import signal

import pytest

from rig import mail
from rig.promise import size
from rig.remote import CLOSE, RESET, SILENCE, Raw, octets
from rig.vectors import DEADLINE_S, DEFERRED, DELIVERED, FAILED, SHORT, Row, Stage
from rig.wait import until

pytestmark = pytest.mark.torture

CODES = {"greeting": 220, "ehlo": 250, "mail": 250, "rcpt": 250, "data": 354, "dot": 250,
         "starttls": 220}
# No attempt lasts longer than a few deadlines.
ATTEMPT_MAX_S = 5 * DEADLINE_S
# What a peer can send before it notices: our reading, and both sides' socket buffers.
SENT_MAX_BYTES = 12 << 20
KEPT_MAX_KIB = 1536


def ended_in_time(stage, row):
    assert float(row.line["delay"]) < ATTEMPT_MAX_S, f"delay {row.line['delay']}"
    assert all(s.n_sent < SENT_MAX_BYTES for s in row.mx.sessions), "the peer was listened to"


def stages(world):
    for stage, code in CODES.items():
        yield stage, code, {"certificate": world.ca.issue(f"mx.{stage}.test")} \
            if stage == "starttls" else {}


def test_b02_dripped_replies_end_at_the_deadline_of_the_whole(world, promise):
    promise("B02", "a reply that drips is given up at the deadline of the whole, at every stage")
    rows = []
    for stage, code, options in stages(world):
        # Opportunistic TLS that never comes up: the mail goes in clear.
        outcome = DELIVERED if stage == "starttls" else DEFERRED
        for name, pieces in {
                "octets": octets(b"%d dripping and dripping on and on\r\n" % code),
                "lines": [b"%d-a line\r\n" % code] * 200,
                "half-lines": [b"%d-a" % code, b" line\r\n"] * 100,
                "blank": [b"%d-\r\n" % code] * 200}.items():
            rows.append(Row(f"{stage}-{name}", outcome, options=options, also=ended_in_time).at(
                stage, Raw(pieces, every=0.3)))
    Stage(world, promise).run(rows)


def test_b03_endless_replies_take_neither_time_nor_memory(world, promise):
    promise("B03", "an endless reply: bounded lines, octets, time and memory, at every stage")
    rows = []
    for stage, code, options in stages(world):
        outcome = DELIVERED if stage == "starttls" else DEFERRED
        for name, piece, every in (
                ("lines", b"%d-more\r\n" % code * 4000, 0), ("line", b"x" * 65536, 0),
                ("long-lines", (b"%d-" % code + b"y" * 1900 + b"\r\n") * 30, 0),
                ("empty", b"\r\n" * 30000, 0), ("nul", b"\0" * 65536, 0),
                ("replies", b"%d ok\r\n" % code * 8000, 0),
                ("trickle", b"%d-\r\n" % code * 3, 0.02)):
            if stage == "starttls" and name == "replies":
                continue  # the same as bytes behind the reply: test_b_tls.py
            first = (stage, name) == ("dot", "replies")  # the first of them is the reply
            rows.append(Row(f"{stage}-{name}", DELIVERED if first else outcome, options=options,
                            mails=0 if first else None, also=ended_in_time).at(
                stage, Raw(lambda p=piece: itertools.repeat(p), every=every)))
    # Behind the 250 to the dot nothing matters any more.
    rows += [Row(f"quit-{name}", DELIVERED, also=ended_in_time).at(
        "quit", Raw(lambda p=piece: itertools.repeat(p)))
        for name, piece in (("lines", b"221-bye\r\n" * 4000), ("line", b"x" * 65536))]
    stage = Stage(world, promise,
                  {"shaping": {"default": {"max_messages_per_connection": 1}}})
    stage.run(rows)
    stage.check_memory(KEPT_MAX_KIB)


LARGE = 5 << 20  # more than the kernel takes for a peer that does not read


def content(n, reply=b"", then=SILENCE, every=0.0):
    """DATA: 354, read n octets (slowly: 20 each), say something, and that."""
    def at_data(session):
        session.send(b"354 go\r\n")
        left = n
        while left > 0:
            if every and session.remote._stopping.wait(every):
                return CLOSE
            more = session.socket.recv(min(left, 20 if every else 65536))
            if not more:
                return CLOSE
            left -= len(more)
        session.send(reply)
        return then
    return at_data


def test_b09_b10_content_that_is_not_taken_or_answered_early(world, promise):
    promise("B09 B10", "content that is not taken is given up; an early reply is no reply to the dot")
    slow = {"options": {"receive_buffer": 4096}}
    rows = [
        Row("zero-window", DEFERRED, **slow, phase="data").at("data", content(0)),
        Row("stops-in-mid", DEFERRED, **slow, phase="data").at("data", content(100000)),
        Row("200-octets-a-second", DEFERRED, **slow, phase="data").at(
            "data", content(LARGE, every=0.1)),
        Row("reset", DEFERRED).at("data", content(200000, then=RESET)),
        Row("close", DEFERRED).at("data", content(200000, then=CLOSE)),
        Row("reset-next", DELIVERED, next_mx=True).at("data", content(200000, then=RESET)),
        Row("stops-next", DELIVERED, next_mx=True, options={"receive_buffer": 4096}).at(
            "data", content(100000)),
        Row("550", FAILED, code="550", phase="data").at(
            "data", content(200000, b"550 5.7.0 enough\r\n")),
        Row("550-close", FAILED, code="550").at(
            "data", content(200000, b"550 5.7.0 enough\r\n", CLOSE)),
        Row("552", FAILED, code="552").at("data", content(200000, b"552 5.3.4 too big\r\n")),
        Row("451", DEFERRED, code="451").at("data", content(200000, b"451 4.3.0 later\r\n")),
        Row("421-close", DEFERRED, code="421").at(
            "data", content(200000, b"421 4.3.2 bye\r\n", CLOSE)),
        Row("250", DEFERRED, enh="4.5.0").at("data", content(200000, b"250 taken\r\n")),
        Row("354", DEFERRED, enh="4.5.0").at("data", content(200000, b"354 more\r\n")),
        Row("garbage", DEFERRED, enh="4.5.0").at("data", content(200000, b"\0\xff\r\n")),
        Row("550-not-read", FAILED, code="550", options={"receive_buffer": 4096}).at(
            "data", content(0, b"550 5.7.0 enough\r\n")),
    ]
    body = (b"y" * 70 + b"\r\n") * (LARGE // 72)
    rows = rows[::size(2, 1)]
    for row in rows:
        row.message = mail.message(ident=row.name, body=body)
    # Hosts that take megabytes need time for that, in Python.
    patient = {what: "30s" for what in SHORT if what != "block"}
    Stage(world, promise, {"timeouts": patient}).run(rows, timeout=60)
    for row in rows:  # what was cut never ends as a complete message
        assert not any(b"\r\n.\r\n" in s._input for s in row.mx.sessions), row.name


def test_b09_reset_that_came_with_354_is_no_doubt_about_the_dot(world, promise):
    """354 and the reset are read together: the write fails, and no octet of the content leaves."""
    promise("B09", "content that could not leave is no dot: nothing may be there twice, the next "
                   "host is asked").case()
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    one, two = world.remote("mx1.dest.test"), world.remote("mx2.dest.test")
    node = world.node()

    def reset_behind_354(session):
        node.send_signal(signal.SIGSTOP)
        until(lambda: "\nState:\tT" in pathlib.Path(f"/proc/{node.pid}/status").read_text(),
              what="the node to stand still")
        session.send(b"354 go\r\n")
        session.finish(RESET)
        node.send_signal(signal.SIGCONT)
        return RESET

    one.answer("data", reset_behind_354)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert (line["outcome"], line["host"]) == ("delivered", "mx2.dest.test"), line
    assert len(two.mails) == 1


def late(session):
    session.remote._stopping.wait(2 * DEADLINE_S)
    session.send(b"250 2.0.0 late\r\n")
    return CLOSE


def test_b11_reply_after_the_deadline_is_none(world, promise):
    promise("B11", "a 250 that comes too late is none: deferred, and told that it may come twice")
    rows = [Row("late", DEFERRED, phase="body-end").at("dot", late)]
    Stage(world, promise).run(rows)
    assert "twice" in rows[0].line["text"]
