"""TLS that others meddle with: what is mandatory never goes in clear, what is not is never lost."""

import random
import socket
import ssl
import struct

import pytest

from rig import mail, smtp
from rig.certs import Authority
from rig.promise import size
from rig.remote import CLOSE, RESET, SILENCE

pytestmark = pytest.mark.torture

QUICK = {"queue": {"retry": {"intervals": ["1h"], "jitter": "0%"}},
         "timeouts": {"starttls": "1s"}}


# ---- the next host, and what a man in the middle makes of it ----

def says(*lines):
    """Answer STARTTLS with these bytes, then take what comes and close."""
    def script(session):
        session.send(b"".join(lines))
        session.socket.settimeout(2)
        try:
            while session.socket.recv(4096):
                pass
        except OSError:
            pass
        session.finish(CLOSE)
        raise OSError("script ended the session")
    return script


def inject(text):
    """A proper handshake, with text in clear behind the 220 (CVE-2011-0411 the other way round)."""
    def script(session):
        session.send(b"220 2.0.0 go\r\n" + text)
        session.remote._handshake(session)
        session._input = b""
        session.helo = None
    return script


def oldest(remote):
    """Nothing above TLS 1.0."""
    remote._context.minimum_version = ssl.TLSVersion.TLSv1
    remote._context.maximum_version = ssl.TLSVersion.TLSv1
    remote._context.set_ciphers("ALL:@SECLEVEL=0")


