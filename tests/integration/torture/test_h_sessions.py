"""Many clients: idle ones cost little, slow ones harm nobody, too many are told so in time."""

import pathlib
import resource
import subprocess
import threading
import time

import pytest

from rig import mail, smtp
from rig.ledger import Ledger
from rig.node import BUILD, sanitized
from rig.preload import library
from rig.proc import rss_kib
from rig.promise import size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

IDLE_KIB = {"plain": 5, "tls": 32}
ANSWER_S = 0.1
SLOW_SYNC = pathlib.Path(__file__).parents[2] / "bench" / "slow_sync.c"


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def many_descriptors(n):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(n, 1024), max(n, hard)))


class Idle:
    """tests/bench/net/bench_idle: clients that say EHLO (in TLS), then nothing more."""

    def __init__(self, node, n, tls):
        program = BUILD / "tests" / "bench_idle"
        if not program.exists():
            pytest.skip(f"{program} is not built")
        self._child = subprocess.Popen(
            ["prlimit", f"--nofile={n + 1000}", program, "-n", str(n), *(["-t"] if tls else []),
             f"{node.address}:{node.port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._child.stdout.readline().split() == [b"open", str(n).encode()]

    def stop(self):
        self._child.stdin.close()
        assert self._child.wait(60 * PATIENCE) == 0, "an idle client was closed"
        self._child.stdout.close()


@pytest.mark.parametrize("kind", IDLE_KIB)
def test_h01_idle_clients_cost_little_and_a_new_one_is_served_at_once(world, promise, kind):
    promise("H01", "10,000 idle clients: 5 KiB each (TLS 32), a new one is answered in 100 ms")
    n = size(2000 if kind == "plain" else 500, 10000)
    config = {"limits": {"sessions": 2 * n, "sessions_per_client": 2 * n}}
    if kind == "tls":
        certificate = world.ca.issue("smtp-cn.relay.test")
        config["tls"] = {"certificate_file": certificate.cert_file,
                         "private_key_file": certificate.key_file}
    node = world.node(config=config)
    Idle(node, 50, kind == "tls").stop()  # what the first ones need once and for all
    before = rss_kib(node.pid)
    idle = Idle(node, n, kind == "tls")
    each = (rss_kib(node.pid) - before) / n
    assert sanitized() or each <= IDLE_KIB[kind], f"{each:.2f} KiB for each idle client"
    took = []
    for _ in range(20):
        begun = time.monotonic()
        with node.client() as session:
            session.ehlo()
            took.append(time.monotonic() - begun)
    assert quantile(took, 0.5) < ANSWER_S * PATIENCE, f"a new client waits {took}"
    idle.stop()
    until(lambda: node.ctl_json("status")["sessions"]["in"] == 0, what="the sessions to be gone")
    promise.case(n)


def test_h01_clients_of_one_address_are_limited_and_others_are_not(world, promise):
    promise("H01", "more sessions from one address than allowed: 421; other addresses are served")
    node = world.node(config={"limits": {"sessions_per_client": 5}})
    one, other = world.take(), world.take()
    held = [node.client(source=one) for _ in range(5)]
    for _ in range(size(20, 1000)):
        with node.client(source=one) as session:
            assert session.greeting.code == 421 and session.closed()
        promise.case()
    with node.client(source=other) as session:
        assert session.greeting.code == 220
    held.pop().close()

    def again():
        with node.client(source=one) as session:
            return session.greeting.code == 220

    until(again, what="the place that became free")
    for session in held:
        session.close()


class Drip(threading.Thread):
    """Clients that send an octet now and then, half of them in commands, half in DATA."""

    def __init__(self, node, n, every):
        super().__init__(daemon=True)
        self.every, self.stopping = every, threading.Event()
        self.open, self.cut = [], 0
        for i in range(n):
            session = node.client(source=None)
            if i % 2:
                session.ehlo()
                session.mail("slow@src.test")
                session.rcpt("slow@dest.test")
                assert session.cmd("DATA").code == 354
            session.socket.setblocking(False)
            self.open.append(session.socket)

    def run(self):
        while not self.stopping.wait(self.every):
            for s in list(self.open):
                try:
                    s.send(b"x")
                    over = s.recv(1000) == b"" or True  # it only ever says goodbye
                except BlockingIOError:
                    over = False
                except OSError:
                    over = True
                if over:
                    s.close()
                    self.open.remove(s)
                    self.cut += 1

    def stop(self):
        self.stopping.set()
        self.join()
        for s in self.open:
            s.close()


def served(node, n):
    """Seconds that each of n messages took, in a session of its own."""
    took = []
    for _ in range(n):
        begun = time.monotonic()
        node.submit("a@src.test", "b@dest.test", mail.message())
        took.append(time.monotonic() - begun)
    return took


def test_h02_slow_clients_harm_nobody_and_are_cut_off(world, promise):
    promise("H02", "thousands of clients that drip octets: others keep their p99, the slow are cut")
    n = size(500, 5000)
    many_descriptors(n + 1000)
    mx = world.mx("dest.test")
    # So many that they are over 80 % of the sessions: then deadlines are of 10 s.
    node = world.node(config={"limits": {"sessions": int(n * 1.2), "sessions_per_client": 2 * n}})
    alone = quantile(served(node, 100), 0.99)
    drip = Drip(node, n, every=size(1, 10))
    drip.start()
    begun = time.monotonic()
    try:
        # The best of three: what else the machine does is not theirs.
        among = min(quantile(served(node, 100), 0.99) for _ in range(3))
        assert among < max(2 * alone, 0.1 * PATIENCE), \
            f"p99 {among:.3f} s among the slow, {alone:.3f} s alone"
        # Below 70 % nobody is in a hurry any more: five minutes hold again for the rest.
        until(lambda: len(drip.open) < 0.85 * n, 30, "the slow ones to be cut", every=0.2)
        assert time.monotonic() - begun < 30 * PATIENCE
    finally:
        drip.stop()
    mx.wait_mail(400)
    node.wait_empty()
    assert not mx.received_for("slow@dest.test"), "a message that never ended was delivered"
    promise.case(drip.cut)


class Flood:
    """Clients that send as fast as they are let; every answer is kept."""

    def __init__(self, node, ledger, clients):
        self.node, self.ledger = node, ledger
        self.codes, self.slowest, self.odd = {}, 0.0, []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True)
                         for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _count(self, reply, begun):
        with self._lock:
            self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if reply.code not in (250, 421, 451, 452):
                self.odd.append(str(reply))
        return reply.code == 250

    def _run(self, client):
        n = 0
        while not self._stop.is_set():
            try:
                with smtp.Client(self.node.address, self.node.port, timeout=40) as session:
                    if session.greeting.code != 220:
                        self._count(session.greeting, time.monotonic())
                        continue
                    session.ehlo()
                    for _ in range(10):
                        n += 1
                        name, rcpts = f"flood{client}x{n}", [f"u{n}@dest.test"]
                        self.ledger.send(name, rcpts)
                        begun = time.monotonic()
                        if not (self._count(session.mail("a@src.test"), begun) and
                                self._count(session.rcpt(rcpts[0]), begun)):
                            break
                        begun = time.monotonic()
                        if self._count(session.data(mail.message(
                                ident=name, body=("x" * 70 + "\r\n") * 150)), begun):
                            self.ledger.promise(name, rcpts)
            except smtp.Closed:
                pass  # after a 421, or in its place
            except OSError as e:
                with self._lock:
                    self.odd.append(repr(e))

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(60 * PATIENCE)
            assert not thread.is_alive(), "a client hangs"


def test_h03_ten_times_the_capacity_is_refused_in_order(world, promise):
    promise("H03", "ten times the capacity: 421 and 452, nothing accepted is lost, memory is bounded")
    ledger = Ledger()
    mx = world.mx("dest.test")
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(start=False, config={
        "limits": {"sessions": 8, "memory": "4MiB"},
        "queue": {"max_size": "16MiB", "retry": {"intervals": ["1h"]}},
        "shaping": {"default": {"max_rate": "none"}}})
    if not sanitized():
        slow_sync = library(world, "slow_sync", SLOW_SYNC)
        node.env = {"LD_PRELOAD": str(slow_sync)}
    node.start()
    flood = Flood(node, ledger, 80)
    begun, peak = time.monotonic(), 0
    while time.monotonic() - begun < size(4, 60):
        peak = max(peak, rss_kib(node.pid))
        time.sleep(0.1)
    flood.stop()
    begun = time.monotonic()
    until(lambda: accepts_or_is_full(node), 5, "it to be itself again")
    assert time.monotonic() - begun < 5 * PATIENCE
    assert not flood.odd, flood.odd[:3]
    assert flood.codes.get(421, 0) > 0 and flood.codes.get(250, 0) > 0, flood.codes
    assert flood.slowest < 30, f"{flood.slowest:.1f} s for a reply"
    assert sanitized() or peak < 96 * 1024, f"{peak} KiB"
    mx.behave()
    node.ctl("queue", "retry", "--domain", "dest.test")
    until(lambda: not ledger.missing(), 60, "everything promised")
    node.wait_empty(60)
    ledger.check()
    promise.case(sum(flood.codes.values()))
    node.submit("a@src.test", "after@dest.test", mail.message(ident="after"))


def accepts_or_is_full(node):
    """A new client gets a 220 at once, and an answer to its message."""
    with node.client() as session:
        if session.greeting.code != 220:
            return False
        session.ehlo()
        return session.mail("a@src.test").code in (250, 452)
