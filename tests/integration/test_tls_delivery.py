"""TLS towards MXs and hops: opportunistic, required, verified, pinned; never silently in clear."""

import hashlib
import ssl

import pytest

from rig import certs, mail, smtp
from rig.certs import Authority
from rig.remote import CLOSE

PATIENT = {"queue": {"retry": {"intervals": ["1h"]}}}


def by_hop(world, certificate=None, level="verify", hostname="hop.test", **options):
    """A node that sends everything through a scripted hop with this TLS level."""
    entry = options.pop("entry", {})
    hop = world.remote(hostname, certificate=certificate, **options)
    node = world.node(config={**PATIENT, "hops": {"out": {
        "address": f"{hostname}:{hop.port}", "tls": level, **entry}},
        "transport_map": [{"default": True, "route": "out"}]})
    return hop, node


def first_attempt(node, rcpt="b@dest.test"):
    ident = node.submit("a@src.test", rcpt, mail.message())
    return node.log.wait(event="attempt", msg=ident)


def test_opportunistic_uses_tls_when_offered_without_verifying(world):
    mx = world.mx("dest.test", certificate=world.ca.issue("some-other-name.test"))
    line = first_attempt(world.node())
    assert line["outcome"] == "delivered" and mx.mails[0].tls
    assert line["tls"].split()[0] == mx.mails[0].tls[0]


def test_opportunistic_goes_in_clear_when_not_offered(world):
    mx = world.mx("dest.test")
    line = first_attempt(world.node())
    assert line["outcome"] == "delivered" and mx.mails[0].tls is None


def test_failed_handshake_is_repeated_once_in_clear_and_remembered(world):
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))

    def broken(session):
        session.send("220 2.0.0 go\r\nthis is no TLS\r\n")
        session.finish(CLOSE)
        raise OSError("script ended the session")

    mx.answer("starttls", broken)
    node = world.node(config={"shaping": {"default": {"max_messages_per_connection": 1}}})
    assert first_attempt(node)["outcome"] == "delivered"
    assert mx.wait_mail().tls is None
    tried = len([c for c in mx.commands() if c.upper() == "STARTTLS"])
    assert tried == 1
    assert first_attempt(node)["outcome"] == "delivered"
    assert len([c for c in mx.commands() if c.upper() == "STARTTLS"]) == tried, "not remembered"


def test_starttls_refused_with_454_goes_in_clear_when_opportunistic(world):
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))
    mx.answer("starttls", "454 4.7.0 TLS not available")
    assert first_attempt(world.node())["outcome"] == "delivered"
    assert mx.wait_mail().tls is None


def test_verified_hop_is_accepted_by_ca_and_name(world):
    hop, node = by_hop(world, world.ca.issue("hop.test"), entry={"ca_file": world.ca.file})
    assert first_attempt(node)["outcome"] == "delivered" and hop.mails[0].tls


def refused(node, hop):
    """Deferred because of TLS, and nothing of the message was shown in clear."""
    line = first_attempt(node)
    assert line["outcome"] == "deferred" and line["phase"] in ("starttls", "tls", "connect")
    assert not hop.mails
    assert not [c for c in hop.commands() if c.upper().startswith(("MAIL", "AUTH"))]
    return line


def test_verify_refuses_another_name(world):
    hop, node = by_hop(world, world.ca.issue("other.test"), entry={"ca_file": world.ca.file})
    refused(node, hop)


def test_verify_refuses_an_unknown_ca(world):
    stranger = Authority(world.dir / "ca2", "Somebody Else")
    hop, node = by_hop(world, stranger.issue("hop.test"), entry={"ca_file": world.ca.file})
    refused(node, hop)


def test_verify_refuses_an_expired_certificate(world):
    hop, node = by_hop(world, world.ca.issue("hop.test", days=-1),
                       entry={"ca_file": world.ca.file})
    refused(node, hop)


@pytest.mark.parametrize("level", ["require", "verify"])
def test_stripped_starttls_defers_and_shows_nothing(world, level):
    hop, node = by_hop(world, None, level)
    refused(node, hop)


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "502 5.5.1 no", "354 what", CLOSE],
                         ids=["454", "502", "354", "close"])
def test_refused_starttls_defers_under_verify(world, reply):
    hop, node = by_hop(world, world.ca.issue("hop.test"), entry={"ca_file": world.ca.file})
    hop.answer("starttls", reply)
    refused(node, hop)


def test_require_takes_any_certificate(world):
    hop, node = by_hop(world, world.ca.issue("whatever.test"), "require")
    assert first_attempt(node)["outcome"] == "delivered" and hop.mails[0].tls


@pytest.mark.parametrize("kind", ["certificate", "key"])
def test_pinned_hop_needs_no_ca(world, kind):
    certificate = world.ca.issue("some.name.test")
    pin = certificate.fingerprint if kind == "certificate" else certs.spki(certificate.cert_file)
    hop, node = by_hop(world, certificate, entry={"fingerprint": pin})
    assert first_attempt(node)["outcome"] == "delivered" and hop.mails[0].tls


def test_another_certificate_than_the_pinned_one_is_refused(world):
    pin = world.ca.issue("hop.test").fingerprint
    hop, node = by_hop(world, world.ca.issue("hop.test"), entry={"fingerprint": pin})
    refused(node, hop)


