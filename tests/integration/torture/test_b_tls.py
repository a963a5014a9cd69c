"""Hosts that break TLS: in clear where that is allowed, once; never where TLS is required."""

import itertools

import pytest

from rig.remote import CLOSE, RESET, SILENCE, Raw
from rig.vectors import DEFERRED, DELIVERED, FAILED, Row, Stage

pytestmark = pytest.mark.torture

OFFER = ["PIPELINING", "8BITMIME", "SIZE 1000000", "STARTTLS"]
REQUIRED = {"transport_map": [{"domains": ["*.must.test"], "route": "direct", "tls": "require"},
                              {"default": True, "route": "direct"}]}

# What STARTTLS is answered, and how many sessions opportunistic TLS then takes.
STARTTLS = {
    "454": ("454 4.7.0 not now", 1), "502": ("502 5.5.1 what", 1), "501": ("501 5.5.4 no", 1),
    "554": ("554 5.7.3 no", 1), "500": ("500", 1),
    "354": ("354 go ahead", 2), "250": ("250 ok", 2), "221": ("221 bye", 2), "235": ("235 ok", 2),
    "100": (Raw(b"100 wait\r\n"), 2), "999": (Raw(b"999 no\r\n"), 2),
    "contradicting": (Raw(b"220-go\r\n454 no\r\n"), 2), "text": (Raw(b"go ahead\r\n"), 2),
    "close": (CLOSE, 2), "reset": (RESET, 2), "silence": (SILENCE, 2),
    "220-close": (Raw(b"220 go\r\n", then=CLOSE), 2), "220-reset": (Raw(b"220 go\r\n", then=RESET), 2),
    "220-silence": (Raw(b"220 go\r\n", then=SILENCE), 2),
    "220-garbage": (Raw([b"220 go\r\n", b"\xde\xad\xbe\xef" * 50], every=0.1, then=SILENCE), 2),
    "220-http": (Raw([b"220 go\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], every=0.1, then=CLOSE), 2),
    "220-smtp": (Raw([b"220 go\r\n", b"250-mx\r\n250 SIZE\r\n"], every=0.1, then=SILENCE), 2),
    "220-alert": (Raw([b"220 go\r\n", b"\x15\x03\x03\x00\x02\x02\x28"], every=0.1, then=CLOSE), 2),
    "220-half-hello": (Raw([b"220 go\r\n", b"\x16\x03\x03\x40\x00\x02"], every=0.1, then=SILENCE), 2),
    "220-huge-record": (Raw([b"220 go\r\n", b"\x16\x03\x03\xff\xff" + b"\0" * 65535], every=0.1,
                            then=SILENCE), 2),
    "220-endless": (Raw(lambda: itertools.chain([b"220 go\r\n"], itertools.repeat(
        b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00" * 2000)), every=0.01), 2),
    "220-drip": (Raw(lambda: itertools.chain([b"220 go\r\n"], itertools.repeat(b"\x16")), every=0.2), 2),
    "220-twice": (Raw(b"220 go\r\n220 go\r\n"), 2),
    "220-injected": (Raw(b"220 go\r\n250-mx\r\n250 SIZE 1\r\n"), 2),
    "220-octet": (Raw(b"220 go\r\n\x16"), 2),
    "421": ("421 4.3.2 bye", None), "421-close": (Raw(b"421 bye\r\n", then=CLOSE), None),
}


def never_in_clear(stage, row):
    for session in row.mx.sessions:
        assert not [c for c in session.commands if not c.startswith(("EHLO", "STARTTLS", "QUIT"))], \
            session.commands


def test_b04_broken_starttls_goes_in_clear_only_where_it_may(world, promise):
    promise("B04 B02", "broken TLS: once more in clear where allowed, deferred where TLS is a must")
    rows = []
    options = {"extensions": OFFER}
    for name, (reply, sessions) in STARTTLS.items():
        outcome = DEFERRED if sessions is None else DELIVERED
        rows.append(Row(f"starttls-{name}", outcome, options=options, sessions=sessions).at(
            "starttls", reply))
        rows.append(Row(f"starttls-{name}.must", DEFERRED, options=options,
                        also=never_in_clear).at("starttls", reply))
    rows.append(Row("stripped.must", DEFERRED, also=never_in_clear))
    rows.append(Row("helo-only.must", DEFERRED, also=never_in_clear).at("ehlo", "502 what"))
    rows.append(Row("helo-550.must", DEFERRED, also=never_in_clear).at("ehlo", "550 what"))
    Stage(world, promise, REQUIRED).run(rows)


def inside(world):
    """Behind a handshake that went well: as in clear, and no reason for clear."""
    for name, at, reply, outcome in (
            ("ehlo-close", "ehlo", CLOSE, None), ("mail-reset", "mail", RESET, DEFERRED),
            ("mail-silence", "mail", SILENCE, DEFERRED), ("rcpt-cut", "rcpt", Raw(b"25", then=CLOSE),
                                                         DEFERRED),
            ("rcpt-garbage", "rcpt", Raw(b"\0\0\r\n"), DEFERRED),
            ("data-250", "data", "250 ok", DEFERRED), ("dot-cut", "dot", Raw(b"250-", then=RESET),
                                                     DEFERRED),
            ("dot-two", "dot", Raw(b"250 a\r\n250 b\r\n", 250), DELIVERED),
            ("dot-endless", "dot", Raw(lambda: itertools.repeat(b"250-x\r\n" * 3000)), DEFERRED),
            ("dot-550", "dot", "550 5.6.0 no", FAILED), ("quit-reset", "quit", RESET, DELIVERED),
            ("quit-silence", "quit", SILENCE, DELIVERED)):
        row = Row(f"in-{name}", outcome or DELIVERED,
                  options={"certificate": world.ca.issue(f"mx.in-{name}.test")})
        # The second EHLO, the one inside TLS: TLS was never heard, so clear is tried.
        yield row.at(at, reply if outcome else
                     lambda s: CLOSE if s.tls else "250-mx\n250 STARTTLS"[:0] or "250 mx\nSTARTTLS")


def raw_inside(session):
    """The handshake, then octets that are no TLS."""
    remote = session.remote
    raw = session.socket
    session.send("220 mx\r\n")
    session.readline()
    session.send("250-mx\r\n250 STARTTLS\r\n")
    if session.readline() != b"STARTTLS":
        return
    session.send("220 go\r\n")
    duplicate = raw.dup()
    remote._handshake(session)
    session.commands.append("TLS")
    session.readline()
    duplicate.sendall(b"250 this is no TLS\r\n" * 10)
    duplicate.close()
    session.socket.recv(1)


def test_b04_trouble_inside_tls_is_judged_as_in_clear(world, promise):
    promise("B04", "what a host does inside TLS has the same fate as in clear")
    rows = list(inside(world))
    rows.append(Row("in-not-tls.must", DEFERRED, options={
        "certificate": world.ca.issue("mx.in-not-tls.must.test"), "script": raw_inside}))
    Stage(world, promise, {**REQUIRED, "shaping": {
        "default": {"max_messages_per_connection": 1}}}).run(rows)
