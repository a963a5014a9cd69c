"""The fixtures themselves: Postfix to Postfix, without relayd. When these fail, look here first."""

import base64
import socket

import dkim
import pytest
from dns import message, query as dnsquery, rcode

from rig import certs, dkimkeys, mail, smtp
from rig.logfmt import Log, parse
from rig.postfix import authentication_results
from rig.proc import run
from rig.remote import CLOSE


def signed(key, selector, message):
    """The message signed by dkimpy."""
    secret, algorithm = key.path.read_bytes(), b"rsa-sha256"
    if key.kind == "ed25519":  # dkimpy wants the bare seed, which ends the PKCS#8 structure
        der = base64.b64decode("".join(secret.decode().splitlines()[1:-1]))
        secret, algorithm = base64.b64encode(der[-32:]), b"ed25519-sha256"
    return dkim.sign(message, selector.encode(), b"src.test", secret,
                     signature_algorithm=algorithm) + message


def test_mail_goes_from_postfix_to_postfix_and_both_verifiers_agree(world):
    key = world.key("src.test", "cn")
    destination = world.postfix("mx.dest.test").as_destination("dest.test")
    destination.with_milter(world.verifier().milter).start()
    client = world.postfix("client.test").as_client(f"[{destination.address}]:25").start()
    message = signed(key, "cn", mail.message("a@src.test", "b@dest.test",
                                                    body="Zeile\r\n..dots\r\n.\r\n"))
    smtp_client = smtp.Client(client.address)
    smtp_client.ehlo()
    smtp_client.mail("a@src.test")
    smtp_client.rcpt("b@dest.test")
    assert smtp_client.data(message).code == 250
    smtp_client.quit()
    delivered = destination.wait_mail("b@dest.test")
    assert delivered.endswith(message)
    assert len(mail.received(delivered)) == 2
    dkimkeys.assert_signed(delivered, world.dns, ("src.test", "cn"))
    assert ("pass", "src.test", "cn") in authentication_results(delivered)


def test_ed25519_signature_is_verified_and_a_changed_body_is_not(world):
    key = world.key("src.test", "ed", "ed25519")
    message = signed(key, "ed", mail.message())
    assert dkimkeys.verify(message, world.dns)[0].valid
    assert not dkimkeys.verify(message + b"more\r\n", world.dns)[0].valid


def test_transport_map_and_tls_between_postfixes(world):
    certificate = world.ca.issue("mx.dest.test")
    destination = world.postfix("mx.dest.test").as_destination("dest.test", maildir=False)
    destination.with_tls(certificate, "encrypt").start()
    client = world.postfix("client.test").as_client(
        transport={"dest.test": f"smtp:[{destination.address}]:25", "*": "error:no other"})
    client.sends_with_tls("encrypt", world.ca.file).start()
    message = mail.message()
    with smtp.Client(client.address) as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        assert session.data(message).code == 250
    delivered = destination.wait_mail("b@dest.test")
    assert delivered.endswith(message)
    assert "TLS" in delivered.decode().split("Received:")[1]


def test_policy_answers_at_each_stage_a_given_number_of_times(world):
    destination = world.postfix("mx.dest.test").as_destination("dest.test").start()
    destination.access("connect", "554 5.7.1 not you", times=1)
    with smtp.Client(destination.address) as session:
        assert session.greeting.code == 220
        # Postfix sends its greeting and refuses everything after a refused connection.
        assert session.cmd("EHLO x.test").code in (250, 554)
    destination.access("rcpt", "451 4.3.0 later", times=1, match="b@dest")
    destination.access("dot", "550 5.7.1 no such content", times=1)
    with smtp.Client(destination.address) as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 451
        assert session.rcpt("c@dest.test").code == 250
        assert session.rcpt("b@dest.test").code == 250
        assert session.data(mail.message()).code == 550


