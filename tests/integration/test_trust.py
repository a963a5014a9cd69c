"""Nobody relays who is not trusted: open relay forms, AUTH, client certificates, PROXY."""

import base64
import socket
import struct

import pytest

from rig import mail, smtp

STRANGERS = {"trusted_clients": [{"cidr": "198.51.100.0/24"}]}

# The forms that relay testers try (RFC 2505 section 2.1, nmap smtp-open-relay, abuse.net).
RELAY_FORMS = [
    ("<a@src.test>", "<b@dest.test>"),
    ("<>", "<b@dest.test>"),
    ("<a>", "<b@dest.test>"),
    ("<postmaster@smtp-cn.relay.test>", "<b@dest.test>"),
    ("<a@smtp-cn.relay.test>", "<b@dest.test>"),
    ("<a@[127.0.0.1]>", "<b@dest.test>"),
    ("<a@localhost>", "<b@dest.test>"),
    ("<a@src.test>", "<b%dest.test@smtp-cn.relay.test>"),
    ("<a@src.test>", "<b%dest.test@[127.0.0.1]>"),
    ("<a@src.test>", '<"b@dest.test">'),
    ("<a@src.test>", '<"b%dest.test">'),
    ("<a@src.test>", "<b@dest.test@smtp-cn.relay.test>"),
    ("<a@src.test>", '<"b@dest.test"@smtp-cn.relay.test>'),
    ("<a@src.test>", "<b@dest.test@[127.0.0.1]>"),
    ("<a@src.test>", "<@smtp-cn.relay.test:b@dest.test>"),
    ("<a@src.test>", "<@[127.0.0.1]:b@dest.test>"),
    ("<a@src.test>", "<dest.test!b>"),
    ("<a@src.test>", "<dest.test!b@smtp-cn.relay.test>"),
    ("<a@src.test>", "<dest.test!b@[127.0.0.1]>"),
    ("<a@src.test>", "<postmaster>"),
    ("<a@src.test>", "<b@>"),
    ("<a@src.test> AUTH=<root@relay.test>", "<b@dest.test>"),
]


def relay_attempt(session, sender="a@src.test", rcpt="b@dest.test"):
    session.ehlo()
    session.mail(sender)
    return session.rcpt(rcpt)


def test_stranger_is_refused_at_rcpt(world):
    node = world.node(config=STRANGERS)
    with node.client() as session:
        reply = relay_attempt(session)
        assert reply.code == 554 and reply.text.startswith("5.7.1")
        assert session.cmd("DATA").code in (503, 554)


@pytest.mark.parametrize("name", ["trusted.test", "198.51.100.1", "[198.51.100.1]", "smtp-cn.relay.test"])
def test_helo_name_gives_no_trust(world, name):
    node = world.node(config=STRANGERS)
    with node.client() as session:
        session.ehlo(name)
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 554


def test_no_open_relay_form_gets_through(world):
    mx = world.mx("dest.test")
    node = world.node(config=STRANGERS)
    for sender, rcpt in RELAY_FORMS:
        with node.client() as session:
            session.ehlo()
            session.cmd(f"MAIL FROM:{sender}")
            reply = session.cmd(f"RCPT TO:{rcpt}")
            assert 500 <= reply.code < 600, f"MAIL {sender} RCPT {rcpt}: {reply}"
            assert session.cmd("DATA").code in (503, 554)
    assert not mx.sessions and not node.queue()


def test_forged_origin_commands_give_no_trust(world):
    node = world.node(config=STRANGERS)
    with node.client() as session:
        session.ehlo()
        for command in ("XCLIENT ADDR=198.51.100.1", "XFORWARD ADDR=198.51.100.1"):
            assert session.cmd(command).code >= 500
        session.mail("a@src.test")
        for _ in range(3):
            assert session.rcpt("b@dest.test").code == 554
        session.cmd("RSET")
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 554


def test_proxy_header_on_a_listener_without_proxies_is_no_command(world):
    """Early talkers: data before the greeting is answered 554 and the session closed."""
    node = world.node(config=STRANGERS)
    with smtp.Client(node.address, node.port, greet=False,
                     first=b"PROXY TCP4 198.51.100.1 198.51.100.9 1000 25\r\n") as session:
        reply = session.reply()
        if reply.code == 220:  # the greeting was on its way already
            reply = session.reply()
        assert reply.code in (500, 502, 554), str(reply)
    assert not node.queue()


def proxy_v2(source, destination, port=1000):
    address = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", port, 25)
    return b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11" + struct.pack("!H", len(address)) + address


@pytest.mark.parametrize("header", [
    b"PROXY TCP4 198.51.100.1 198.51.100.9 1000 25\r\n", proxy_v2("198.51.100.1", "198.51.100.9")],
    ids=["v1", "v2"])
