"""TLS that comes in: renegotiation, half handshakes, certificates replaced under load, tickets."""

import hashlib
import pathlib
import ssl
import subprocess
import threading
import time

import pytest

from rig import smtp
from rig.node import sanitized
from rig.proc import rss_kib
from rig.promise import LONG, size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

HALF_KIB = 64  # of a handshake that has begun: an SSL with its first messages


def with_certificate(world, certificate, **config):
    node = world.node(start=False, config=config)
    put(node, certificate)
    node.write_config({"tls": {"certificate_file": "cert.pem", "private_key_file": "key.pem"}})
    return node.start()


def put(node, certificate, key=None):
    """Replace the node's files, as an ACME client does; key: of another certificate, or bytes."""
    node.file("cert.pem", pathlib.Path(certificate.cert_file).read_bytes())
    node.file("key.pem", key if isinstance(key, bytes)
              else pathlib.Path((key or certificate).key_file).read_bytes())


def test_f06_renegotiation_is_refused(world, promise):
    promise("F06", "a client cannot renegotiate")
    node = with_certificate(world, world.ca.issue("smtp-cn.relay.test"))
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{node.address}:{node.port}", "-starttls", "smtp",
         "-tls1_2"], input=b"R\n", capture_output=True, timeout=20 * PATIENCE)
    said = done.stdout + done.stderr
    assert b"RENEGOTIATING" in said and b"no renegotiation" in said, said[-500:]
    promise.case()
    with node.client() as session:
        session.ehlo()
        assert session.starttls().code == 220


def test_f06_half_handshakes_are_bounded_and_others_are_served(world, promise):
    promise("F06", "thousands of half handshakes: bounded memory, others are answered")
    n = size(300, 5000)
    node = with_certificate(world, world.ca.issue("smtp-cn.relay.test"), limits={
        "sessions": n + 200, "sessions_per_client": n + 200})
    hello = bytes.fromhex("16030100f4010000f00303")
    before, held = rss_kib(node.pid), []
    try:
        for i in range(n):
            session = node.client()
            session.send(b"EHLO half.test\r\n")
            session.reply()
            assert session.cmd("STARTTLS").code == 220
            if i % 2:
                session.send(hello)
            held.append(session)
            promise.case()
        grown = (rss_kib(node.pid) - before) / n
        assert sanitized() or grown < HALF_KIB, f"{grown:.1f} KiB for each half handshake"
        took = []
        for _ in range(10):
            begun = time.monotonic()
            with node.client() as session:
                session.ehlo()
                assert session.starttls().code == 220
                session.ehlo()
            took.append(time.monotonic() - begun)
        assert sorted(took)[5] < 0.2 * PATIENCE, f"others wait {took}"
        if LONG:  # a minute for a handshake
            until(lambda: node.ctl_json("status")["sessions"]["in"] == 0, 90, "them to be cut",
                  every=1)
    finally:
        for session in held:
            session.close()
    until(lambda: node.ctl_json("status")["sessions"]["in"] == 0, what="the sessions to be gone")


class Handshakes:
    """Clients that handshake again and again; what fails is kept."""

    def __init__(self, node, threads=3):
        self.node, self.failed, self.done, self.shown = node, [], 0, set()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stop.is_set():
            try:
                with self.node.client() as session:
                    session.ehlo()
                    assert session.starttls().code == 220
                    der = session.socket.getpeercert(binary_form=True)
                    session.ehlo()
                    session.quit()
                with self._lock:
                    self.done += 1
                    self.shown.add("SHA256:" + hashlib.sha256(der).hexdigest())
            except Exception as e:  # whatever it is, it is a failure
                self.failed.append(repr(e))

    def more(self, n=5):
        before = self.done
        until(lambda: self.failed or self.done >= before + n, what="handshakes")

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.failed, self.failed[:3]