def test_remote_records_mails_and_misbehaves_as_told(world):
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"), auth={"u": "p"})
    mx.answer("rcpt", "550 5.1.1 unknown\nsecond line", match="no@", times=1)
    mx.answer("dot", CLOSE, times=1)
    with smtp.Client(mx.address) as session:
        assert "STARTTLS" in session.ehlo()
        assert session.starttls().code == 220
        assert "AUTH" in session.ehlo()
        assert session.auth_plain("u", "wrong").code == 535
        assert session.auth_plain("u", "p").code == 235
        session.mail("a@src.test", "SIZE=100")
        assert session.rcpt("no@dest.test").lines == ["5.1.1 unknown", "second line"]
        session.rcpt("b@dest.test", "NOTIFY=NEVER")
        with pytest.raises(smtp.Closed):
            session.data(mail.message())
    with smtp.Client(mx.address) as session:
        session.ehlo()
        session.mail("a@src.test", "SIZE=100")
        session.rcpt("b@dest.test", "NOTIFY=NEVER")
        assert session.data(b"Subject: x\r\n\r\n.dot\r\n").code == 250
    got = mx.wait_mail()
    assert (got.sender, got.params, got.rcpts) == ("a@src.test", "SIZE=100", ["b@dest.test"])
    assert got.rcpt_params == {"b@dest.test": "NOTIFY=NEVER"}
    assert got.data == b"Subject: x\r\n\r\n.dot\r\n"
    mx.stop()
    with pytest.raises(OSError):
        smtp.Client(mx.address, timeout=2)
    mx.start()
    smtp.Client(mx.address).quit()


def test_dns_serves_every_kind_of_answer(world):
    dns = world.dns
    with dns:
        dns.mx("dest.test", "mx1.dest.test", (10, "mx2.dest.test"))
        dns.null_mx("null.test")
        dns.cname("alias.test", "dest.test")
        dns.txt("k._domainkey.src.test", "p=" + "A" * 400)

    def ask(name, kind):
        query = message.make_query(name, kind)
        answer = dnsquery.udp(query, dns.address, timeout=5)
        return rcode.to_text(answer.rcode()), " ".join(str(r) for r in answer.answer)

    assert "10 mx1.dest.test." in ask("dest.test", "MX")[1]
    assert "0 ." in ask("null.test", "MX")[1]
    assert "dest.test." in ask("alias.test", "MX")[1]
    assert ask("nothing.test", "MX") == ("NXDOMAIN", "")
    assert ask("x.broken.test", "MX") == ("SERVFAIL", "")
    dns.remove("dest.test")
    assert ask("dest.test", "MX")[0] == "NXDOMAIN"


def test_certificates_verify_by_name_and_by_fingerprint(world):
    good, expired = world.ca.issue("mx.test", "127.0.0.1"), world.ca.issue("mx.test", days=-1)
    assert "OK" in run("openssl", "verify", "-CAfile", world.ca.file, good.cert_file).stdout
    assert run("openssl", "verify", "-CAfile", world.ca.file, expired.cert_file,
               check=False).returncode != 0
    assert good.fingerprint.startswith("SHA256:") and len(good.fingerprint) == 7 + 64
    assert good.spki != certs.spki(expired.cert_file)


def test_logfmt_lines_are_parsed_with_their_escapes():
    assert parse('time=1 event=attempt text="550 \\"no\\"\\n \\x1b" empty="" peer=[::1]:25') == {
        "time": "1", "event": "attempt", "text": '550 "no"\n \x1b', "empty": "",
        "peer": "[::1]:25"}
    assert parse("==123==ERROR: AddressSanitizer: heap") == {}


def test_log_is_searched_from_a_mark_on_and_forgets(tmp_path):
    path = tmp_path / "log"
    log = Log(path)
    assert log.all() == []
    path.write_text('event=a text="x y"\nnot ours\nevent=b rcpt=x@y.test\nevent=b')
    assert [e["event"] for e in log.all()] == ["a", "b"]
    assert log.all(text="x y") and log.all(rcpt=lambda r: "@" in r) and not log.all(rcpt="x@y")
    mark = log.mark()
    with open(path, "a") as f:
        f.write(' text="a\\"b"\n')
    assert log.all(since=mark) == [{"event": "b", "text": 'a"b'}] == log.all(text='a"b')
    assert len(log.wait(count=2, event="b")) == 2
    log.forget()
    assert log.all() == [] and log.mark() == mark + 1


def test_two_worlds_never_share_an_address(world):
    from rig.world import World
    other = World()
    try:
        assert other.net.prefix != world.net.prefix
        with pytest.raises(OSError):
            socket.create_server((world.net.prefix + ".1", 7))
    finally:
        other.close()
