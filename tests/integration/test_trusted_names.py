"""Trust by name: the addresses that DNS gives a name at the moment, and nobody else's."""

import socket
import urllib.request

from rig import mail
from rig.wait import until

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


def wait_change(node, since=0, **fields):
    return node.log.wait(event="trusted_name", name=NAME, since=since, **fields)


def test_the_name_moves_and_trust_moves_with_it_also_in_open_sessions(world):
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


def test_a_name_that_no_longer_exists_trusts_nobody(world):
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


def test_without_dns_the_last_answer_stays_for_stale_max_with_an_alert(world):
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


def test_loopback_is_refused_unless_allowed_and_a_reload_says_so_too(world):
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


def test_more_than_sixteen_addresses_are_refused_whole(world):
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


def test_silent_dns_delays_neither_the_start_nor_a_session(world):
    office = world.take()
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = world.take()
    silent.bind((address, 53))
    with silent:
        node = world.node(config={
            "resolver": {"servers": [f"{address}:53"], "timeout": "30s"},
            "trusted_clients": [{"host": NAME, "allow_private": True}]})
        assert attempt(node, office) == 554
        node.reload()
        assert not node.log.all(event="trusted_name")  # the question is still open
        node.stop()


def test_auth_and_tls_can_be_asked_besides_the_address(world):
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


def test_a_name_that_a_client_gives_itself_proves_nothing(world):
    """HELO and PTR are the client's own words; only the configured name's addresses count."""
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
