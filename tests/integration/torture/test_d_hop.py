"""D08, D09: the overseas node takes only its home node, which gives itself to nobody else; loops end."""

import re
import ssl

import pytest

from rig import mail, smtp
from rig.certs import Authority
from rig.chain import Chain
from rig.remote import CLOSE
from rig.wait import until

pytestmark = pytest.mark.torture


GUESSES = [("cn", "wrong"), ("us", "secret of cn"), ("", "secret of cn"), ("cn", ""), ("CN", "secret of cn"),
           ("cn", "secret of cn ")]


def test_d08_overseas_node_takes_only_who_logs_in(world, promise):
    promise("D08", "plain, TLS without AUTH, wrong password, foreign certificates, the home node's name: refused")
    mx = world.mx("dest.test")
    chain = Chain(world, [{"default": True, "route": "us"}])
    us = chain.us
    foreign = Authority(world.dir / "foreign").issue("smtp-cn.relay.test", client=True)
    ours = world.ca.issue("smtp-cn.relay.test", client=True)

    def refused(session, what):
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code in (530, 554), what
        assert session.cmd("DATA").code in (503, 554), what
        promise.case()

    def client(context=None):
        session = us.client(source=world.take())
        session.ehlo("smtp-cn.relay.test")
        if context:
            assert session.starttls(context).code == 220
            session.ehlo("smtp-cn.relay.test")
        return session

    with client() as session:
        refused(session, "plain")
    for certificate in (None, foreign, ours):
        with client(smtp.insecure_context(certificate)) as session:
            refused(session, f"certificate {certificate}")
            for user, password in GUESSES if certificate is None else GUESSES[:1]:
                with client(smtp.insecure_context(certificate)) as guesser:
                    assert guesser.auth_plain(user, password).code in (501, 535, 421), (user, password)
                    promise.case()
            refused(session, "after guesses of others")
    with client() as session:
        assert session.auth_plain("cn", "secret of cn").code == 538
        refused(session, "the right password in clear")
    assert not mx.mails
    chain.cn.submit("a@src.test", "b@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    chain.cn.wait_empty()
    assert not any("secret of cn" in line for node in (us, chain.cn) for line in node.log.lines())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("what", ["no STARTTLS", "another CA", "another name", "TLS 1.1", "STARTTLS refused",
                                  "nothing behind 220"])
def test_d08_home_node_gives_itself_to_no_impostor(world, promise, what):
    promise("D08", f"a hop with {what}: no password, no envelope, no octet of mail; it waits")
    certificate = world.ca.issue("smtp-us.relay.test")
    if what == "another CA":
        certificate = Authority(world.dir / "evil").issue("smtp-us.relay.test")
    if what == "another name":
        certificate = world.ca.issue("evil.test")
    hop = world.remote("smtp-us.relay.test", port=587, auth={"cn": "secret of cn"},
                       certificate=None if what == "no STARTTLS" else certificate)
    if what == "TLS 1.1":
        hop._context.minimum_version = ssl.TLSVersion.TLSv1
        hop._context.maximum_version = ssl.TLSVersion.TLSv1_1
    if what == "STARTTLS refused":
        hop.answer("starttls", "454 4.7.0 not now")
    if what == "nothing behind 220":
        hop.answer("starttls", lambda session: (session.send("220 go\r\n"), CLOSE)[1])
    node = world.node(start=False)
    secret = node.file("us.secret", "secret of cn\n")
    node.write_config({"hops": {"us": {"address": "smtp-us.relay.test:587", "ca_file": world.ca.file,
                                       "auth": {"username": "cn", "password_file": secret}}},
                       "transport_map": [{"default": True, "route": "us"}]})
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    promise.case()
    assert not [c for c in hop.commands() if re.match(r"(AUTH|MAIL|RCPT|DATA)\b", c, re.I)], hop.commands()
    assert len(node.queue()) == 1
    assert not any("secret of cn" in line for line in node.log.lines())
    node.ctl("queue", "remove", "--domain", "dest.test")


def two_nodes(world, home_rules, **config):
    """cn sends everything else to us, and us everything to cn."""
    cn, us = world.node("cn", start=False), world.node("us", start=False)
    quick = {"queue": {"retry": {"intervals": ["1s"]}}}
    cn.write_config({"hops": {"us": {"address": f"{us.address}:{us.port}", "tls": "off"}},
                     "transport_map": [*home_rules, {"default": True, "route": "us"}], **quick, **config})
    us.write_config({"hops": {"cn": {"address": f"{cn.address}:{cn.port}", "tls": "off"}},
                     "transport_map": [{"default": True, "route": "cn"}], **quick, **config})
    return cn.start(), us.start()


def received(*nodes):
    return sum(len(node.log.all(event="received")) for node in nodes)


def test_d09_two_nodes_that_point_at_each_other_end_it_with_one_report(world, promise):
    promise("D09", "home, hop, home, hop: refused as a loop, one report 5.4.6 to the sender, no storm")
    home = world.mx("src.test")
    cn, us = two_nodes(world, [{"domains": ["src.test"], "route": "direct"}])
    for n in range(1, 6):
        cn.submit("a@src.test", "b@loop.test", mail.message())
        reports = home.wait_mail(n) if n > 1 else [home.wait_mail()]
        promise.case()
    cn.wait_empty()
    us.wait_empty()
    assert len(home.mails) == 5
    for m in reports:
        report = mail.report(m.data)
        assert m.rcpts == ["a@src.test"] and report.recipients[0]["Action"] == "failed"
        assert report.recipients[0]["Status"] == "5.4.6", m.data
    # Each passed each node at most three times, its report twice.
    assert received(cn, us) <= 5 * 7, received(cn, us)


def test_d09_loop_of_the_reports_too_ends(world, promise):
    promise("D09", "when the report's own way is the same loop: it ends, held or dropped, with an alert")
    cn, us = two_nodes(world, [])
    cn.submit("a@src.test", "b@loop.test", mail.message())
    until(lambda: not [i for node in (cn, us) for i in node.queue() if i["state"] != "held"]
          and received(cn, us) > 3, what="the loop to end", every=0.2)
    settled = received(cn, us)
    promise.case()
    assert settled <= 12, settled
    held = [i for node in (cn, us) for i in node.queue()]
    assert len(held) <= 1, held
    if held:
        assert held[0]["sender"] in ("", "<>"), held
        assert any(node.log.all(level="alert") for node in (cn, us))
        for node in (cn, us):
            node.ctl("queue", "remove", "--state", "held", check=False)


def test_d09_node_that_points_at_itself_ends_it(world, promise):
    promise("D09", "a hop that is this very node: refused at start by address, ended in a few rounds by name")
    home = world.mx("src.test")
    address = world.take()
    world.dns.a("myself.test", address)
    node = world.node(address=address, start=False, config={
        "hops": {"self": {"address": f"{address}:2525", "tls": "off"}},
        "transport_map": [{"domains": ["src.test"], "route": "direct"}, {"default": True, "route": "self"}]})
    node.start(ready=False)
    assert node.wait_exit() == 78
    promise.case()
    node.write_config({"hops": {"self": {"address": "myself.test:2525", "tls": "off"}}})
    node.start()
    node.submit("a@src.test", "b@loop.test", mail.message())
    report = mail.report(home.wait_mail().data)
    assert report.recipients[0]["Status"] == "5.4.6"
    node.wait_empty()
    assert received(node) <= 5
    promise.case()


def test_d09_mx_that_is_this_node_is_never_delivered_to(world, promise):
    promise("D09", "an MX that is our own listener, by name, alone or as the best: no connection to ourselves")
    home = world.mx("src.test")
    address = world.take()
    node = world.node(address=address, port=25)
    world.dns.a("own.test", address)
    world.dns.mx("loop.test", "own.test")
    world.dns.a("loop2.test", address)
    other = world.remote("worse.test")
    world.dns.add("loop3.test", "MX", "10 own.test.")
    world.dns.add("loop3.test", "MX", "20 worse.test.")
    for domain in ("loop.test", "loop2.test", "loop3.test"):
        node.submit("a@src.test", f"b@{domain}", mail.message())
        promise.case()
    reports = home.wait_mail(3)
    assert all(mail.report(m.data).recipients[0]["Status"].startswith("5.4.") for m in reports)
    node.wait_empty()
    assert not other.sessions and received(node) == 3 + 3, "three messages, three reports"


def test_d09_message_that_passed_here_twice_is_refused(world, promise):
    promise("D09", "two Received fields of this very node: 554 5.4.6, whoever sends it").case()
    mx = world.mx("dest.test")
    node = world.node()
    data = mail.message()
    for n in (1, 2):
        node.submit("a@src.test", "b@dest.test", data)
        data = mx.wait_mail(2)[-1].data if n > 1 else mx.wait_mail().data
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        session.rcpt("b@dest.test")
        reply = session.data(data)
        assert reply.code == 554 and reply.text.startswith("5.4.6"), str(reply)
    # Fields that only look like ours are somebody else's.
    with node.client() as session:
        session.ehlo()
        fields = [f"Received: from x by {by} ({c}); Fri, 20 Nov 2026 10:00:00 +0000" for by, c in
                  (("other.test", "relayd cn"), ("xsmtp-cn.relay.test", "relayd"), ("smtp-cn.relay.test", "Postfix"))]
        session.submit("a@src.test", "b@dest.test", mail.message(headers=fields * 3))
    mx.wait_mail(3)
    node.wait_empty()
