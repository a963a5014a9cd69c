"""D01, D02, D03: strangers against every kind of listener; nothing they say lets them relay."""

import base64
import socket
import struct

import pytest

from rig import mail, smtp
from rig.node import sanitized
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture

TRUSTED = "198.51.100.1"
OWN = "smtp-cn.relay.test"

# The forms of relay testers (RFC 2505 section 2.1, nmap's smtp-open-relay, abuse.net, MAPS): sender
# and recipient; IP is the listener's address, OWN its host name, src.test a domain of ours.
RELAY_FORMS = [
    # nmap's 16
    ("<>", "<b@dest.test>"),
    ("<a@x.test>", "<b@dest.test>"),
    ("<a@IP>", "<b@dest.test>"),
    ("<a@[IP]>", "<b@dest.test>"),
    ("<a@OWN>", "<b@dest.test>"),
    ("<a@[IP]>", "<b%dest.test@[IP]>"),
    ("<a@[IP]>", "<b%dest.test@OWN>"),
    ("<a@[IP]>", '<"b@dest.test">'),
    ("<a@[IP]>", '<"b%dest.test">'),
    ("<a@[IP]>", "<b@dest.test@[IP]>"),
    ("<a@[IP]>", '<"b@dest.test"@[IP]>'),
    ("<a@[IP]>", "<b@dest.test@OWN>"),
    ("<a@[IP]>", "<@[IP]:b@dest.test>"),
    ("<a@[IP]>", "<@OWN:b@dest.test>"),
    ("<a@[IP]>", "<dest.test!b>"),
    ("<a@[IP]>", "<dest.test!b@[IP]>"),
    ("<a@[IP]>", "<dest.test!b@OWN>"),
    # abuse.net's and MAPS's besides
    ("<a>", "<b@dest.test>"),
    ("<postmaster>", "<b@dest.test>"),
    ("<b@dest.test>", "<b@dest.test>"),
    ("<a@src.test>", "<b@dest.test>"),
    ("<a@localhost>", "<b@dest.test>"),
    ("<a@127.0.0.1>", "<b@dest.test>"),
    ("<a@[127.0.0.1]>", "<b@dest.test>"),
    ('<"a@src.test">', "<b@dest.test>"),
    ("<a@src.test>", "<b%dest.test>"),
    ("<a@src.test>", "<b%dest.test@src.test>"),
    ("<a@src.test>", "<b%dest.test%src.test@src.test>"),
    ("<a@src.test>", '<"b%dest.test"@src.test>'),
    ("<a@src.test>", '<"b@dest.test"@src.test>'),
    ("<a@src.test>", "<b@dest.test@src.test>"),
    ("<a@src.test>", "<@src.test:b@dest.test>"),
    ("<a@src.test>", "<@src.test,@dest.test:b@dest.test>"),
    ("<@src.test:a@src.test>", "<b@dest.test>"),
    ("<a@src.test>", "<dest.test!b@src.test>"),
    ("<a@src.test>", '<"dest.test!b"@src.test>'),
    ("<a@src.test>", "<src.test!dest.test!b>"),
    ("<a@src.test>", "<b%dest.test@[127.0.0.1]>"),
    ("<a@src.test>", "<b%dest.test@localhost>"),
    ("<a@src.test>", "<b@dest.test@localhost>"),
    ("<a@src.test>", "<@localhost:b@dest.test>"),
    ("<a@src.test>", "<b%[dest.test]@src.test>"),
    ("<a@src.test>", "<b@[dest.test]>"),
    ("<a@src.test>", "<b@dest.test.>"),
    ("<a@src.test>", "<b@DEST.TEST>"),
    ("<a@src.test>", "< b@dest.test>"),
    ("<a@src.test>", "b@dest.test"),
    ("<a@src.test>", "<<b@dest.test>>"),
    ("<a@src.test>", "<b@dest.test> <a@src.test>"),
    ("<a@src.test>", "<a@src.test>,<b@dest.test>"),
    ("<a@src.test>", "<a@src.test,b@dest.test>"),
    ("<a@src.test>", "<b@dest.test\0@src.test>"),
    ("<a@src.test>", "<b@dest.test> NOTIFY=SUCCESS ORCPT=rfc822;a@src.test"),
    ("<a@src.test>", "<b@[IPv6:::1]>"),
    ("<a@src.test>", "<b@[192.0.2.1]>"),
    ("<a@src.test>", "<@>"),
    ("<a@src.test>", "<b@>"),
    ("<a@src.test>", "<>"),
    ("<a@src.test>", "<postmaster>"),
    ("<a@src.test>", "<a@src.test>"),
    ("<a@src.test> AUTH=<a@src.test>", "<b@dest.test>"),
    ("<a@src.test> AUTH=<>", "<b@dest.test>"),
    ("<a@src.test> SIZE=1 BODY=8BITMIME", "<b@dest.test>"),
    ("<srs0=x=y=src.test=a@fwd.src.test>", "<b@dest.test>"),
    # Addresses at our SRS domain that were not made by us.
    ("<>", "<SRS0=aaaa=bb=dest.test=b@fwd.src.test>"),
    ("<>", "<SRS1=aaaa=dest.test==aaaa=bb=dest.test=b@fwd.src.test>"),
    ("<>", "<SRS0=dest.test=b@fwd.src.test>"),
    ("<>", "<SRS0==bb=dest.test=b@fwd.src.test>"),
    ("<>", "<b%dest.test@fwd.src.test>"),
    ("<>", '<"b@dest.test"@fwd.src.test>'),
    ("<>", "<postmaster@fwd.src.test>"),
]