# name -> what is done to the host; these come to no handshake, whatever the certificate
REFUSALS = {
    "454": "454 4.7.0 TLS not available", "502": "502 5.5.1 no such command",
    "354": "354 what?", "250": "250 ok", "421": "421 4.3.2 later", "554": "554 5.7.1 no",
    "silence": SILENCE, "close": CLOSE, "reset": RESET,
    "garbage": says(b"220 2.0.0 go\r\n", bytes(range(256)) * 4),
    "garbage-now": says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"),
    "alert": says(b"220 2.0.0 go\r\n", b"\x15\x03\x03\x00\x02\x02\x28"),
    "plain-smtp": says(b"220 2.0.0 go\r\n", b"250 mx.test\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
    "then-close": says(b"220 2.0.0 go\r\n"),
}
# What RFC 3207 does not allow behind the 220, or before it.
INJECTIONS = {
    "inject-250": inject(b"250 SIZE 1\r\n"),
    "inject-ehlo": inject(b"250-mx.test\r\n250 SIZE 1\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n"),
    "inject-half": inject(b"25"),
    "inject-554": inject(b"554 5.1.1 no such user\r\n" * 3),
}


class Meddled:
    """One domain and hop for each way to meddle; a rig for all of them in one node."""

    def __init__(self, world):
        self.world, self.remotes, self.stranger = world, {}, Authority(world.dir / "ca2", "Other")
        names = [*REFUSALS, *INJECTIONS]
        good = world.ca.issue(*(f"{n}.test" for n in [*names, "tls10"]))
        for name in names:
            host = self.add(name, good)
            host.answer("starttls", {**REFUSALS, **INJECTIONS}[name])
        self.add("stripped", None)
        self.add("name", world.ca.issue("somebody-else.test"))
        self.add("expired", world.ca.issue("expired.test", days=-1))
        self.add("self-signed", self.stranger.issue("self-signed.test"))
        self.add("tls10", good)
        oldest(self.remotes["tls10"])

    def add(self, name, certificate):
        host = self.world.remote(f"{name}.test", certificate=certificate)
        self.world.dns.mx(f"{name}.test", host.hostname)
        self.remotes[name] = host
        return host


def told_in_clear(host):
    """Commands that came outside TLS."""
    return [c for s in host.sessions if not s.tls for c in s.commands]


HARMLESS = ("EHLO", "HELO", "STARTTLS", "QUIT", "NOOP")
# What the level `require` takes: a certificate that proves nothing is TLS all the same.
ANY_CERTIFICATE = {"name", "expired", "self-signed"}


@pytest.mark.parametrize("how", size(
    ["hop-verify", "hop-require", "rule-verify"],
    ["hop-verify", "hop-require", "hop-pin", "rule-verify"]))
def test_f04_mandatory_tls_defers_and_shows_nothing_whatever_is_done_to_it(world, promise, how):
    promise("F04", "a route with mandatory TLS defers and shows nothing in clear, whatever is done")
    with world.dns:
        meddled = Meddled(world)
    names = list(meddled.remotes)
    config = {**QUICK, "direct": {"ca_file": world.ca.file}}
    if how == "rule-verify":
        config["transport_map"] = [{"default": True, "route": "direct", "tls": "verify"}]
    else:
        entry = {"hop-verify": {"tls": "verify", "ca_file": world.ca.file},
                 "hop-require": {"tls": "require"},
                 "hop-pin": {"fingerprint": world.ca.issue("pinned.test").fingerprint}}[how]
        config["hops"] = {n: {"address": f"{n}.test:25", **entry} for n in names}
        config["transport_map"] = [*({"domains": [f"{n}.test"], "route": n} for n in names),
                                   {"default": True, "route": "direct"}]
    node = world.node(config=config)
    with node.client() as session:
        session.ehlo()
        for name in names:
            session.submit("a@src.test", f"b@{name}.test", mail.message(ident=name))
    for name, host in meddled.remotes.items():
        line = node.log.wait(event="attempt", rcpt=f"b@{name}.test")
        seen = {c.split(" ")[0].upper() for c in told_in_clear(host)}
        assert seen <= set(HARMLESS), f"{name}: {seen} in clear"
        if how == "hop-require" and name in ANY_CERTIFICATE:
            assert line["outcome"] == "delivered" and host.mails[0].tls, (name, line)
        else:
            assert line["outcome"] == "deferred" and not host.mails, (name, line)
            assert not [c for c in host.commands() if c.upper().startswith("MAIL")], name
        promise.case()
    assert not node.log.all(event="attempt", outcome="failed")


def test_f05_opportunistic_tls_is_meddled_with_and_loses_nothing(world, promise):
    promise("F05", "opportunistic TLS: whatever is done to it, the mail arrives once")
    with world.dns:
        meddled = Meddled(world)
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
                              "timeouts": {"starttls": "1s"}})
    with node.client() as session:
        session.ehlo()
        for name in meddled.remotes:
            session.submit("a@src.test", f"b@{name}.test", mail.message(ident=name))
    # A 421 closes the session and says that the whole host is in trouble: clear text is no cure.
    node.log.wait(event="attempt", rcpt="b@421.test", outcome="deferred")
    meddled.remotes["421"].behave()
    for name, host in meddled.remotes.items():
        host.wait_mail()
        in_tls = name in ANY_CERTIFICATE or name in ("tls10", "421")
        if name not in INJECTIONS:
            assert (host.mails[0].tls is not None) == in_tls, name
        promise.case()
    node.wait_empty()
    for name, host in meddled.remotes.items():
        assert len(host.mails) == 1, name
    assert not node.log.all(event="attempt", outcome="failed")