def test_tls_1_0_is_refused_by_a_hop(world):
    hop, node = by_hop(world, world.ca.issue("hop.test"), entry={"ca_file": world.ca.file})
    hop._context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    hop._context.maximum_version = ssl.TLSVersion.TLSv1_1
    hop._context.set_ciphers("ALL:@SECLEVEL=0")
    refused(node, hop)


def test_rule_with_tls_verify_checks_the_mx_and_never_goes_in_clear(world):
    mx = world.mx("bank.test")
    node = world.node(config={**PATIENT, "direct": {"ca_file": world.ca.file}, "transport_map": [
        {"domains": ["bank.test"], "route": "direct", "tls": "verify"},
        {"default": True, "route": "direct"}]})
    refused_line = first_attempt(node, "b@bank.test")
    assert refused_line["outcome"] == "deferred" and not mx.mails
    good = world.mx("good.test", certificate=world.ca.issue("mx.good.test"))
    node.reload({"transport_map": [{"default": True, "route": "direct", "tls": "verify"}]})
    assert first_attempt(node, "b@good.test")["outcome"] == "delivered" and good.mails[0].tls


def test_client_certificate_is_shown_to_the_hop(world):
    ours = world.ca.issue("cn.test", client=True)
    hop, node = by_hop(world, world.ca.issue("hop.test"), client_ca=world.ca.file, entry={
        "ca_file": world.ca.file, "certificate_file": ours.cert_file,
        "private_key_file": ours.key_file})
    seen = []

    def look(session):
        seen.append(session.socket.getpeercert())
        return "250 2.1.5 ok"

    hop.answer("rcpt", look)
    assert first_attempt(node)["outcome"] == "delivered"
    assert ("commonName", "cn.test") in [pair[0] for pair in seen[0]["subject"]]


def test_text_injected_before_the_handshake_is_not_believed(world):
    """The response injection of the NO STARTTLS paper."""
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))

    def inject(session):
        session.send("220 2.0.0 go\r\n250-mx.dest.test\r\n250 SIZE 1\r\n")
        try:
            mx._handshake(session)
        except OSError:
            session.finish(CLOSE)
        session._input = b""

    mx.answer("starttls", inject, times=1)
    line = first_attempt(world.node())
    # Closed and sent again in clear or in proper TLS, or dropped; never believed (SIZE 1 would
    # have failed the message).
    assert line["outcome"] in ("delivered", "deferred")


def test_auth_is_never_sent_in_clear(world):
    secret = world.dir / "secret"
    secret.write_text("password\n")
    secret.chmod(0o600)
    hop, node = by_hop(world, None, "opportunistic", entry={
        "auth": {"username": "cn", "password_file": str(secret)}})
    hop.extensions.append("AUTH PLAIN LOGIN")
    first_attempt(node)
    assert not [c for c in hop.commands() if c.upper().startswith("AUTH")]


def test_our_server_refuses_tls_below_1_2_and_forgets_what_came_before(world):
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(config={"tls": {"certificate_file": certificate.cert_file,
                                      "private_key_file": certificate.key_file}})
    old = smtp.insecure_context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with node.client() as session:
        session.ehlo()
        with pytest.raises((ssl.SSLError, OSError)):
            session.starttls(old)
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        if session.starttls().code != 220:  # refused in mid-transaction: then without
            session.cmd("RSET")
            assert session.starttls().code == 220
        assert session.rcpt("b@dest.test").code == 503, "MAIL from before STARTTLS still counts"
        assert session.mail("a@src.test").code == 503, "EHLO from before STARTTLS still counts"
        assert "STARTTLS" not in session.ehlo()
        assert session.cmd("STARTTLS").code in (502, 503, 554)


def test_commands_pipelined_behind_starttls_close_the_session(world):
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(config={"tls": {"certificate_file": certificate.cert_file,
                                      "private_key_file": certificate.key_file}})
    with node.client() as session:
        session.ehlo()
        session.send("STARTTLS\r\nMAIL FROM:<evil@src.test>\r\n")
        reply = session.reply()
        assert reply.code == 501 and reply.text.startswith("5.5.4")
        assert session.closed()


def test_certificate_is_replaced_at_reload_and_a_bad_one_is_not(world):
    node = world.node(start=False)
    first, second = world.ca.issue("smtp-cn.relay.test"), world.ca.issue("smtp-cn.relay.test")
    node.file("cert.pem", open(first.cert_file).read())
    node.file("key.pem", open(first.key_file).read())
    node.write_config({"tls": {"certificate_file": "cert.pem", "private_key_file": "key.pem"}})
    node.start()

    def shown():
        with node.client() as session:
            session.ehlo()
            session.starttls()
            der = session.socket.getpeercert(binary_form=True)
        return "SHA256:" + hashlib.sha256(der).hexdigest()

    assert shown() == first.fingerprint
    node.file("cert.pem", open(second.cert_file).read())
    node.file("key.pem", open(second.key_file).read())
    node.reload()
    assert shown() == second.fingerprint
    node.file("key.pem", open(first.key_file).read())
    node.reload()
    assert shown() == second.fingerprint, "a key that does not fit must not be taken"