def test_proxy_that_the_listener_names_passes_the_real_client_on(world, header):
    mx = world.mx("dest.test")
    proxy, address = world.take(), world.take()
    node = world.node(address=address, config={
        **STRANGERS, "listeners": [{"address": f"{address}:2525",
                                    "proxy_protocol": [f"{proxy}/32"]}]})
    with smtp.Client(address, 2525, source=proxy, first=header) as session:
        session.ehlo()
        session.submit("a@src.test", "b@dest.test", mail.message())
    assert "198.51.100.1" in mail.received(mx.wait_mail().data)[0]
    # A proxied stranger stays one.
    with smtp.Client(address, 2525, source=proxy,
                     first=header.replace(b"198.51.100.1 ", b"203.0.113.5 ")
                     if header.startswith(b"PROXY") else proxy_v2("203.0.113.5", "198.51.100.9")) as s:
        assert relay_attempt(s).code == 554
    # Who is not the proxy may not talk here at all.
    with pytest.raises((smtp.Closed, OSError)):
        smtp.Client(address, 2525).cmd("EHLO x")
    node.wait_empty()


def test_trusted_network_is_exact(world):
    inside, outside = world.take(), world.take()
    mx = world.mx("dest.test")
    node = world.node(config={"trusted_clients": [{"cidr": f"{inside}/32"}]})
    node.submit("a@src.test", "b@dest.test", mail.message(), source=inside)
    mx.wait_mail()
    with node.client(source=outside) as session:
        assert relay_attempt(session).code == 554


def with_users(world, **config):
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(start=False)
    node.add_user("shop", "right password")
    node.write_config({"tls": {"certificate_file": certificate.cert_file,
                               "private_key_file": certificate.key_file},
                       "trusted_clients": [{"users_file": "users"}], **config})
    return node.start()


def test_auth_is_needed_and_works_with_plain_and_login(world):
    world.mx("dest.test")
    node = with_users(world)
    with node.client() as session:
        assert relay_attempt(session).code == 554
    with node.client() as session:
        session.ehlo()
        session.starttls()
        session.ehlo()
        reply = session.cmd("AUTH LOGIN")
        assert reply.code == 334
        assert session.cmd(base64.b64encode(b"shop")).code == 334
        assert session.cmd(base64.b64encode(b"right password")).code == 235
        session.submit("a@src.test", "b@dest.test", mail.message())


def test_auth_in_clear_is_refused(world):
    node = with_users(world)
    with node.client() as session:
        session.ehlo()
        assert session.auth_plain("shop", "right password").code in (502, 503, 504, 530, 538)
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 554


def test_failed_auths_are_logged_in_one_form_and_lock_the_address(world):
    node = with_users(world)
    stranger = world.take()
    texts = set()
    for user in ("shop", "nobody", "shop", "root", "shop"):
        with node.client(source=stranger) as session:
            session.ehlo()
            session.starttls()
            session.ehlo()
            reply = session.auth_plain(user, "Tr0ub4dor&3")
            assert reply.code == 535
            texts.add(reply.text)
    assert len(texts) == 1, "the answer must not tell whether the user exists"
    failures = node.log.wait(event="auth_failed", count=5) \
        if node.log.all(event="auth_failed") else \
        [e for e in node.log.all() if "auth" in e.get("event", "") and stranger in str(e)]
    assert len(failures) == 5
    assert len({tuple(sorted(f)) for f in failures}) == 1, "one fixed form"
    assert all("Tr0ub4dor&3" not in line for line in node.log.lines())
    with node.client(source=stranger, greet=False) as session:
        reply = session.reply()
        if reply.code == 220:
            session.ehlo()
            session.starttls()
            session.ehlo()
            reply = session.auth_plain("shop", "right password")
        assert reply.code == 421 and reply.text.startswith("4.7.0")
    # Nobody else is locked out.
    with node.client(source=world.take()) as session:
        session.ehlo()
        session.starttls()
        session.ehlo()
        assert session.auth_plain("shop", "right password").code == 235


def test_listener_that_requires_auth_refuses_even_trusted_addresses(world):
    address = world.take()
    node = with_users(world, listeners=[{"address": f"{address}:2525", "require_auth": True}],
                      trusted_clients=[{"users_file": "users"}, {"cidr": "127.0.0.0/8"}])
    with smtp.Client(address, 2525) as session:
        session.ehlo()
        reply = session.mail("a@src.test")
        if reply.code == 250:
            reply = session.rcpt("b@dest.test")
        assert reply.code in (530, 550, 554)
    assert not node.queue()


def test_client_certificate_gives_trust_by_its_fingerprint_or_key(world):
    mx = world.mx("dest.test")
    server = world.ca.issue("smtp-cn.relay.test")
    by_cert, by_key, other = (world.ca.issue(f"client{i}.test", client=True) for i in range(3))
    node = world.node(config={
        "tls": {"certificate_file": server.cert_file, "private_key_file": server.key_file},
        "trusted_clients": [{"client_certificate": by_cert.fingerprint},
                            {"client_certificate": by_key.spki}]})
    for certificate in (by_cert, by_key):
        with node.client() as session:
            session.ehlo()
            session.starttls(smtp.insecure_context(certificate))
            session.ehlo()
            session.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail(2)
    for certificate in (other, None):
        with node.client() as session:
            session.ehlo()
            session.starttls(smtp.insecure_context(certificate))
            assert relay_attempt(session).code == 554