# What strangers call themselves, or say they come from.
NAMES = ["trusted.test", TRUSTED, f"[{TRUSTED}]", OWN, "localhost", "[127.0.0.1]", "src.test", "client.trusted.test",
         "[IPv6:::1]", "mail.src.test", "x" * 255]
CLAIMS = [f"XCLIENT ADDR={TRUSTED}", f"XCLIENT ADDR={TRUSTED} NAME=trusted.test LOGIN=shop", "XCLIENT LOGIN=shop",
          "XCLIENT DESTADDR=127.0.0.1", f"XFORWARD ADDR={TRUSTED} NAME=trusted.test", "XFORWARD SOURCE=LOCAL",
          f"PROXY TCP4 {TRUSTED} 198.51.100.9 1000 25", "PROXY UNKNOWN", "XAUTH x", "X-EXPS LOGIN", "XEXPS GSSAPI",
          "XCLIENT ADDR=[UNAVAILABLE]", f"XORIGINALADDR {TRUSTED}", "ATRN src.test", "ETRN dest.test",
          "LHLO trusted.test", "HELO trusted.test\tx"]


def proxy_v2(command, source, family=0x11):
    address = socket.inet_aton(source) + socket.inet_aton("198.51.100.9") + struct.pack("!HH", 1000, 25)
    return (b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, family]) +
            struct.pack("!H", len(address)) + address)


PROXIES = [
    ("v1 TCP4", f"PROXY TCP4 {TRUSTED} 198.51.100.9 1000 25\r\n".encode()),
    ("v1 TCP6", b"PROXY TCP6 ::ffff:198.51.100.1 ::1 1000 25\r\n"),
    ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n"),
    ("v1 without CR", f"PROXY TCP4 {TRUSTED} 198.51.100.9 1000 25\n".encode()),
    ("v2 PROXY", proxy_v2(1, TRUSTED)),
    ("v2 LOCAL", proxy_v2(0, TRUSTED)),
    ("v2 UNSPEC", proxy_v2(1, TRUSTED, 0)),
]


