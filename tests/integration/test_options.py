"""Each option of the configuration does what relayd.yaml(5) says, seen from outside."""

import re
import socket
import ssl
import threading
import time

import pytest

from rig import mail, smtp
from rig.remote import SILENCE
from rig.wait import PATIENCE, until

HOUR = {"retry": {"intervals": ["1h"]}}


def ipv6_works():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    except OSError:
        return False


def free_port6():
    """A port that nobody has on the one loopback address that IPv6 has."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as s:
        return s.getsockname()[1]


# -- timeouts: each one is that of its own phase

@pytest.mark.parametrize("option, stage, phase", [
    ("greeting", "greeting", "greeting"), ("ehlo", "ehlo", "ehlo"), ("mail", "mail", "mail"),
    ("rcpt", "rcpt", "rcpt"), ("data", "data", "data"), ("final_dot", "dot", "body-end")])
def test_timeout_of_each_phase(world, option, stage, phase):
    mx = world.mx("dest.test")
    mx.answer(stage, SILENCE)
    node = world.node(config={"queue": HOUR, "timeouts": {option: "1s"}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred", timeout=15)
    assert (line["phase"], line["origin"]) == (phase, "net")
    assert float(line["delay"]) >= 0.9
    assert ("maybe_twice" in line) == (option == "final_dot")


def test_timeout_of_connect(world):
    """A host whose backlog is full never answers the SYN."""
    address = world.take()
    world.dns.site("dest.test", "mx.dest.test", address)
    with socket.socket() as full:
        full.bind((address, 25))
        full.listen(0)
        clients = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, 25))
            clients.append(client)
        node = world.node(config={"queue": HOUR, "timeouts": {"connect": "1s"}})
        ident = node.submit("a@src.test", "b@dest.test", mail.message())
        line = node.log.wait(event="attempt", msg=ident, outcome="deferred", timeout=15)
        assert line["phase"] == "connect" and 0.9 <= float(line["connect"]) < 10 * PATIENCE
        for client in clients:
            client.close()


@pytest.mark.parametrize("option, stage", [("starttls", "starttls"), ("auth", "auth")])
def test_timeout_of_starttls_and_auth_at_a_hop(world, option, stage):
    hop = world.remote("hop.test", certificate=world.ca.issue("hop.test"), auth={"cn": "x"})
    hop.answer(stage, SILENCE)
    node = world.node(start=False)
    secret = node.file("secret", "x\n")
    node.write_config({
        "queue": HOUR, "timeouts": {option: "1s"},
        "hops": {"out": {"address": "hop.test:25", "ca_file": world.ca.file,
                         "auth": {"username": "cn", "password_file": secret}}},
        "transport_map": [{"default": True, "route": "out"}]})
    node.start()
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred", timeout=15)
    assert line["phase"] == stage


def test_timeout_of_a_host_that_stops_reading(world):
    mx = world.mx("dest.test")

    def stuck(session):
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        session.send("354 go\r\n")
        session.remote._stopping.wait()

    mx.answer("data", stuck)
    node = world.node(config={"queue": HOUR, "timeouts": {"block": "1s"}})
    big = mail.message(body=("x" * 76 + "\r\n") * 200000)
    ident = node.submit("a@src.test", "b@dest.test", big)
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred", timeout=30)
    assert (line["phase"], line["origin"]) == ("data", "net")


def test_timeout_of_quit_frees_the_connection(world):
    mx = world.mx("dest.test")
    mx.answer("quit", SILENCE)
    node = world.node(config={"timeouts": {"quit": "1s"},
                              "shaping": {"default": {"max_messages_per_connection": 1}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^QUIT")
    until(lambda: node.ctl_json("status")["sessions"]["out"] == 0, 10, "the connection to be gone")


# -- where from, which port, which address family

def test_direct_binds_the_source_address_and_uses_the_port(world):
    mx = world.mx("dest.test", port=2525)
    source = world.take()
    node = world.node(config={"direct": {"port": 2525, "source": {"v4": source}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert mx.wait_mail().peer[0] == source
    assert mx.mails[0].helo == "smtp-cn.relay.test"


@pytest.mark.skipif(not ipv6_works(), reason="no IPv6 loopback here")
@pytest.mark.parametrize("direct, family", [
    ({}, 4), ({"source": {"v6": "::1"}}, 6), ({"ip_version": 6}, 6),
    ({"ip_version": 4, "source": {"v6": "::1"}}, 4)])
def test_ip_version_and_source_choose_the_family(world, direct, family):
    port = free_port6()
    four = world.mx("dest.test", port=port)
    six = world.remote("six.test", address="::1", port=port, start=False)
    six._listener = socket.create_server(("::1", port), family=socket.AF_INET6, backlog=16)
    threading.Thread(target=six._accept, args=(six._listener,), daemon=True).start()
    world.dns.a("mx.dest.test", "::1")
    node = world.node(config={"direct": {"port": port, **direct}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    until(lambda: four.mails or six.mails, what="the message")
    assert bool(four.mails) == (family == 4) and bool(six.mails) == (family == 6)


def test_ip_version_6_never_uses_ipv4(world):
    mx = world.mx("dest.test")
    node = world.node(config={"queue": HOUR, "direct": {"ip_version": 6}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert line["outcome"] != "delivered" and not mx.sessions


# -- limits of receiving

def test_recipients_beyond_the_limit_are_told_to_come_later(world):
    mx = world.mx("dest.test")
    node = world.node(config={"limits": {"recipients_per_message": 3}})
    with node.client() as c:
        c.ehlo()
        assert c.mail("a@src.test").code == 250
        codes = [str(c.rcpt(f"u{i}@dest.test"))[:9] for i in range(5)]
        assert codes == ["250 2.1.5"] * 3 + ["452 4.5.3"] * 2
        c.data(mail.message())
    assert len(mx.wait_mail().rcpts) == 3


def test_sessions_beyond_the_limit_get_421(world):
    node = world.node(config={"limits": {"sessions": 5, "sessions_per_client": 5}})
    clients = [node.client() for _ in range(5)]
    with node.client(greet=False) as c:
        assert str(c.reply()).startswith("421 4.3.2")
    clients.pop().close()
    until(lambda: node.ctl_json("status")["sessions"]["in"] < 5, what="a free place")
    assert node.client().greeting.code == 220


def test_received_hops_are_counted(world):
    world.mx("dest.test")
    node = world.node(config={"limits": {"received_hops": 3}})
    hops = tuple(f"Received: from h{i}.test by h.test; Fri, 20 Nov 2026 10:00:00 +0000"
                 for i in range(3))
    with node.client() as c:
        c.ehlo()
        c.submit("a@src.test", "b@dest.test", mail.message(headers=hops[:2]))
        c.mail("a@src.test")
        c.rcpt("b@dest.test")
        assert str(c.data(mail.message(headers=hops))).startswith("554 5.4.6")


def test_bodies_are_read_from_the_queue_when_no_memory_is_given(world):
    mx = world.mx("dest.test")
    node = world.node(config={"limits": {"memory": 0}})
    message = mail.message(body="kept on disk\r\n" * 1000)
    node.submit("a@src.test", "b@dest.test", message)
    assert mx.wait_mail().data.endswith(message)


def test_tls_min_version_of_the_listeners(world):
    certificate = world.ca.issue("relay.test")
    node = world.node(config={"tls": {"certificate_file": certificate.cert_file,
                                      "private_key_file": certificate.key_file,
                                      "min_version": "1.3"}})
    old = smtp.insecure_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with node.client() as c:
        c.ehlo()
        assert c.cmd("STARTTLS").code == 220
        with pytest.raises((ssl.SSLError, OSError)):
            c.wrap(old)
    with node.client() as c:
        c.ehlo()
        c.starttls()
        assert c.tls == "TLSv1.3"


def test_implicit_listener_and_required_tls(world):
    certificate = world.ca.issue("relay.test")
    mx = world.mx("dest.test")
    node = world.node(start=False)
    plain = f"{node.address}:2526"
    node.write_config({
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "listeners": [{"address": f"{node.address}:{node.port}", "tls": "implicit"},
                      {"address": plain, "tls": "starttls"}],
        "trusted_clients": [{"cidr": "127.0.0.0/8", "require": ["tls"]}]})
    node.start()
    with node.client(implicit_tls=smtp.insecure_context()) as c:
        assert "STARTTLS" not in c.ehlo()
        c.submit("a@src.test", "b@dest.test", mail.message())
    assert mail.received(mx.wait_mail().data)[0].count("with ESMTPS ") == 1
    with smtp.Client(node.address, 2526) as c:
        c.ehlo()
        c.mail("a@src.test")
        assert c.rcpt("b@dest.test").code == 554
        c.cmd("RSET")
        c.starttls()
        c.ehlo()
        c.submit("a@src.test", "b@dest.test", mail.message())


# -- retrying

def test_max_age_bounce_is_that_of_the_null_sender(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"retry": {
        "intervals": ["1s"], "jitter": "0%", "max_age": "1h", "max_age_bounce": "2s"}}})
    from_us = node.submit("a@src.test", "b@dest.test", mail.message())
    bounce = node.submit("", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=bounce, outcome="failed")
    assert not node.log.all(event="attempt", msg=from_us, outcome="failed")


# -- resolver

def test_second_resolver_is_asked_when_the_first_is_dead(world):
    mx = world.mx("dest.test")
    dead = world.take()
    node = world.node(config={"resolver": {"servers": [f"{dead}:53", world.dns.server],
                                           "timeout": "1s"}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()


def test_sixteenth_resolver_is_asked_when_all_others_are_dead(world):
    mx = world.mx("dest.test")
    dead = [f"{world.take()}:53" for _ in range(15)]
    node = world.node(config={"resolver": {"servers": [*dead, world.dns.server],
                                           "timeout": "50ms"}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    assert node.log.wait(event="attempt", msg=ident)["outcome"] == "delivered"


def test_resolver_changes_at_reload(world):
    mx = world.mx("dest.test")
    node = world.node(config={
        "queue": HOUR, "resolver": {"servers": [f"{world.take()}:53"], "timeout": "1s"}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred", phase="dns", timeout=30)
    node.reload({"resolver": {"servers": [world.dns.server]}})
    node.ctl("queue", "retry", ident)
    mx.wait_mail()


# -- shaping

def concurrent(remote, delay=0.3):
    """Watch how many transactions a remote has at a time."""
    seen = {"now": 0, "most": 0}

    def slow(session):
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        time.sleep(delay)  # the remote is slow: that is what is tested, nothing waits for it
        seen["now"] -= 1
        return "250 2.1.0 ok"

    remote.answer("mail", slow)
    return seen


def test_provider_entry_shapes_its_sites_and_leaves_others(world):
    special, other = world.mx("qq.test", "mx3.qq.test"), world.mx("dest.test")
    watched, free = concurrent(special), concurrent(other)
    node = world.node(config={"shaping": {
        "default": {"max_connections": 3},
        "providers": [{"mx": ["*.qq.test"], "max_connections": 2},
                      {"mx": ["mx3.qq.test"], "max_connections": 1,
                       "max_messages_per_connection": 2}]}})
    with node.client() as c:
        c.ehlo()
        for i in range(6):
            c.submit("a@src.test", f"u{i}@qq.test", mail.message())
            c.submit("a@src.test", f"u{i}@dest.test", mail.message())
    special.wait_mail(6)
    other.wait_mail(6)
    assert watched["most"] == 1 and 2 <= free["most"] <= 3
    per_connection = [m.connection for m in special.mails]
    assert max(per_connection.count(n) for n in set(per_connection)) == 2
    explained = node.ctl_json("explain", "x@qq.test")
    assert explained["limits"] == {"max_connections": 1, "max_messages_per_connection": 2,
                                   "max_rate": "100/s"}


def test_rate_of_a_site_counts_messages(world):
    mx = world.mx("dest.test")
    node = world.node(config={"shaping": {"default": {"max_rate": "60/min"}}})
    with node.client() as c:
        c.ehlo()
        for i in range(4):
            c.submit("a@src.test", f"u{i}@dest.test", mail.message())
    mx.wait_mail(1)
    begun = time.monotonic()
    mx.wait_mail(4)
    assert time.monotonic() - begun > 1.5, "four messages at one a second"


def test_limits_of_a_hop_are_its_own(world):
    hop = world.remote("hop.test")
    watched = concurrent(hop)
    node = world.node(config={
        "shaping": {"default": {"max_connections": 9}},
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off", "max_connections": 2,
                         "max_messages_per_connection": 3}},
        "transport_map": [{"default": True, "route": "out"}]})
    with node.client() as c:
        c.ehlo()
        for i in range(12):
            c.submit("a@src.test", f"u{i}@x{i}.test", mail.message())
    hop.wait_mail(12)
    assert watched["most"] == 2
    per_connection = [m.connection for m in hop.mails]
    assert max(per_connection.count(n) for n in set(per_connection)) <= 3


# -- hops

def test_port_that_worked_is_remembered(world):
    address = world.take()
    hop = world.remote("hop.test", address=address, port=587)
    node = world.node(config={
        "hops": {"out": {"address": address, "ports": [465, 587], "tls": "off",
                         "max_messages_per_connection": 1}},
        "transport_map": [{"default": True, "route": "out"}]})
    first = node.submit("a@src.test", "b@x.test", mail.message())
    hop.wait_mail()
    # Now the first port answers, with something that is no TLS: it must not be tried again.
    decoy = world.remote("decoy.test", address=address, port=465)
    second = node.submit("a@src.test", "c@x.test", mail.message())
    hop.wait_mail(2)
    assert not decoy.sessions
    for ident in (first, second):
        assert node.log.wait(event="attempt", msg=ident)["peer"] == f"{address}:587"


LONG = "correct horse battery staple " * 17  # tokens of an API are long


def test_auth_login_is_used_when_the_hop_knows_nothing_else(world):
    hop = world.remote("hop.test", certificate=world.ca.issue("hop.test"), auth={"cn": LONG})
    plain = hop._do_ehlo

    def login_only(session, line):
        if session.tls:
            hop.answer("ehlo", f"250 {hop.hostname}\nAUTH LOGIN")
        plain(session, line)

    hop._do_ehlo = login_only
    node = world.node(start=False)
    secret = node.file("secret", LONG + "\n")
    node.write_config({
        "hops": {"out": {"address": "hop.test:25", "ca_file": world.ca.file,
                         "auth": {"username": "cn", "password_file": secret}}},
        "transport_map": [{"default": True, "route": "out"}]})
    node.start()
    node.submit("a@src.test", "b@x.test", mail.message())
    assert hop.wait_mail().auth == "cn"
    assert any(re.match("AUTH LOGIN", c) for c in hop.commands())


def test_tls_session_with_a_hop_is_resumed(world):
    hop = world.remote("hop.test", certificate=world.ca.issue("hop.test"))
    reused = []
    original = hop._handshake

    def handshake(session):
        original(session)
        reused.append(session.socket.session_reused)

    hop._handshake = handshake
    node = world.node(config={
        "hops": {"out": {"address": "hop.test:25", "ca_file": world.ca.file,
                         "max_messages_per_connection": 1}},
        "transport_map": [{"default": True, "route": "out"}]})
    for i in range(3):
        node.submit("a@src.test", f"u{i}@x.test", mail.message())
        hop.wait_mail(i + 1)
        hop.wait_command("^QUIT", count=i + 1)
    assert reused[0] is False and reused[-1] is True


# -- the small ones

def test_region_is_shown_in_status(world):
    node = world.node(config={"node": {"region": "CN"}})
    assert node.ctl_json("status")["region"] == "CN"
    assert "CN" in node.ctl("status").stdout


def test_classify_rules_decide_what_a_reply_means(world):
    """classify.rules come before the built-in ones, in the daemon as in relayctl classify."""
    mx = world.mx("dest.test")
    mx.answer("rcpt", "550 5.1.1 no such user here", times=1)
    node = world.node(config={
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "classify": {"rules": [{"name": "ours", "class": "server-busy", "action": "retry",
                                "match": "no such user here"}]}})
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert line["class"] == "server-busy"
    mx.wait_mail()


def test_disk_space_that_is_to_be_left_alone(world):
    world.mx("dest.test")
    node = world.node(config={"queue": {"min_free": "8TiB"}})
    with node.client() as c:
        c.ehlo()
        c.mail("a@src.test")
        reply = c.rcpt("b@dest.test")
        assert str(c.data(mail.message()) if reply.code == 250 else reply).startswith("452 4.3.1")
    assert not node.queue()
    node.reload({"queue": {"min_free": "64MiB"}})
    node.submit("a@src.test", "b@dest.test", mail.message())


def test_quota_of_the_queue(world):
    """Above it new mail waits outside; what leaves makes room again."""
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"max_size": "4MiB", **HOUR}})
    big = mail.message(body=("x" * 76 + "\r\n") * 2000)
    with node.client() as c:
        c.ehlo()
        taken, reply = 0, None
        while taken < 100:
            c.mail("a@src.test")
            c.rcpt("b@dest.test")
            reply = c.data(big)
            if reply.code != 250:
                break
            taken += 1
        assert str(reply).startswith("452 4.3.1") and 5 < taken < 40
        mx.behave()
        node.ctl("queue", "retry", "--all")
        mx.wait_mail(taken)
        node.wait_empty()
        c.submit("a@src.test", "b@dest.test", big)
