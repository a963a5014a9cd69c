"""DKIM keys: made, published, checked, matched to mail, and what happens when one fails."""

import os
import re

import pytest

from rig import dkimkeys, mail
from rig.node import binary
from rig.proc import run


def keygen(directory, *options):
    """relayctl dkim keygen in a directory; (output, files made)."""
    before = set(os.listdir(directory))
    old = os.getcwd()
    os.chdir(directory)
    try:
        done = run(binary("relayctl"), "dkim", "keygen", *options)
    finally:
        os.chdir(old)
    return done.stdout, sorted(set(os.listdir(directory)) - before)


def record_of(output):
    """The TXT value out of the DNS record that keygen prints."""
    return "".join(re.findall(r'"([^"]*)"', output))


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_generated_key_signs_and_its_printed_record_verifies(world, kind):
    node = world.node(start=False)
    output, files = keygen(node.dir, "--domain", "src.test", "--selector", "s1", "--type", kind)
    assert "s1._domainkey.src.test" in output
    assert len(files) == 1
    assert os.stat(node.dir / files[0]).st_mode & 0o777 == 0o600
    for chunk in re.findall(r'"([^"]*)"', output):
        assert len(chunk) <= 255
    world.dns.txt("s1._domainkey.src.test", record_of(output))
    mx = world.mx("dest.test")
    node.write_config({"dkim": [{"domains": ["src.test"], "key_file": files[0],
                                 "selector": "s1"}]})
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    signatures = dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "s1"))
    assert signatures[0].algorithm == f"{kind}-sha256"


def signer(world, entries, **config):
    mx = world.mx("dest.test")
    return world.node(config={"dkim": entries, **config}), mx


def test_both_algorithms_side_by_side(world):
    rsa, ed = world.key("src.test", "r"), world.key("src.test", "e", "ed25519")
    node, mx = signer(world, [
        {"domains": ["src.test"], "key_file": str(rsa.path), "selector": "r"},
        {"domains": ["src.test"], "key_file": str(ed.path), "selector": "e"}])
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "r"), ("src.test", "e"))


def test_entry_is_chosen_by_the_from_header_and_not_by_the_envelope(world):
    key = world.key("src.test", "cn")
    node, mx = signer(world, [{"domains": ["src.test", "*.src.test"], "key_file": str(key.path)}])
    node.submit("bounces@elsewhere.test", "one@dest.test", mail.message("Boss <a@SRC.test>"))
    node.submit("a@src.test", "two@dest.test", mail.message("a@elsewhere.test"))
    node.submit("a@src.test", "three@dest.test", mail.message("a@deep.sub.src.test"))
    mx.wait_mail(3)
    data = {m.rcpts[0].split("@")[0]: m.data for m in mx.mails}
    dkimkeys.assert_signed(data["one"], world.dns, ("src.test", "cn"))
    assert not dkimkeys.verify(data["two"], world.dns)
    dkimkeys.assert_signed(data["three"], world.dns, ("src.test", "cn"))


def test_d_of_an_exact_name_is_that_name_and_may_be_set(world):
    key = world.key("sub.src.test", "cn")
    world.dns.txt("cn._domainkey.org.test", key.record)
    node, mx = signer(world, [
        {"domains": ["sub.src.test"], "key_file": str(key.path)},
        {"domains": ["sub.src.test"], "key_file": str(key.path), "domain": "org.test"}])
    node.submit("a@sub.src.test", "b@dest.test", mail.message("a@sub.src.test"))
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("sub.src.test", "cn"),
                           ("org.test", "cn"))


HEADERS = [
    ["Subject: =?utf-8?B?5Lit5paH?=", "X-Folded: one\r\n two\r\n\tthree"],
    ["To: " + ",\r\n ".join(f"user{i}@dest.test" for i in range(200))],
    ["Cc: c@dest.test", "Cc: d@dest.test"],
    ["X-Blank:", "X-Trailing: blanks   "],
    ["MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=b",
     "Content-Transfer-Encoding: 8bit"],
    ["subJECT: odd case", "X-a: short name"],
]
BODIES = [b"", b"\r\n", b"\r\n\r\n\r\n", b"no end of line", b"  leading\r\n\ttabs \t \r\n\r\n",
          b"x" * 998 + b"\r\n", ("\u4e2d\u6587" * 300 + "\r\n").encode(), b".\r\n..\r\n", b" \r\n"]


