"""D10: the control socket and the HTTP listener take garbage, give nothing away, and keep the mail going."""

import base64
import grp
import http.client
import os
import random
import socket
import stat
import struct

import pytest

from rig import mail
from rig.promise import size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

TRY_AGAIN = 75  # EX_TEMPFAIL: too many connections
TOKEN = "a-token-of-24-characters"

# name, bytes: refused with 4xx or 5xx, or the connection is closed; never 2xx.
GARBAGE = [
    ("binary", bytes(range(256)) * 4),
    ("NULs", b"\0" * 5000),
    ("SMTP", b"EHLO x\r\nMAIL FROM:<a@b>\r\n"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 500),
    ("no version", b"GET /v1/status\r\n\r\n"),
    ("HTTP/0.9", b"GET /\r\n"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/9", b"GET /v1/status HTTP/9.9\r\nHost: localhost\r\n\r\n"),
    ("an unknown method", b"BREW /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("TRACE", b"TRACE /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("CONNECT", b"CONNECT 127.0.0.1:25 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("DELETE", b"DELETE /v1/queue HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("GET of a verb", b"GET /v1/queue/remove HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a long method", b"G" * 70000 + b" / HTTP/1.1\r\n\r\n"),
    ("a long path", b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n"),
    ("a long field", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100000 + b"\r\n\r\n"),
    ("many fields", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n"),
    ("a field without a colon", b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n"),
    ("a blank before the colon", b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"),
    ("a folded field", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n"),
    ("NUL in a field", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"),
    ("bare CR", b"GET / HTTP/1.1\rHost: localhost\r\n\r\n"),
    ("up the tree", b"GET /../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("up the tree, encoded", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("NUL in the path", b"GET /v1/status%00.html HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("bad percent", b"GET /v1/queue/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a queue id that is none", b"GET /v1/queue/' HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a long queue id", b"GET /v1/queue/" + b"0" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("two lengths", b"POST /v1/verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
    ("length and chunks", b"POST /v1/suspend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("a negative length", b"POST /v1/suspend HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"),
    ("a huge length", b"POST /v1/suspend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("a body of 1 MB", b"POST /v1/suspend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Content-Length: 1000000\r\n\r\n" + b" " * 1000000),
    *[(f"JSON {body[:20]!r}", b"POST /v1/queue/remove HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
       b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body) for body in
      (b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"[" * 10000, b'{"a":' * 5000, b'{"id":1}', b'{"id":[]}',
       b'{"id":"x"}', b'{"id":"\\u0000"}', b'{"all":"yes"}', b'{"domain":5}', b"\xff\xfe", b'{"id":"\xff"}', b"{}{}",
       b'{"state":"nonsense"}', b'{"nonsense":1}')],
    *[(f"a verb with {body[:20]!r}", b"POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
       b"Content-Length: %d\r\n\r\n" % (verb, len(body)) + body) for verb in
      (b"suspend", b"resume", b"routes/pin", b"routes/forget", b"queue/reroute", b"check") for body in
      (b"{}", b'{"domain":"' + b"a" * 3000 + b'"}', b'{"target":"\\r\\n"}', b'{"for_ms":-1}', b'{"for_ms":1e400}')],
    *[(f"suspend with {body[:40]!r}", b"POST /v1/suspend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
       b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body) for body in
      (b'{"target":"a.test","for_ms":"1h"}', b'{"target":"a.test","for_ms":null}', b'{"target":["a.test"]}')],
]


def say(connect, data):
    """What is answered to these bytes, until the other side closes or has answered."""
    with connect() as s:
        s.settimeout(10 * PATIENCE)
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed while we were sending: an answer may lie there all the same
        answer = b""
        try:
            while more := s.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        return answer


@pytest.fixture
def node(world):
    """A node with both doors, one message in its queue, and a client that never stops."""
    world.mx("dest.test")
    node = world.node(start=False)
    token = node.file("http.token", TOKEN + "\n")
    http_address = world.take()
    node.write_config({"http": {"address": f"{http_address}:8025", "token_file": token}})
    node.start()
    node.ctl("suspend", "direct", "--for", "1h")
    node.kept = node.submit("a@src.test", "b@dest.test", mail.message())
    node.http = (http_address, 8025)
    return node


def unix(node):
    def connect():
        s = socket.socket(socket.AF_UNIX)
        s.connect(node.config["control"]["socket"])
        return s
    return connect


def tcp(node):
    return lambda: socket.create_connection(node.http, 10)


def untouched(node):
    """The mail is where it was, and the daemon takes more."""
    assert [i["id"] for i in node.queue()] == [node.kept]
    with node.client() as session:
        session.ehlo()
        assert session.cmd("NOOP").code == 250


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_d10_garbage_is_refused_and_kills_nothing(node, promise, door):
    promise("D10", f"binary, oversized, malformed requests at the {door} door: an error each, nothing done")
    connect = unix(node) if door == "unix" else tcp(node)
    for name, data in GARBAGE:
        answer = say(connect, data)
        assert not answer.startswith(b"HTTP/1.1 2"), f"{name}: {answer[:200]}"
        assert b"root:" not in answer
        promise.case()
    untouched(node)
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    good = (b"POST /v1/queue/remove HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15"
            b"\r\n\r\n{\"id\":\"00000\"}\r\n")
    for _ in range(size(150, 20000)):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(data))
            data[at:at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        answer = say(connect, bytes(data))
        assert not answer.startswith(b"HTTP/1.1 2"), f"seed {seed}: {bytes(data)!r} {answer[:200]}"
        promise.case()
    untouched(node)


def test_d10_without_the_token_the_network_learns_nothing(node, promise):
    promise("D10", "no token, a wrong one, a part of it, in other forms: 401 and nothing else")
    paths = ["/v1/status", "/v1/queue", f"/v1/queue/{node.kept}", f"/v1/queue/{node.kept}/body", "/v1/routes", "/",
             "/metrics", "/v1/explain?rcpt=b@dest.test", "/v1/jobs/1", f"/v1/trace/{node.kept}", "/nonsense"]
    tokens = [None, "", "Bearer", "Bearer ", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer  x{TOKEN}",
              f"Basic {TOKEN}", "Basic " + base64.b64encode(TOKEN.encode()).decode(),
              "Basic " + base64.b64encode(b":").decode(), "Basic !!!", f"Digest {TOKEN}", TOKEN,
              "Bearer " + TOKEN.upper(), "Bearer " + "x" * 5000]
    for path in paths:
        for token in tokens if path == "/v1/status" else tokens[:3] + tokens[5:7]:
            for method in ("GET", "POST"):
                connection = http.client.HTTPConnection(*node.http, timeout=10)
                connection.request(method, path, body=b"{}" if method == "POST" else None,
                                   headers={"Content-Type": "application/json",
                                            **({"Authorization": token} if token is not None else {})})
                answer = connection.getresponse()
                body = answer.read()
                assert answer.status in (401, 431), f"{method} {path} {token!r}: {answer.status} {body[:100]}"
                assert node.kept.encode() not in body and TOKEN.encode() not in body
                connection.close()
                promise.case()
    # With it, what a web page of somebody else could send is refused all the same.
    for headers in ({"Origin": "http://evil.test"}, {"Content-Type": "text/plain"},
                    {"Content-Type": "application/x-www-form-urlencoded"}):
        connection = http.client.HTTPConnection(*node.http, timeout=10)
        connection.request("POST", "/v1/queue/remove", body=b'{"all":true}', headers={
            "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers})
        assert connection.getresponse().status in (403, 415), headers
        connection.close()
        promise.case()
    connection = http.client.HTTPConnection(*node.http, timeout=10)
    connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
    assert connection.getresponse().status == 200
    connection.close()
    untouched(node)
    assert all(TOKEN not in line for line in node.log.lines())


def test_d10_socket_is_for_its_group_alone_and_nothing_listens_elsewhere(world, promise):
    promise("D10", "0660 on the socket, its owner's; without http: no TCP door at all")
    node = world.node()
    status = os.stat(node.config["control"]["socket"])
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o660
    assert (status.st_uid, grp.getgrgid(status.st_gid).gr_name) == (0, "root")
    promise.case()
    inodes = {os.readlink(f"/proc/{node.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{node.pid}/fd")}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in open(f"/proc/net/{table}").readlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(int(fields[1].rsplit(":", 1)[1], 16))
    assert listening == [node.port], "only the SMTP listener"
    promise.case()


def served(node):
    """The queue is told again, once it is noticed that those before have gone."""
    until(lambda: node.ctl("queue", "list", check=False).returncode != TRY_AGAIN, what="a free connection")
    assert len(node.queue()) == 2


def test_d10_slow_many_and_vanishing_clients_do_no_harm(node, promise):
    promise("D10", "64 connections that say nothing, half requests, resets: others are served, mail goes on")
    idle = []
    for n in range(100):
        try:
            s = (unix(node) if n % 2 else tcp(node))()
            s.sendall((b"", b"G", b"GET /v1/status HTTP/1.1\r\nHost: x\r\n", b"POST /v1/verify HTTP/1.1\r\nContent-Length: 9\r\n"
                       b"\r\n{")[n % 4])
            idle.append(s)
        except OSError:
            pass
        promise.case()
    with node.client() as session:
        session.ehlo()
        session.submit("a@src.test", "b@dest.test", mail.message())
    for s in idle:
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        s.close()
    served(node)
    for n in range(size(50, 1000)):  # gone while the answer is made
        s = unix(node)()
        s.sendall(b"GET /v1/queue HTTP/1.1\r\nHost: localhost\r\n\r\n" * (n % 7))
        s.close()
        promise.case()
    served(node)
