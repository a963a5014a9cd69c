"""D04, D05, D06: trust by name: the addresses that DNS gives it at the moment, and nobody else's."""

import re
import socket
import threading
import urllib.request

import dns.message
import dns.rrset
import pytest

from rig import mail
from rig.node import binary
from rig.oddns import OddDns
from rig.proc import run
from rig.wait import until

pytestmark = pytest.mark.torture

NAME = "office.ddns.test"


def trusting(**entry):
    return {"trusted_clients": [{"host": NAME, "allow_private": True, **entry}]}


def may_relay(session):
    """The reply to one more recipient."""
    return session.rcpt("b@dest.test")


def attempt(node, source):
    with node.client(source=source) as session:
        session.ehlo()
        session.mail("a@src.test")
        return may_relay(session).code


def relay_denied(node):
    """Recipients refused to strangers, as the metrics count them."""
    url = f"http://{node.config['http']['address']}/metrics"
    text = urllib.request.urlopen(url, timeout=20).read().decode()
    return int(re.search(r"^relayd_relay_denied_total (\d+)$", text, re.M).group(1))


def wait_change(node, since=0, **fields):
    return node.log.wait(event="trusted_name", name=NAME, since=since, **fields)


def test_d04_the_name_moves_and_trust_moves_with_it_also_in_open_sessions(world, promise):
    promise("D04", "the name changes its address: trust follows, also in open sessions").case()
    old, new = world.take(), world.take()
    mx = world.mx("dest.test")
    world.dns.a(NAME, old)
    node = world.node(config=trusting())
    wait_change(node, added=old)
    node.submit("a@src.test", "b@dest.test", mail.message(), source=old)
    mx.wait_mail()
    assert attempt(node, new) == 554
    with node.client(source=old) as leaving, node.client(source=new) as coming:
        for session in (leaving, coming):
            session.ehlo()
            session.mail("a@src.test")
        assert may_relay(leaving).code == 250
        assert may_relay(coming).code == 554
        with world.dns:
            world.dns.remove(NAME)
            world.dns.a(NAME, new)
        change = wait_change(node, added=new)
        assert change["removed"] == old
        assert may_relay(leaving).code == 554
        assert may_relay(coming).code == 250
    assert attempt(node, old) == 554 and attempt(node, new) == 250


def test_d04_a_name_that_no_longer_exists_trusts_nobody(world, promise):
    promise("D04", "NXDOMAIN: nobody is trusted").case()
    office = world.take()
    world.mx("dest.test")
    world.dns.a(NAME, office)
    node = world.node(config=trusting())
    wait_change(node, added=office)
    assert attempt(node, office) == 250
    world.dns.remove(NAME)
    wait_change(node, removed=office, addresses=0)
    assert attempt(node, office) == 554
    assert not node.log.all(level="alert", alert="trusted_name")