def test_every_shape_of_message_verifies_with_dkimpy(world):
    keys = [world.key("src.test", "r"), world.key("src.test", "e", "ed25519")]
    node, mx = signer(world, [{"domains": ["src.test"], "key_file": str(k.path), "selector": s}
                              for k, s in zip(keys, "re")])
    cases = [(h, b"body\r\n") for h in HEADERS] + [((), b) for b in BODIES]
    with node.client() as session:
        session.ehlo()
        for headers, body in cases:
            session.submit("a@src.test", "b@dest.test", mail.message(headers=headers, body=body),
                           params="BODY=8BITMIME")
    for got in mx.wait_mail(len(cases)):
        assert len(dkimkeys.assert_signed(got.data, world.dns)) == 2, got.data


def test_message_with_two_from_fields_goes_unsigned_or_valid_never_wrong(world):
    key = world.key("src.test", "cn")
    node, mx = signer(world, [{"domains": ["src.test"], "key_file": str(key.path)}])
    node.submit("a@src.test", "b@dest.test",
                mail.message(headers=["From: other@elsewhere.test"]))
    got = mx.wait_mail()
    assert all(s.valid for s in dkimkeys.verify(got.data, world.dns))


@pytest.mark.parametrize("newline", [b"\n", b"\r"], ids=["lf", "cr"])
def test_bare_newlines_are_normalised_before_signing(world, newline):
    key = world.key("src.test", "cn")
    node, mx = signer(world, [{"domains": ["src.test"], "key_file": str(key.path)}])
    node.submit("a@src.test", "b@dest.test", mail.message(body=b"one" + newline + b"two\r\n"))
    data = mx.wait_mail().data
    assert not re.search(rb"[^\r]\n|\r[^\n]", data)
    dkimkeys.assert_signed(data, world.dns, ("src.test", "cn"))


def test_bare_newlines_are_refused_when_the_listener_says_so(world):
    address = world.take()
    node = world.node(address=address, config={"listeners": [
        {"address": f"{address}:2525", "bare_newline": "reject"}]})
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        reply = session.data(mail.message(body=b"one\ntwo\r\n"))
        assert reply.code == 550 and reply.text.startswith("5.5.2")
        assert session.cmd("NOOP").code == 250


def test_line_over_998_octets_is_broken_before_signing(world):
    key = world.key("src.test", "cn")
    node, mx = signer(world, [{"domains": ["src.test"], "key_file": str(key.path)}])
    node.submit("a@src.test", "b@dest.test", mail.message(body=b"y" * 5000 + b"\r\n"))
    data = mx.wait_mail().data
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    assert re.sub(rb"\r\n ", b"", data).count(b"y") >= 5000
    dkimkeys.assert_signed(data, world.dns, ("src.test", "cn"))


def test_broken_key_is_a_configuration_error(world):
    node = world.node(start=False)
    node.file("broken.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    node.write_config({"dkim": [{"domains": ["src.test"], "key_file": "broken.pem"}]})
    done = run(binary("relayd"), "-c", node.config_file, "--check", check=False)
    assert done.returncode == 78 and "broken.pem" in done.stdout + done.stderr


def test_key_check_compares_with_dns(world):
    key = world.key("src.test", "cn")
    other = dkimkeys.Key(world.dir / "keys" / "other.pem")
    node, _ = signer(world, [{"domains": ["src.test"], "key_file": str(key.path)}])

    def dkim_check():
        return run(binary("relayctl"), "-c", node.config_file, "dkim", "check", check=False)

    assert dkim_check().returncode == 0, dkim_check()
    with world.dns:
        world.dns.remove("cn._domainkey.src.test")
        world.dns.txt("cn._domainkey.src.test", other.record)
    done = dkim_check()
    assert done.returncode != 0 and "cn._domainkey.src.test" in done.stdout + done.stderr
    world.dns.remove("cn._domainkey.src.test")
    assert dkim_check().returncode != 0