def test_f08_certificates_are_replaced_under_load_and_bad_ones_are_not(world, promise):
    promise("F08", "certificates are replaced under load: no handshake fails, bad files are refused")
    certificates = [world.ca.issue("smtp-cn.relay.test") for _ in range(3)]
    node = with_certificate(world, certificates[0])
    load = Handshakes(node)
    load.more()
    current = certificates[0]
    bad = {
        "another's key": lambda other: put(node, other, key=current),
        "another's certificate": lambda other: put(node, current, key=other),
        "no key": lambda other: (put(node, other), (node.dir / "key.pem").unlink()),
        "no certificate": lambda other: (put(node, other), (node.dir / "cert.pem").unlink()),
        "an empty key": lambda other: put(node, other, key=b""),
        "half a key": lambda other: put(
            node, other, key=pathlib.Path(other.key_file).read_bytes()[:80]),
        "no PEM": lambda other: (put(node, other), node.file("cert.pem", b"\0nothing\n" * 50)),
        "a key for all to read": lambda other: (put(node, other),
                                                (node.dir / "key.pem").chmod(0o644)),
    }
    for i in range(size(1, 20)):
        for name, spoil in bad.items():
            mark, other = node.log.mark(), certificates[(i + 1) % 3]
            spoil(other)
            node.reload()
            node.log.wait(since=mark, event="config", level="error")
            load.shown.clear()
            load.more(4)
            assert load.shown == {current.fingerprint}, f"{name}: another one is shown"
            promise.case()
        current = certificates[(i + 1) % 3]
        put(node, current)
        node.reload()
        load.more(4)
        load.shown.clear()
        load.more(4)
        assert load.shown == {current.fingerprint}, "the good one was not taken"
        promise.case()
    load.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_f11_tickets_of_one_listener_are_worth_nothing_at_another(world, promise, version):
    promise("F11", "a session ticket is good at the listener that gave it only, and for its client")
    certificate = world.ca.issue("smtp-cn.relay.test")
    ours = world.ca.issue("ours.test", client=True)
    second = world.take()
    node = world.node(config={
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "trusted_clients": [{"client_certificate": ours.fingerprint}]}, start=False)
    node.write_config({"listeners": [{"address": f"{node.address}:{node.port}"},
                                     {"address": f"{second}:2525"}]})
    node.start()
    world.mx("dest.test")

    def visit(address, context, session=None):
        """(session resumed?, RCPT reply, the session to resume)"""
        with smtp.Client(address, node.port) as client:
            client.ehlo()
            assert client.cmd("STARTTLS").code == 220
            client.socket = context.wrap_socket(client.socket, server_hostname="relay.test",
                                                session=session)
            client.ehlo()
            client.mail("a@src.test")
            code = client.rcpt("b@dest.test").code
            resumed, kept = client.socket.session_reused, client.socket.session
            client.quit()
        return resumed, code, kept

    def context(certificate=None):
        made = smtp.insecure_context(certificate)
        made.minimum_version = made.maximum_version = version
        return made

    shows, shows_not = context(ours), context()
    resumed, code, kept = visit(node.address, shows)
    assert not resumed and code == 250
    resumed, code, _ = visit(node.address, shows, kept)
    assert resumed and code == 250, "tickets do not work at all, so this test proves nothing"
    promise.case()
    _, _, kept = visit(node.address, shows)
    resumed, code, _ = visit(second, shows, kept)
    assert not resumed, "the ticket of another listener was taken"
    promise.case()
    resumed, code, kept = visit(node.address, shows_not)
    assert code == 554, "trusted without the certificate"
    resumed, code, _ = visit(node.address, shows_not, kept)
    assert code == 554, "trusted without the certificate, by a ticket"
    promise.case()
    node.restart()
    _, _, kept = visit(node.address, shows)
    node.restart()
    resumed, code, _ = visit(node.address, shows, kept)
    assert not resumed and code == 250, "a ticket from before the restart was taken"
    promise.case()
