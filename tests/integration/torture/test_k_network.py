"""The network goes away and comes back, in a network namespace of its own: defer, and be quick."""

import itertools
import os
import random
import subprocess
import time

import pytest

from rig import mail
from rig.dns import Dns
from rig.promise import LONG, size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

HEALED_S = 10
_n = itertools.count()


def ip(*arguments, check=True, namespace=None):
    command = ["ip", *(["-n", namespace] if namespace else []), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


class Cable:
    """A namespace for the node, and a pair of interfaces between it and us.

    ours .1 is the name server's and the hosts' address, theirs .2 the node's.
    """

    def __init__(self):
        self.name = f"rd{os.getpid()}-{next(_n)}"
        net = f"10.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self.ours, self.theirs, self.net = f"{net}.1", f"{net}.2", net
        self.here, self.there = f"{self.name}h"[-15:], f"{self.name}t"[-15:]
        # Not `ip netns exec`, which copies all mounts: a volume of another test could not go.
        self.within = ["nsenter", f"--net=/run/netns/{self.name}"]
        ip("netns", "add", self.name)
        ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name)
        ip("addr", "add", f"{self.ours}/24", "dev", self.here)
        ip("link", "set", self.here, "up")
        ip("link", "set", "lo", "up", namespace=self.name)
        self.address_up()
        self.link_up()

    def link_up(self):
        ip("link", "set", self.there, "up", namespace=self.name)

    def link_down(self):
        ip("link", "set", self.there, "down", namespace=self.name)

    def address_up(self):
        ip("addr", "add", f"{self.theirs}/24", "dev", self.there, namespace=self.name)

    def address_down(self):
        ip("addr", "del", f"{self.theirs}/24", "dev", self.there, namespace=self.name)

    def route(self, verb, kind):
        ip("route", verb, kind, f"{self.ours}/32", namespace=self.name)

    def silence(self, verb):
        """Our answers are thrown away: packets go, none comes back."""
        ip("route", verb, "blackhole", f"{self.theirs}/32")

    def half_dead(self, rule):
        """Packets meet this rule of nft where they come in, at either end."""
        for device, within in (self.here, []), (self.there, self.within):
            table = (f"table netdev {self.name} {{\nchain half {{\ntype filter hook ingress "
                     f"device {device} priority 0;\n{rule}\n}}\n}}\n")
            done = subprocess.run([*within, "nft", "-f", "-"], input=table, text=True,
                                  capture_output=True)
            assert done.returncode == 0, f"{table}: {done.stderr}"

    def whole_again(self):
        for within in [], self.within:
            subprocess.run([*within, "nft", "delete", "table", "netdev", self.name],
                           capture_output=True)

    def stop(self):
        self.whole_again()
        ip("link", "del", self.here, check=False)
        ip("netns", "del", self.name, check=False)

    def logs(self):
        return []


FAULTS = {
    "source address gone": (Cable.address_down, Cable.address_up),
    "interface down": (Cable.link_down, Cable.link_up),
    "ENETUNREACH": (lambda c: c.route("add", "unreachable"), lambda c: c.route("del", "unreachable")),
    "EACCES": (lambda c: c.route("add", "prohibit"), lambda c: c.route("del", "prohibit")),
    "EINVAL": (lambda c: c.route("add", "blackhole"), lambda c: c.route("del", "blackhole")),
    "no answer": (lambda c: c.silence("add"), lambda c: c.silence("del")),
}


@pytest.fixture
def cut(world):
    """A node behind a cable that can be cut, and the host that its mail goes to."""
    if subprocess.run(["ip", "netns", "list"], capture_output=True).returncode != 0:
        pytest.skip("no network namespaces here")
    cable = world.keep(Cable())
    world._dns = world.keep(Dns(world.dir / "dns", cable.ours).start())
    mx = world.mx("dest.test", address=cable.ours)
    node = world.node(start=False, address=cable.theirs, config={
        "trusted_clients": [{"cidr": f"{cable.net}.0/24"}],
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "shaping": {"default": {"max_messages_per_connection": 1}},
        "timeouts": {"connect": "2s"}, "resolver": {"timeout": "1s"}})
    node.wrapper = cable.within
    return node.start(), mx, cable


@pytest.mark.parametrize("fault", FAULTS)
def test_k08_network_goes_away_and_comes_back(cut, world, promise, fault):
    promise("K08", "the network goes away: mail is deferred, and delivered within 10 s of its return")
    node, mx, cable = cut
    node.submit("a@src.test", "before@dest.test", mail.message())
    mx.wait_mail()
    for i in range(size(1, 20)):
        # What waits when the fault comes: it cannot be handed in later.
        node.ctl("suspend", "direct", "--for", "1h")
        rcpts = [f"u{i}x{n}@dest.test" for n in range(5)]
        for rcpt in rcpts:
            node.submit("a@src.test", rcpt, mail.message())
        mark = node.log.mark()
        FAULTS[fault][0](cable)
        try:
            node.ctl("resume", "direct")
            node.log.wait(event="attempt", outcome="deferred", since=mark)
            assert not node.log.all(event="attempt", outcome="failed")
        finally:
            FAULTS[fault][1](cable)
        healed = time.monotonic()
        for rcpt in rcpts:
            mx.wait_mail(rcpt=rcpt)
        took = time.monotonic() - healed
        assert took < HEALED_S * PATIENCE, f"{took:.1f} s after the network was back"
        promise.case()
    node.wait_empty()
    for rcpt in rcpts:
        assert len(mx.received_for(rcpt)) == 1