class Stranger:
    """A node with three doors, and a client whom nobody trusts."""

    def __init__(self, world, promise):
        self.promise, self.mx = promise, world.mx("dest.test")
        self.source, self.address = world.take(), world.take()
        certificate = world.ca.issue(OWN)
        key = {"certificate_file": certificate.cert_file, "private_key_file": certificate.key_file}
        self.node = world.node(address=self.address, start=False)
        self.node.add_user("shop", "right password")
        secret = self.node.file("srs.secret", "a secret of 20 octets\n")
        self.node.write_config({
            "tls": key, "local_domains": ["src.test"], "srs": {"domain": "fwd.src.test", "secret_file": secret},
            "listeners": [{"address": f"{self.address}:25"}, {"address": f"{self.address}:587", "require_auth": True},
                          {"address": f"{self.address}:465", "tls": "implicit"},
                          {"address": f"{self.address}:2525", "tls": "off"}],
            "trusted_clients": [{"cidr": f"{TRUSTED}/32"}, {"users_file": "users"}],
            "limits": {"sessions_per_client": 5000}})
        self.node.start()

    def client(self, door="25", greet=True, source=None):
        port, tls = int(door.split("+")[0]), "tls" in door
        session = smtp.Client(self.address, port, source=source or self.source, greet=greet,
                              implicit_tls=smtp.insecure_context() if port == 465 else None)
        if tls:
            session.ehlo()
            assert session.starttls().code == 220
        return session

    def denied(self, session, what, rcpt="<b@dest.test>", sender="<a@src.test>"):
        """He may not relay now, and knows it; his session is in step."""
        mailed = session.cmd(f"MAIL FROM:{sender}")
        reply = session.cmd(f"RCPT TO:{rcpt}")
        assert 500 <= reply.code < 600, f"{what}: MAIL {sender} {mailed}, RCPT {rcpt} {reply}"
        data = session.cmd("DATA")
        assert data.code in (503, 554), f"{what}: {data}"
        assert session.cmd("RSET").code == 250, what
        self.promise.case()

    def nothing_came(self):
        assert not self.mx.sessions and not self.node.queue()
        assert not self.node.log.all(event="received")


@pytest.fixture
def stranger(world, promise):
    return Stranger(world, promise)


DOORS = ("25", "25+tls", "465", "587", "587+tls", "2525")


@pytest.mark.parametrize("door", DOORS)
def test_d01_no_open_relay_form_gets_through(stranger, promise, door):
    promise("D01", f"{len(RELAY_FORMS)} relay forms of a stranger at a listener {door}: not one is taken")
    for i in range(0, len(RELAY_FORMS), 5):  # 20 refusals end a session
        with stranger.client(door) as session:
            session.ehlo()
            for sender, rcpt in RELAY_FORMS[i:i + 5]:
                sender, rcpt = (t.replace("IP", stranger.address).replace("OWN", OWN)
                                if "IPv6" not in t else t for t in (sender, rcpt))
                stranger.denied(session, door, rcpt, sender)
    stranger.nothing_came()


def test_d02_what_a_stranger_says_of_himself_gives_no_trust(stranger, promise):
    promise("D02", "names, literals, XCLIENT, XFORWARD, PROXY, AUTH=: words of a stranger, no trust")
    for name in NAMES:
        for verb in ("EHLO", "HELO"):
            with stranger.client() as session:
                session.cmd(f"{verb} {name}")
                stranger.denied(session, f"{verb} {name}")
    for claim in CLAIMS:
        with stranger.client() as session:
            session.ehlo()
            assert session.cmd(claim).code >= 500, claim
            stranger.denied(session, claim)
        with stranger.client() as session:  # also as the very first
            assert session.cmd(claim).code >= 500, claim
            session.ehlo()
            stranger.denied(session, claim)
    stranger.nothing_came()