def test_d04_without_dns_the_last_answer_stays_for_stale_max_with_an_alert(world, promise):
    promise("D04", "no DNS: the last answer for stale_max, with an alert, then nobody").case()
    office, http = world.take(), world.take()
    world.mx("dest.test")
    world.dns.a(NAME, office)
    node = world.node(config={**trusting(stale_max="8s"), "http": {"address": f"{http}:8025"}})
    wait_change(node, added=office)

    def metric(name):
        with urllib.request.urlopen(f"http://{http}:8025/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f'{name}{{name="{NAME}"}} '):
                    return float(line.split()[-1])
        return None

    assert metric("relayd_trusted_name_addresses") == 1
    assert metric("relayd_trusted_name_stale_seconds") == 0
    world.dns.stop()
    node.log.wait(level="alert", alert="trusted_name", text=lambda t: "kept for stale_max" in t)
    assert attempt(node, office) == 250
    assert metric("relayd_trusted_name_stale_seconds") > 0
    assert any(NAME in str(a) for a in node.ctl_json("status")["alerts"])
    wait_change(node, removed=office, reason="stale_max is over")
    assert attempt(node, office) == 554
    assert metric("relayd_trusted_name_addresses") == 0
    world.dns.start()
    mark = node.log.mark()
    until(lambda: attempt(node, office) == 250, 60, "trust after DNS has come back", every=0.5)
    assert wait_change(node, since=mark - 1, added=office)


def test_d05_loopback_is_refused_unless_allowed_and_a_reload_says_so_too(world, promise):
    promise("D05", "loopback is refused unless allowed").case()
    office = world.take()
    world.mx("dest.test")
    world.dns.a(NAME, office)
    node = world.node(config=trusting(allow_private=False))
    refused = node.log.wait(event="trusted_name_refused", name=NAME)
    assert (refused["address"], refused["reason"]) == (office, "loopback")
    assert attempt(node, office) == 554
    node.reload(trusting())
    wait_change(node, added=office)
    assert attempt(node, office) == 250
    node.reload(trusting(allow_private=False))
    assert attempt(node, office) == 554


def test_d05_more_than_sixteen_addresses_are_refused_whole(world, promise):
    promise("D05", "a flood of addresses is refused whole").case()
    office, others = world.take(), [world.take() for _ in range(16)]
    world.mx("dest.test")
    world.dns.a(NAME, *others, office)
    node = world.node(config=trusting())
    node.log.wait(level="alert", alert="trusted_name", text=lambda t: "too many addresses" in t)
    assert attempt(node, office) == 554
    world.dns.remove(NAME)
    world.dns.a(NAME, office)
    wait_change(node, added=office)
    assert attempt(node, office) == 250


def test_d04_silent_dns_delays_neither_the_start_nor_a_session(world, promise):
    promise("D04", "silent DNS delays nobody and trusts nobody").case()
    office = world.take()
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = world.take()
    silent.bind((address, 53))
    with silent:
        node = world.node(config={
            "resolver": {"servers": [f"{address}:53"], "timeout": "30s"},
            "trusted_clients": [{"host": NAME, "allow_private": True}]})
        assert attempt(node, office) == 450
        node.reload()
        assert not node.log.all(event="trusted_name")  # the question is still open
        node.stop()


def test_d04_auth_and_tls_can_be_asked_besides_the_address(world, promise):
    promise("D04", "require: the address alone is not enough").case()
    office, elsewhere = world.take(), world.take()
    world.mx("dest.test")
    world.dns.a(NAME, office)
    server = world.ca.issue("smtp-cn.relay.test")
    node = world.node(config={
        "tls": {"certificate_file": server.cert_file, "private_key_file": server.key_file},
        **trusting(require=["tls"])})
    wait_change(node, added=office)
    assert attempt(node, office) == 554
    for source, code in ((office, 250), (elsewhere, 554)):
        with node.client(source=source) as session:
            session.ehlo()
            session.starttls()
            session.ehlo()
            session.mail("a@src.test")
            assert may_relay(session).code == code


def test_d05_a_name_that_a_client_gives_itself_proves_nothing(world, promise):
    """HELO and PTR are the client's own words; only the configured name's addresses count."""
    promise("D05", "no trust by PTR or HELO").case()
    office, stranger = world.take(), world.take()
    world.mx("dest.test")
    world.dns.a(NAME, office)
    reverse = ".".join(reversed(stranger.split("."))) + ".in-addr.arpa"
    world.dns.add(reverse, "PTR", NAME + ".")
    node = world.node(config=trusting())
    wait_change(node, added=office)
    with node.client(source=stranger) as session:
        session.ehlo(NAME)
        session.mail("a@src.test")
        assert may_relay(session).code == 554


@pytest.mark.parametrize("answers, code", [
    ([("{n}", "CNAME", "a.ddns.test."), ("a.ddns.test", "CNAME", "b.ddns.test."), ("b.ddns.test", "A", "{good}")], 250),
    ([("other.test", "A", "{good}")], 554),
    ([("{n}", "CNAME", "{n}.")], 450),
    ([("{n}", "A", "{good}"), ("other.test", "A", "{bad}")], 250),
    ([("{n}", "A", a) for a in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "127.0.0.1", "10.0.0.1",
                                "169.254.169.254", "192.168.1.1")], 554),
], ids=["aliases", "another name", "an alias loop", "another name beside it", "special addresses"])
def test_d05_answers_that_try_to_name_more_than_the_name(world, promise, answers, code):
    promise("D05", "aliases are followed; records of other names and addresses of nobody are refused").case()
    office, stranger = world.take(), world.take()

    def answer(name, kind):
        if kind != "A" or name not in (NAME, "a.ddns.test", "b.ddns.test"):
            return []
        return [tuple(t.format(n=NAME, good=office, bad=stranger) for t in row) for row in answers]

    resolver = world.keep(OddDns(world.take(), answer))
    node = world.node(config={**trusting(allow_private="127.0.0.1" not in str(answers)),
                              "resolver": {"servers": [resolver.server], "timeout": "1s"}})
    until(lambda: (NAME, "A") in resolver.asked, what="the question")
    if code == 250:
        wait_change(node, added=office)
    else:
        until(lambda: node.log.all(event="trusted_name_refused") or node.log.all(alert="trusted_name") or
              resolver.asked.count((NAME, "A")) > 1 or (NAME, "AAAA") in resolver.asked, what="its answer to be judged")
    assert attempt(node, office) == code
    for source in (stranger, None):
        assert attempt(node, source) == (450 if code == 450 else 554)