def test_k08_network_goes_away_in_mid_message(cut, world, promise):
    promise("K08", "the network goes away within a delivery: given up by its deadline, then again")
    node, mx, cable = cut
    node.reload({"timeouts": {"block": "1s", "data": "1s", "final_dot": "1s", "rcpt": "1s"}})
    for stage in ("rcpt", "data", "dot"):
        mark = node.log.mark()

        def silence(session):
            cable.silence("add")
            return "250 2.1.5 ok" if stage == "rcpt" else "354 go" if stage == "data" else "250 ok"

        mx.answer(stage, silence, times=1)
        node.ctl("suspend", "direct", "--for", "1h")
        node.submit("a@src.test", f"{stage}@dest.test", mail.message(body="x" * 70 + "\r\n"))
        node.ctl("resume", "direct")
        node.log.wait(event="attempt", outcome="deferred", since=mark)
        cable.silence("del")
        mx.wait_mail(rcpt=f"{stage}@dest.test")
        node.wait_empty()
        # RFC 1047: only the one whose 250 was lost comes twice.
        assert len(mx.received_for(f"{stage}@dest.test")) == (2 if stage == "dot" else 1)
        promise.case()
    until(lambda: not node.queue(), what="an empty queue")


HALF_DEAD = {
    "5 % lost": "numgen random mod 100 < 5 drop",
    "30 % lost": "numgen random mod 100 < 30 drop",
    "connections reset": "tcp dport 25 numgen random mod 100 < 10 reject with tcp reset",
    "nothing large passes": "tcp dport 25 meta length > 576 drop",
}
HALF_DEAD_S = 3  # TCP waits as long again before it sends once more
LINE = "x" * 70 + "\r\n"


@pytest.mark.parametrize("fault", HALF_DEAD)
def test_k08_network_that_is_half_dead_loses_nothing(cut, promise, fault):
    promise("K08", "packets are lost, connections reset, large packets swallowed: nothing fails, "
                   "nothing comes twice without need, and all is through 10 s after it is over")
    node, mx, cable = cut
    node.reload({"shaping": {"default": {"max_connections": 5}}})
    for i in range(size(1, 15)):
        rcpts = [f"u{i}x{n}@dest.test" for n in range(20)]
        node.ctl("suspend", "direct", "--for", "1h")
        for n, rcpt in enumerate(rcpts):
            node.submit("a@src.test", rcpt, mail.message(body=LINE * (300 if n % 2 else 1)))
        mark = node.log.mark()
        cable.half_dead(HALF_DEAD[fault])
        node.ctl("resume", "direct")
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + HALF_DEAD_S, what="the fault to have lasted")
        cable.whole_again()
        healed = time.monotonic()
        for rcpt in rcpts:
            mx.wait_mail(rcpt=rcpt)
        node.wait_empty()
        took = time.monotonic() - healed
        assert took < HEALED_S * PATIENCE, f"{took:.1f} s after the network was well"
        lines = node.log.all(event="attempt", since=mark)
        assert {line["outcome"] for line in lines} <= {"delivered", "deferred"}
        for rcpt in rcpts:
            doubtful = [line for line in lines if line["rcpt"] == rcpt and "maybe_twice" in line]
            copies = len(mx.received_for(rcpt))
            assert 1 <= copies <= 1 + len(doubtful), f"{rcpt}: {copies} copies"
        promise.case(len(rcpts))


@pytest.mark.skipif(not LONG, reason="half a minute of silence")
@pytest.mark.parametrize("fault", ["no answer", "EINVAL", "interface down"])
def test_k08_kept_connection_whose_path_died_unseen_keeps_nobody_waiting(cut, promise, fault):
    promise("K08", "a kept connection whose path died unseen is given up in 20 s")
    node, mx, cable = cut
    node.reload({"shaping": {"default": {"max_messages_per_connection": 100}}})
    node.submit("a@src.test", "first@dest.test", mail.message())
    mx.wait_mail()
    begun = time.monotonic()
    until(lambda: time.monotonic() > begun + 2, what="it to have been idle")
    node.ctl("suspend", "direct", "--for", "1h")
    node.submit("a@src.test", "second@dest.test", mail.message())
    FAULTS[fault][0](cable)
    node.ctl("resume", "direct")
    sent = time.monotonic()
    # TCP sends again after 0.2, 0.6, ... 25.4 and 51 s: what still waits for it waits until then.
    until(lambda: time.monotonic() > sent + 27, 60, "packets to be sent ever more rarely")
    FAULTS[fault][1](cable)
    healed = time.monotonic()
    mx.wait_mail(rcpt="second@dest.test", timeout=40)
    took = time.monotonic() - healed
    assert took < HEALED_S, f"{took:.1f} s after the network was back"
    assert len(mx.received_for("second@dest.test")) == 1
    promise.case()