@pytest.mark.parametrize("early", [True, False], ids=["before the greeting", "behind it"])
def test_d02_proxy_header_of_a_stranger_gives_no_trust(stranger, promise, early):
    promise("D02", "PROXY v1 and v2 at a listener without proxies: an early talker, or no command")
    for name, header in PROXIES:
        with stranger.client(greet=not early) as session:
            try:
                session.send(header)
                reply = session.reply()
                if early and reply.code == 220:  # the greeting was on its way already
                    reply = session.reply()
                assert reply.code in (500, 554), f"{name}: {reply}"
                if reply.code == 500 and header.endswith(b"\r\n"):
                    session.ehlo()
                    stranger.denied(session, name)
                else:
                    while session.reply().code == 500:
                        pass
            except (smtp.Closed, OSError):
                pass
        promise.case()
    stranger.nothing_came()


def test_d02_guessed_passwords_open_nothing(world, stranger, promise):
    promise("D02", "AUTH guessed, malformed, abandoned, in clear: no trust, one answer each")
    def b64(data):
        return base64.b64encode(data).decode()

    guesses = [
        "AUTH PLAIN " + b64(b"\0shop\0wrong"), "AUTH PLAIN " + b64(b"\0\0"), "AUTH PLAIN " + b64(b"\0shop\0"),
        "AUTH PLAIN " + b64(b"root\0shop\0right password"), "AUTH PLAIN " + b64(b"shop\0right password"),
        "AUTH PLAIN " + b64(b"\0shop\0right password\0"), "AUTH PLAIN " + b64(b"\0SHOP\0right password"),
        "AUTH PLAIN " + b64(b"\0shop \0right password"), "AUTH PLAIN " + b64(b"\0shop\n\0right password"),
        "AUTH PLAIN " + b64(b"\0shop\0right password\r\n"), "AUTH PLAIN " + b64(b"\0shop:\0right password"),
        "AUTH PLAIN " + b64(b"\0shop\0" + b"x" * 5000), "AUTH PLAIN " + b64(b"\0" + b"s" * 5000 + b"\0x"),
        "AUTH PLAIN =", "AUTH PLAIN *", "AUTH PLAIN ====", "AUTH PLAIN !!!!", "AUTH PLAIN \xff", "AUTH", "AUTH ",
        "AUTH EXTERNAL =", "AUTH EXTERNAL " + b64(b"shop"), "AUTH ANONYMOUS", "AUTH CRAM-MD5", "AUTH XOAUTH2 x",
        "AUTH GSSAPI", "AUTH NTLM", "AUTH SCRAM-SHA-256 x", "AUTH PLAIN-CLIENTTOKEN x", "AUTH LOGIN !!!",
    ]
    for i, guess in enumerate(guesses):
        source = world.take() if i < 30 else stranger.source
        with stranger.client("25+tls", source=source) as session:
            session.ehlo()
            reply = session.cmd(guess)
            while reply.code == 334:
                reply = session.cmd("*")
            assert reply.code >= 500, f"{guess[:60]}: {reply}"
            stranger.denied(session, guess[:60])
        with stranger.client("25", source=source) as session:  # never in clear, right or wrong
            session.ehlo()
            assert session.cmd(guess).code >= 500
            assert session.auth_plain("shop", "right password").code == 538
            stranger.denied(session, guess[:60])
    # LOGIN in pieces: a command in the place of an answer is no command.
    for answers in (["MAIL FROM:<a@src.test>"], ["", ""], [b64(b"shop"), ""], [b64(b"shop"), "*"], ["*"],
                    [b64(b"shop\0"), b64(b"right password")], [b64(b"shop"), b64(b"right password\0")]):
        with stranger.client("25+tls", source=world.take()) as session:
            session.ehlo()
            reply = session.cmd("AUTH LOGIN")
            for answer in answers:
                if reply.code == 334:
                    reply = session.cmd(answer)
            assert reply.code >= 500, answers
            stranger.denied(session, answers)
    assert not any("right password" in line for line in stranger.node.log.lines())
    stranger.nothing_came()


