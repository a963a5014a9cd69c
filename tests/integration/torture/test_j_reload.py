"""A thousand reloads under load: nobody notices; what is under way ends as it began."""

import collections
import os
import pathlib
import threading

import pytest

from rig import mail
from rig.ledger import Ledger
from rig.node import sanitized
from rig.proc import rss_kib
from rig.promise import LONG, size
from rig.wait import until

pytestmark = pytest.mark.torture

GROWTH_KIB = 16 * 1024  # of a heap that two configurations at a time live in


# What the map says when the route is gone, and how the node learns of it.
AFTER = [(after, how) for after in ("another route", "no rule", "reject", "discard", "hold",
                                    "only a fence") for how in ("reload", "restart")]


class Clients:
    """Sessions that stay and sessions that come and go; every refusal and every end is kept."""

    def __init__(self, node, ledger):
        self.node, self.ledger, self.wrong, self.sent = node, ledger, [], 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(stay,), daemon=True)
                         for stay in (True, True, False, False)]
        for thread in self._threads:
            thread.start()

    def _message(self, session):
        with self._lock:
            self.sent += 1
            name, rcpts = f"j{self.sent}", [f"u{self.sent % 50}@dest.test"]
        self.ledger.send(name, rcpts)
        session.submit("a@src.test", rcpts, mail.message(ident=name))
        self.ledger.promise(name, rcpts)

    def _run(self, stay):
        while not self._stop.is_set():
            try:
                with self.node.client() as session:
                    session.ehlo()
                    self._message(session)
                    while stay and not self._stop.is_set():
                        self._message(session)
                    session.quit()
            except Exception as e:  # refused or dropped
                self.wrong.append(repr(e))

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"
        assert not self.wrong, f"{len(self.wrong)} refused or dropped: {self.wrong[:3]}"


def descriptors(pid):
    """What is open, without the connections that come and go."""
    found = collections.Counter()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if not target.startswith("socket:"):
            found[target.split(":")[0]] += 1
    return found


def test_j01_many_reloads_under_load(world, promise):
    promise("J01", "1,000 reloads under load: nothing refused, dropped or lost, nothing leaks")
    ledger, certificate = Ledger(), world.ca.issue("smtp-cn.relay.test")
    mx, hop = world.mx("dest.test"), world.remote("hop.test")
    for remote in (mx, hop):
        remote.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    key = world.key("src.test", "cn")
    node = world.node(start=False, config={"shaping": {"default": {"max_rate": "none"}}})
    node.file("domains.txt", "".join(f"domain-{i}.example\n" for i in range(2000)))
    secret = node.file("secret", "a password\n")

    def version(i):
        return {"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"},
                         f"h{i}": {"address": "x.test", "auth": {"username": "u",
                                                                 "password_file": secret}}},
                "tls": {"certificate_file": certificate.cert_file,
                        "private_key_file": certificate.key_file},
                "dkim": [{"domains": ["src.test"], "key_file": str(key.path)}],
                "transport_map": [{"domains_file": "domains.txt", "route": f"h{i}"},
                                  {"default": True, "route": "out" if i % 2 else "direct"}]}

    node.config = {**node.config, **version(0)}
    node.start()
    load = Clients(node, ledger)
    n = size(30, 1000)
    for i in range(n):
        node.config = {**node.config, **version(i)}
        node.reload()
        promise.case()
        if i == n // 3:
            early, open_early = rss_kib(node.pid), descriptors(node.pid)
    late, open_late = rss_kib(node.pid), descriptors(node.pid)
    load.stop()
    until(lambda: not ledger.missing(), 60, "all deliveries")
    node.wait_empty(60)
    ledger.check()
    assert hop.mails and mx.mails and load.sent > n, "too little load to mean anything"
    assert open_late == open_early
    assert sanitized() or late < early + GROWTH_KIB, f"{early} KiB grew to {late} KiB"


def test_j01_what_is_under_way_keeps_the_old_configuration(world, promise):
    promise("J01", "a message and a delivery under way are finished by the old configuration")
    gate, mx, hop = threading.Event(), world.mx("dest.test"), world.remote("hop.test")
    mx.answer("dot", lambda session: gate.wait(20) and "250 2.0.0 taken", times=1)
    node = world.node()
    node.submit("a@src.test", "first@dest.test", mail.message())
    mx.wait_command("^DATA")
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("second@dest.test")
        assert session.cmd("DATA").code == 354
        session.send(mail.message(body="x" * 70 + "\r\n"))
        node.reload({"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
                     "limits": {"message_size": "1KiB"},
                     "transport_map": [{"default": True, "route": "out"}]})
        gate.set()
        session.send(b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 100 + b".\r\n")
        assert session.reply().code == 250, "it was begun under the old limit"
    promise.case()
    mx.wait_mail()
    # It waited in the new configuration: that one says where it goes.
    assert hop.wait_mail().rcpts == ["second@dest.test"]
    node.wait_empty()
    assert len(mx.mails) == 1 and len(hop.mails) == 1
    promise.case()
    with node.client() as session:
        assert session.ehlo()["SIZE"] == "1024"


@pytest.mark.parametrize("after, how", AFTER if LONG else [
    (after, ("reload", "restart")[i // 2 % 2]) for i, (after, _) in enumerate(AFTER) if i % 2])
def test_j04_mail_of_a_removed_route_is_never_orphaned(world, promise, how, after):
    promise("J04", "mail that waits for a route that is removed is delivered, reported, or held")
    hop, back = world.remote("hop.test"), world.mx("src.test")
    hop.answer("rcpt", "451 4.3.0 later")
    mx = world.mx("dest.test")
    rest = [{"domains": ["src.test"], "route": "direct"}]
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "transport_map": [*rest, {"default": True, "route": "out"}]})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    rules = {"another route": [{"default": True, "route": "direct"}], "no rule": [],
             "reject": [{"default": True, "reject": "550 5.1.2 moved"}],
             "discard": [{"default": True, "discard": True}],
             "hold": [{"default": True, "hold": "to be looked at"}],
             "only a fence": [{"domains": ["dest.test"], "never_via": ["direct"]},
                              {"default": True, "route": "direct"}]}[after]
    node.config = {**node.config, "transport_map": rest + rules}
    del node.config["hops"]
    if how == "reload":
        node.reload()
    else:
        node.restart()
    if after == "another route":
        assert mx.wait_mail().rcpts == ["b@dest.test"]
    elif after == "discard":
        node.log.wait(event="attempt", msg=ident, outcome="discarded")
    elif after == "hold":
        until(lambda: [w["state"] for w in node.queue()] == ["held"], what="it to be held")
        node.config = {**node.config, "transport_map": [{"default": True, "route": "direct"}]}
        node.reload()
        node.ctl("queue", "release", ident)
        mx.wait_mail()
    else:
        report = mail.report(back.wait_mail().data)
        assert report.recipients[0]["Action"] == "failed"
        assert not mx.mails
    node.wait_empty()
    promise.case()
