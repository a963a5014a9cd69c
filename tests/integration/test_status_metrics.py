"""relayctl status, /metrics and the HTTP API."""

import os
import re
import socket
import stat
import urllib.error
import urllib.request

import pytest

from rig import mail
from rig.wait import until


def fetch(address, path, token=None):
    request = urllib.request.Request(f"http://{address}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read().decode()


def samples(text):
    """Prometheus text as {(name, frozenset(labels)): value}; fails on what Prometheus rejects."""
    found, typed = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in typed, f"{name} has two TYPE lines"
            typed.add(name)
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([-+.\deE]+|NaN|[+-]Inf)', line)
        assert match, f"not a sample: {line}"
        labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
        key = (match.group(1), labels)
        assert key not in found, f"twice: {line}"
        found[key] = float(match.group(3))
    assert typed
    return found


def total(found, part, **labels):
    return sum(v for (name, have), v in found.items()
               if part in name and set(labels.items()) <= have)


@pytest.fixture
def node(world):
    return world.node(config={"http": {"address": f"{world.take()}:8025"},
                              "queue": {"retry": {"intervals": ["1h"]}}})


def test_metrics_count_what_happened(world, node):
    good, bad = world.mx("good.test"), world.mx("bad.test")
    world.mx("src.test")
    bad.answer("rcpt", "451 4.3.0 later", match="later@")
    bad.answer("rcpt", "550 5.1.1 no", match="never@")
    node.submit("a@src.test", ["x@good.test", "later@bad.test", "never@bad.test"], mail.message())
    good.wait_mail()
    node.log.wait(event="attempt", outcome="failed")
    node.log.wait(event="attempt", outcome="deferred")
    status, text = fetch(node.config["http"]["address"], "/metrics")
    assert status == 200
    found = samples(text)
    assert all(name.startswith(("relayd_", "process_")) for name, _ in found), \
        sorted({n for n, _ in found})
    for part, least in (("accepted", 1), ("delivered", 1), ("deferred", 1), ("failed", 1)):
        assert total(found, part) >= least, f"{part} is not counted"
    assert total(found, "delivered", route="direct") >= 1
    counters = {n for n, _ in found if any(w in n for w in ("accepted", "delivered", "failed"))}
    assert all(n.endswith(("_total", "_bucket", "_sum", "_count")) for n in counters), counters


def test_sites_in_trouble_are_counted_and_the_worst_are_named(world, node):
    """Recipients choose the names of sites: what a collector keeps does not grow with them."""
    sites = 80
    with world.dns:
        for i in range(sites):
            world.dns.add(f"d{i}.test", "MX", f"10 h{i}.broken.test.")  # SERVFAIL
    node.submit("a@src.test", [f"b@d{i}.test" for i in range(sites)], mail.message())
    until(lambda: len(node.log.all(event="site_down")) == sites, what="all sites to be down")
    found = samples(fetch(node.config["http"]["address"], "/metrics")[1])
    assert found["relayd_sites_in_trouble", frozenset({("route", "direct"), ("state", "down")})] \
        == sites
    named = [labels for name, labels in found if name == "relayd_site_in_trouble"]
    assert len(named) == 50
    assert len(node.ctl_json("status")["sites"]) == 20


def test_healthz_answers(node):
    assert fetch(node.config["http"]["address"], "/healthz")[0] == 200


def test_unknown_paths_and_garbage_do_not_disturb(world, node):
    address = node.config["http"]["address"]
    with pytest.raises(urllib.error.HTTPError) as e:
        fetch(address, "/no/such/path")
    assert e.value.code == 404
    host, port = address.rsplit(":", 1)
    for garbage in (b"\x16\x03\x01\0\0", b"GET " + b"x" * 100000 + b"\r\n\r\n", b"\r\n" * 5000,
                    b"POST /v1/reload HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"):
        with socket.create_connection((host, int(port)), 5) as s:
            try:
                s.sendall(garbage)
                s.shutdown(socket.SHUT_WR)
                s.recv(4096)
            except OSError:
                pass  # closed early, which is the right answer to some of these
    assert fetch(address, "/healthz")[0] == 200


def test_token_is_required_when_a_file_names_one(world):
    node = world.node(start=False)
    node.file("http.token", "s3cret-token\n")
    node.write_config({"http": {"address": f"{node.address}:8025", "token_file": "http.token"}})
    node.start()
    address = node.config["http"]["address"]
    for token in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as e:
            fetch(address, "/metrics", token)
        assert e.value.code in (401, 403)
    assert fetch(address, "/metrics", "s3cret-token")[0] == 200
    assert all("s3cret-token" not in line for line in node.log.lines())


def test_status_shows_queue_routes_and_alerts(world, node):
    mx = world.mx("bad.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node.submit("a@src.test", "x@bad.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    text = node.ctl("status").stdout
    assert "cn" in text and re.search(r"queue", text, re.I)
    parsed = node.ctl_json("status")
    assert parsed["node"] == "cn" or parsed["node"]["name"] == "cn"


def test_status_is_quick_and_small_on_a_large_queue(world, node):
    mx = world.mx("bad.test")
    mx.answer("rcpt", "451 4.3.0 later")
    with node.client() as session:
        session.ehlo()
        for _ in range(20):
            session.submit("a@src.test", [f"u{i}@bad.test" for i in range(500)], mail.message())
    assert len(node.ctl("status").stdout.splitlines()) < 60
    assert len(node.queue("--limit", "100000")) == 10000


def test_control_socket_is_private_and_garbage_does_not_kill_it(world, node):
    path = node.config["control"]["socket"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    for garbage in (b"\0" * 5000, b"GET / HTTP/9.9\r\n\r\n", b"DELETE /v1/queue HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(path)
            s.sendall(garbage)
            s.shutdown(socket.SHUT_WR)
            try:
                s.recv(4096)
            except OSError:
                pass  # reset is an answer too
    assert node.ctl("status").returncode == 0