def test_d02_state_before_tls_is_forgotten(stranger, promise):
    promise("D02", "RFC 3207 section 4.2: nothing said in clear counts inside TLS")
    with stranger.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.cmd("STARTTLS").code == 503  # not inside a transaction
        session.cmd("RSET")
        assert session.starttls().code == 220
        assert session.mail("a@src.test").code == 503  # no EHLO yet
        assert session.cmd("STARTTLS").code == 503
        offers = session.ehlo()
        assert "STARTTLS" not in offers and "AUTH" in offers
        assert session.cmd("STARTTLS").code == 503
        stranger.denied(session, "inside TLS")
        assert session.auth_plain("shop", "right password").code == 235
        assert session.auth_plain("shop", "right password").code == 503
        assert session.rcpt("b@dest.test").code == 503
    with stranger.client("25+tls") as session:  # and what one session was is not the next one's
        session.ehlo()
        stranger.denied(session, "the next session")
    for parameter in ("STARTTLS x", "STARTTLS now please"):
        with stranger.client() as session:
            session.ehlo()
            assert session.cmd(parameter).code == 501
            stranger.denied(session, parameter)
    stranger.nothing_came()


def test_d02_commands_injected_before_tls_are_never_obeyed(stranger, promise):
    promise("D02", "CVE-2011-0411: what stands behind STARTTLS in clear is dropped, refused, or no TLS")
    inject = b"EHLO x\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@dest.test>\r\n"
    for text in (inject, b"RSET\r\n", b"\r\n", b"\n", b"X", b"\x16\x03\x01", b"AUTH PLAIN =\r\n"):
        with stranger.client() as session:
            session.ehlo()
            session.send(b"STARTTLS\r\n" + text)
            reply = session.reply()
            assert reply.code == 501 and session.closed(), f"{text!r}: {reply}"
        promise.case()
        with stranger.client() as session:  # in the next segment, while the server turns to TLS
            session.ehlo()
            session.send(b"STARTTLS\r\n")
            session.send(text)
            reply = session.reply()
            if reply.code == 220:
                with pytest.raises((OSError, smtp.Closed)):
                    session.wrap(smtp.insecure_context())
                    session.ehlo()
            else:
                assert reply.code == 501 and session.closed(), f"{text!r}: {reply}"
        promise.case()
    # Where it is not offered the bytes behind it are not obeyed either.
    with stranger.client("2525") as session:
        session.ehlo()
        session.send(b"STARTTLS\r\n" + inject)
        assert session.reply().code in (501, 502)
        assert session.closed()
    promise.case()
    assert not stranger.node.log.all(sender="evil@x.test")
    stranger.nothing_came()


def test_d03_who_was_refused_stays_refused(stranger, promise):
    promise("D03", "repeated, after RSET, pipelined, in a new session, beside a trusted one: still refused")
    for _ in range(size(3, 30)):
        with stranger.client() as session:
            session.ehlo()
            for _ in range(4):
                stranger.denied(session, "again")
            session.mail("a@src.test")
            for _ in range(3):
                assert session.rcpt("b@dest.test").code == 554
                promise.case()
            session.ehlo()
            stranger.denied(session, "after EHLO")
            session.send(b"MAIL FROM:<a@src.test>\r\n" + b"RCPT TO:<b@dest.test>\r\n" * 3 + b"DATA\r\n")
            assert [session.reply().code for _ in range(5)] == [250, 554, 554, 554, 554]
            promise.case()
    with stranger.client() as session:  # the same with content behind it
        session.ehlo()
        session.send(b"MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n" + mail.message() + b".\r\n")
        assert [session.reply().code for _ in range(3)] == [250, 554, 554]
        assert session.closed()
    promise.case()
    with stranger.client() as session:  # and in chunks
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        message = mail.message()
        session.send(b"BDAT %d LAST\r\n" % len(message) + message)
        assert session.reply().code == 554
        session.send(b"BDAT %d LAST\r\n" % len(message) + message)
        assert session.reply().code in (503, 554)
    promise.case()
    with stranger.client() as session:  # 20 refusals are enough
        session.ehlo()
        session.mail("a@src.test")
        codes = []
        while codes[-1:] != [421]:
            codes.append(session.rcpt("b@dest.test").code if len(codes) < 20 else session.reply().code)
        assert codes == [554] * 20 + [421] and session.closed()
    promise.case()
    # Somebody who may relay, at the same moment, changes nothing for who may not.
    with stranger.client("25+tls") as good, stranger.client("25+tls") as bad:
        for session in (good, bad):
            session.ehlo()
        assert good.auth_plain("shop", "right password").code == 235
        for session, code in ((good, 250), (bad, 554), (good, 250), (bad, 554)):
            session.mail("a@src.test")
            assert session.rcpt("b@dest.test").code == code
            session.cmd("RSET")
            promise.case()
    stranger.nothing_came()