def test_d05_own_address_of_the_relay_is_refused(world, promise):
    promise("D05", "a name that answers with an address of the relay itself trusts nobody").case()
    found = re.findall(r" inet (\d[\d.]+)/", run("ip", "-o", "-4", "addr", "show", "scope", "global").stdout)
    if not found:
        pytest.skip("this machine has no address but loopback")
    world.dns.a(NAME, found[0])
    node = world.node(config=trusting())
    refused = node.log.wait(event="trusted_name_refused", name=NAME)
    assert (refused["address"], refused["reason"]) == (found[0], "our own")
    assert attempt(node, found[0]) == 554


class Forger:
    """A resolver whose true answer comes last: before it, what others could send (RFC 5452)."""

    def __init__(self, address, elsewhere, good, evil):
        self.server, self.forged = f"{address}:53", 0
        self._good, self._evil = good, evil
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for s, at in zip(self._sockets, ((address, 53), (address, 5300), (elsewhere, 53))):
            s.bind(at)
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        for s in self._sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def logs(self):
        return []

    def _answer(self, query, address):
        reply = dns.message.make_response(query, recursion_available=True)
        if query.question[0].rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
        return reply

    def _serve(self):
        here, port, elsewhere = self._sockets
        while True:
            try:
                wire, peer = here.recvfrom(65535)
            except OSError:
                return
            if not wire:
                return
            query = dns.message.from_wire(wire)
            forged = self._answer(query, self._evil)
            true = forged.to_wire()
            for from_, data in (
                    (port, true), (elsewhere, true),                          # another port, another address
                    *((here, bytes([wire[0] ^ bit, wire[1]]) + true[2:]) for bit in (1, 2, 128)),  # another id
                    (here, dns.message.make_response(dns.message.make_query("evil.test", "A")).to_wire()),
                    (here, true[:7]), (here, true[:11]), (here, b""),         # short, empty
                    (here, wire[:2] + true[2:].replace(b"\x06office", b"\x060ffice"))):  # another question
                from_.sendto(data, peer)
                self.forged += 1
            here.sendto(self._answer(query, self._good).to_wire(), peer)


