"""D02: what does give trust: AUTH in TLS, a client certificate, a proxy that the listener names."""

import base64
import socket
import struct

import pytest

from rig import mail, smtp

pytestmark = pytest.mark.torture

STRANGERS = {"trusted_clients": [{"cidr": "198.51.100.0/24"}]}


def relay_attempt(session, sender="a@src.test", rcpt="b@dest.test"):
    session.ehlo()
    session.mail(sender)
    return session.rcpt(rcpt)


def proxy_v2(source, destination, port=1000):
    address = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", port, 25)
    return b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11" + struct.pack("!H", len(address)) + address


@pytest.mark.parametrize("header", [
    b"PROXY TCP4 198.51.100.1 198.51.100.9 1000 25\r\n", proxy_v2("198.51.100.1", "198.51.100.9")],
    ids=["v1", "v2"])
def test_d02_proxy_that_the_listener_names_passes_the_real_client_on(world, promise, header):
    promise("D02", "a proxy that the listener names passes the real client on, and strangers stay strangers").case()
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


def with_users(world, **config):
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(start=False)
    node.add_user("shop", "right password")
    node.write_config({"tls": {"certificate_file": certificate.cert_file,
                               "private_key_file": certificate.key_file},
                       "trusted_clients": [{"users_file": "users"}], **config})
    return node.start()


def test_d02_auth_is_needed_and_works_with_plain_and_login(world, promise):
    promise("D02", "AUTH in TLS is needed, and opens the door").case()
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


def test_d02_failed_auths_are_logged_in_one_form_and_lock_the_address(world, promise):
    promise("D02", "five wrong passwords shut the address out, and nobody else").case()
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


def test_d02_client_certificate_gives_trust_by_its_fingerprint_or_key(world, promise):
    promise("D02", "a certificate is trusted by its fingerprint or key, never by its name or CA").case()
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