@pytest.mark.parametrize("name", INJECTIONS)
def test_f02_what_came_in_clear_behind_220_is_no_answer_to_anything(world, promise, name):
    promise("F02", "text injected behind the remote's 220 is never taken for a reply")
    hop = world.remote("hop.test", certificate=world.ca.issue("hop.test"))
    hop.answer("starttls", INJECTIONS[name])
    hop.answer("rcpt", "550 5.1.1 no such user")
    node = world.node(config={**QUICK, "hops": {"out": {
        "address": "hop.test:25", "tls": "verify", "ca_file": world.ca.file}},
        "transport_map": [{"default": True, "route": "out"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt")
    assert line["outcome"] == "deferred", "the 250s and 550s of a stranger were believed"
    assert not [c for c in hop.commands() if c.upper().startswith("MAIL")]
    promise.case()


# ---- the end of a connection ----

def cut_off(reply, how):
    """The dot is answered (or not), and the connection is cut without close_notify."""
    def script(session):
        if reply:
            session.send(reply)
            session.remote.mails.append(None)
        raw = socket.socket(fileno=session.socket.detach())
        if how is RESET:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        raise OSError("cut off")
    return script


@pytest.mark.parametrize("how", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("answered", [True, False], ids=["after-250", "before"])
def test_f07_connection_cut_without_close_notify(world, promise, how, answered):
    promise("F07", "cut without close_notify: a 250 that came counts, none that came is a retry")
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))
    mx.answer("dot", cut_off(b"250 2.0.0 taken\r\n" if answered else b"", how), times=1)
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    if answered:
        assert line["outcome"] == "delivered", line
    else:
        assert line["outcome"] == "deferred" and line["maybe_twice"] == "true", line
        assert mx.wait_mail().rcpts == ["b@dest.test"]
    node.wait_empty()
    assert len(mx.mails) == 1
    promise.case()


# ---- our own server ----

@pytest.fixture
def server(world):
    certificate = world.ca.issue("smtp-cn.relay.test")
    world.mx("dest.test")
    return world.node(config={"tls": {"certificate_file": certificate.cert_file,
                                      "private_key_file": certificate.key_file}})


@pytest.mark.parametrize("behind", [
    b"MAIL FROM:<evil@src.test>\r\n", b"\n", b"\r\n", b"E", b"RSET\r\nQUIT\r\n",
    b"\x16\x03\x01\x00\x05hello", b"DATA\r\nx\r\n.\r\n" * 3, b"\0"])
def test_f01_what_is_pipelined_behind_starttls_is_never_obeyed(server, promise, behind):
    promise("F01", "bytes in clear behind STARTTLS close the session and are never obeyed")
    with server.client() as session:
        session.ehlo()
        session.send(b"STARTTLS\r\n" + behind)
        reply = session.reply()
        assert reply.code == 501 and reply.text.startswith("5.5.4")
        assert session.closed()
    promise.case()


def test_f03_nothing_from_before_tls_counts_and_tls_is_not_nested(server, promise):
    promise("F03", "STARTTLS forgets what came before, takes no parameter, and is not nested")
    with server.client() as session:
        session.ehlo()
        assert session.cmd("STARTTLS now").code == 501
        promise.case()
        session.mail("a@src.test")
        assert session.cmd("STARTTLS").code == 503, "inside a transaction"
        promise.case()
        session.cmd("RSET")
        assert session.starttls().code == 220
        assert session.rcpt("b@dest.test").code == 503
        assert session.mail("a@src.test").code == 503, "EHLO from before still counts"
        promise.case()
        assert "STARTTLS" not in session.ehlo()
        assert session.cmd("STARTTLS").code in (502, 503, 554)
        promise.case()
        assert session.cmd("RSET").code == 250
        session.submit("a@src.test", "b@dest.test", mail.message())


def old_context(version):
    context = smtp.insecure_context()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def alive(node):
    with node.client() as session:
        session.ehlo()
        assert session.starttls().code == 220
        session.ehlo()
        session.submit("a@src.test", "b@dest.test", mail.message())


def test_f06_old_versions_and_garbage_for_a_handshake_do_no_harm(server, promise):
    promise("F06", "TLS below 1.2, renegotiation and garbage are refused; the server lives on")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with server.client() as session:
            session.ehlo()
            with pytest.raises((ssl.SSLError, OSError)):
                session.starttls(old_context(version))
        promise.case()
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    hello = client_hello()
    for i in range(size(60, 5000)):
        kind, data = i % 3, bytearray(hello)
        if kind == 0:
            data = rng.randbytes(rng.randrange(1, 3000))
        elif kind == 1:
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            data = data[:rng.randrange(1, len(data))]
        with server.client() as session:
            session.ehlo()
            assert session.cmd("STARTTLS").code == 220
            session.send(bytes(data))
            session.socket.shutdown(socket.SHUT_WR)
            session.socket.settimeout(10)
            try:
                while session.socket.recv(65536):
                    pass
            except ConnectionError:
                pass
            except TimeoutError:
                pytest.fail(f"seed {seed} case {i}: the connection stays open")
        promise.case()
    alive(server)


def client_hello():
    """The first flight of a client, as bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = smtp.insecure_context().wrap_bio(incoming, outgoing, server_hostname="relay.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