def test_d06_forged_answers_are_not_believed(world, promise):
    promise("D06", "answers with another id, question, port or address, short ones: ignored (RFC 5452)")
    office, evil = world.take(), world.take()
    forger = world.keep(Forger(world.take(), world.take(), office, evil))
    node = world.node(config={**trusting(), "resolver": {"servers": [forger.server], "timeout": "5s"}})
    wait_change(node, added=office)
    promise.case(forger.forged)
    assert forger.forged >= 9
    assert attempt(node, evil) == 554
    assert attempt(node, office) == 250
    assert not node.log.all(event="trusted_name", added=lambda a: evil in a)


def test_d07_trusted_networks_mean_their_addresses_and_no_others(world, promise):
    promise("D07", "CIDR to the bit; forms that other programs read otherwise are refused at start")
    addresses = [world.take() for _ in range(40)]
    prefix = addresses[0].rsplit(".", 1)[0]
    world.mx("dest.test")
    node = world.node(config={"trusted_clients": [{"cidr": [f"{prefix}.8/30", f"::ffff:{prefix}.20", f"{prefix}.33/32"]}]})
    for a in addresses:
        last = int(a.rsplit(".", 1)[1])
        assert attempt(node, a) == (250 if last in (8, 9, 10, 11, 20, 33) else 554), a
        promise.case()
    for bad in ("0177.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1/33", "127.0.0.0/8/8", "127.0.0.0/-1",
                "010.0.0.0/8", "127.0.0.0/08", "fe80::1%lo", "127.0.0.*", "localhost", "", "/8", "127.0.0.0/",
                "::ffff:127.0.0.0/129", "127.0.0.0-127.0.0.9", "127.0.0.256", "127.0.0.1 127.0.0.2", "[::1]"):
        node.write_config({"trusted_clients": [{"cidr": bad}]})
        done = run(binary("relayd"), "-c", node.config_file, "--check", check=False)
        assert done.returncode == 78 and "trusted_clients" in done.stdout + done.stderr, (bad, done.stdout, done.stderr)
        promise.case()


def test_d04_who_may_be_meant_by_a_name_is_not_refused_for_good_before_dns_has_answered(world,
                                                                                        promise):
    promise("D04", "before DNS has answered nobody is trusted, and nobody told to go away for good")
    office, answers = world.take(), threading.Event()

    def zone(name, kind):
        if not answers.is_set():
            return OddDns.SILENCE
        return [(name, "A", office)] if (name, kind) == (NAME, "A") else []

    server = world.keep(OddDns(world.take(), zone))
    node = world.node(config={"resolver": {"servers": [server.server], "timeout": "1s"},
                              "http": {"address": f"{world.take()}:8025"},
                              "limits": {"recipients_per_message": 5}, **trusting()})
    for source in (office, world.take()):
        assert attempt(node, source) == 450
        promise.case()
    assert relay_denied(node) == 0
    with node.client() as session:  # nobody tries for ever
        session.ehlo()
        session.mail("a@src.test")
        codes = [may_relay(session).code for _ in range(26)]
        assert set(codes[:-1]) == {450} and codes[-1] == 421, codes
    answers.set()
    node.restart()
    wait_change(node, added=office)
    assert attempt(node, office) == 250 and attempt(node, world.take()) == 554
    assert relay_denied(node) == 1


def test_d04_a_name_that_a_reload_took_away_stands_for_nobody_in_open_sessions(world, promise):
    promise("D04", "a name that was taken away is nobody's, not one that is not known yet").case()
    world.dns.a(NAME, world.take())
    others = {"cidr": "203.0.113.0/24"}
    node = world.node(config={"trusted_clients": [*trusting()["trusted_clients"], others]})
    node.log.wait(event="trusted_name", name=NAME)
    with node.client(source=world.take()) as session:
        session.ehlo()
        session.mail("a@src.test")
        assert may_relay(session).code == 554
        node.reload({"trusted_clients": [others]})
        assert may_relay(session).code == 554
