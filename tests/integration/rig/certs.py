"""Certificates, made by the openssl command line."""

import hashlib
import pathlib
import re
import subprocess

from rig.proc import run


def fingerprint(cert_file):
    """SHA256:<hex> of the certificate, as the configuration takes it."""
    der = subprocess.run(["openssl", "x509", "-in", str(cert_file), "-outform", "DER"],
                         check=True, capture_output=True).stdout
    return "SHA256:" + hashlib.sha256(der).hexdigest()


def spki(cert_file):
    """SPKI:<hex> of the certificate's public key, as the configuration takes it."""
    pem = subprocess.run(["openssl", "x509", "-in", str(cert_file), "-noout", "-pubkey"],
                         check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, check=True,
                         capture_output=True).stdout
    return "SPKI:" + hashlib.sha256(der).hexdigest()


class Certificate:
    """A certificate file (with its chain) and its key file."""

    def __init__(self, cert_file, key_file):
        self.cert_file, self.key_file = str(cert_file), str(key_file)

    @property
    def fingerprint(self):
        return fingerprint(self.cert_file)

    @property
    def spki(self):
        return spki(self.cert_file)


class Authority:
    """A CA of its own: `file` is what the other side is told to trust."""

    def __init__(self, directory, name="Test CA"):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.file, self._key = str(self.dir / "ca.pem"), str(self.dir / "ca.key")
        self._n = 0
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "30", "-subj", f"/CN={name}", "-keyout", self._key,
            "-out", self.file, "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, *names, days=30, client=False):
        """A certificate for host names and IP addresses (the first is the subject).

        days < 0 makes one that has expired.
        """
        self._n += 1
        stem = self.dir / f"{self._n}-{re.sub('[^a-z0-9.-]', '_', names[0])}"
        key, csr, cert, ext = (f"{stem}.{e}" for e in ("key", "csr", "pem", "ext"))
        alt = ",".join(("IP:" if re.fullmatch(r"[0-9.]+|.*:.*", n) else "DNS:") + n for n in names)
        pathlib.Path(ext).write_text(
            f"subjectAltName={alt}\nbasicConstraints=CA:FALSE\n"
            f"extendedKeyUsage={'clientAuth' if client else 'serverAuth'}\n")
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", f"/CN={names[0]}", "-keyout", key, "-out", csr)
        run("openssl", "x509", "-req", "-in", csr, "-CA", self.file, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", ext, "-out", cert)
        pathlib.Path(key).chmod(0o600)
        with open(cert, "a") as out, open(self.file) as ca:
            out.write(ca.read())
        return Certificate(cert, key)