def test_d02_listener_that_requires_auth_takes_nobody_by_his_address(world, promise):
    promise("D02", "require_auth: even a trusted address has to log in, by MAIL at the latest")
    address = world.take()
    node = world.node(address=address, start=False)
    node.add_user("shop", "right password")
    certificate = world.ca.issue(OWN)
    node.write_config({
        "tls": {"certificate_file": certificate.cert_file, "private_key_file": certificate.key_file},
        "listeners": [{"address": f"{address}:2525", "require_auth": True}],
        "trusted_clients": [{"users_file": "users"}, {"cidr": "127.0.0.0/8"}]})
    node.start()
    world.mx("dest.test")
    for tls in (False, True):
        with smtp.Client(address, 2525) as session:
            session.ehlo()
            if tls:
                session.starttls()
                session.ehlo()
            for sender in ("a@src.test", "", "postmaster@src.test"):
                assert session.mail(sender).code == 530
                assert session.rcpt("b@dest.test").code == 503
                assert session.cmd("DATA").code == 503
                promise.case()
            if tls:
                session.auth_plain("shop", "right password")
                session.submit("a@src.test", "b@dest.test", mail.message())
    until(lambda: not node.queue(), what="delivery")


def test_d02_a_resumed_tls_session_brings_no_trust_along(world, promise):
    """A ticket of a session with a client certificate, or of another listener, proves nothing new."""
    promise("D02", "a ticket is worth what its own certificate is worth now: after a reload without it, nothing")
    import ssl
    world.mx("dest.test")
    server, certificate = world.ca.issue(OWN), world.ca.issue("client.test", client=True)
    tls = {"certificate_file": server.cert_file, "private_key_file": server.key_file}
    node = world.node(config={"tls": tls, "trusted_clients": [{"client_certificate": certificate.fingerprint}]})

    def attempt(context, session=None):
        with smtp.Client(node.address, node.port) as client:
            client.ehlo()
            assert client.cmd("STARTTLS").code == 220
            client.socket = context.wrap_socket(client.socket, server_hostname="relay.test", session=session)
            client.ehlo()
            client.mail("a@src.test")
            code = client.rcpt("b@dest.test").code
            return code, client.socket.session, client.socket.session_reused

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = smtp.insecure_context(certificate)
        context.minimum_version = context.maximum_version = version
        code, ticket, _ = attempt(context)
        assert code == 250
        assert attempt(context, ticket)[0] == 250
        bare = smtp.insecure_context()
        bare.minimum_version = bare.maximum_version = version
        assert attempt(bare)[0] == 554
        node.reload({"trusted_clients": [{"client_certificate": "SHA256:" + "0" * 64}]})
        assert attempt(context, ticket)[0] == 554
        assert attempt(context)[0] == 554
        node.reload({"trusted_clients": [{"client_certificate": certificate.fingerprint}]})
        promise.case(5)
    assert not sanitized() or node.running()
