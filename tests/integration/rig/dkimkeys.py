"""DKIM keys for the nodes and the verification of what they signed.

Two verifiers that know nothing of relayd: dkimpy here, opendkim as a milter in rig.postfix.
"""

import base64
import collections
import pathlib
import subprocess

import dkim

Signature = collections.namedtuple("Signature", "domain selector algorithm fields valid reason")


class Key:
    """A private key file (mode 0600) and the TXT record of its public half."""

    def __init__(self, path, kind="rsa", bits=2048):
        self.path, self.kind = pathlib.Path(path), kind
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = ["-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}"] if kind == "rsa" \
            else ["-algorithm", "ED25519"]
        subprocess.run(["openssl", "genpkey", *options, "-out", str(path)], check=True,
                       capture_output=True)
        self.path.chmod(0o600)
        der = subprocess.run(["openssl", "pkey", "-in", str(path), "-pubout", "-outform", "DER"],
                             check=True, capture_output=True).stdout
        public = der if kind == "rsa" else der[-32:]  # RFC 8463: the bare 32 octets
        self.record = f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"

    def publish(self, dns, domain, selector):
        dns.txt(f"{selector}._domainkey.{domain}", self.record)
        return self


def verify(message, dns):
    """Every DKIM-Signature of a message, top first, each with its verdict."""
    def lookup(name, timeout=5):
        name = (name if isinstance(name, str) else name.decode()).rstrip(".")
        texts = dns.find(name, "TXT")
        return texts[0].encode() if texts else None

    found = []
    count = sum(1 for name, _ in dkim.rfc822_parse(message)[0]
                if name.lower() == b"dkim-signature")
    for i in range(count):
        checker, valid, reason = dkim.DKIM(message), False, ""
        try:
            valid = checker.verify(idx=i, dnsfunc=lookup)
        except dkim.DKIMException as e:
            reason = str(e)
        tags = checker.signature_fields or {}

        def tag(name):
            return tags.get(name, b"").decode()

        names = [f.strip().lower() for f in tag(b"h").split(":")]
        found.append(Signature(tag(b"d"), tag(b"s"), tag(b"a"), names, valid, reason))
    return found


def assert_signed(message, dns, *expected):
    """Every signature is valid, and those of (domain, selector) in expected are among them."""
    signatures = verify(message, dns)
    bad = [s for s in signatures if not s.valid]
    assert not bad, f"invalid signatures: {bad}"
    have = [(s.domain, s.selector) for s in signatures]
    for pair in expected:
        assert pair in have, f"no signature of {pair}, only {have}"
    return signatures
