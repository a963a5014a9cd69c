"""Finding the hosts of a domain: RFC 5321 section 5.1, RFC 7505, and our own limits."""

import pytest

from rig import mail
from rig.wait import PATIENCE

PATIENT = {"queue": {"retry": {"intervals": ["1h"]}}}


def attempt(node, rcpt, sender="a@src.test", **fields):
    """Submit one message; its first attempt line."""
    ident = node.submit(sender, rcpt, mail.message())
    return node.log.wait(event="attempt", msg=ident, **fields)


def test_g01_preferred_host_is_used(world, promise):
    promise("G01", "preferred host is used").case()
    worse, better = world.remote("mx2.dest.test"), world.remote("mx1.dest.test")
    world.dns.mx("dest.test", (20, "mx2.dest.test"), (10, "mx1.dest.test"))
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert better.mails and not worse.sessions


def test_g01_equal_preferences_share_the_load(world, promise):
    promise("G01", "equal preferences share the load").case()
    hosts = [world.remote(f"mx{i}.dest.test") for i in range(2)]
    world.dns.mx("dest.test", (10, "mx0.dest.test"), (10, "mx1.dest.test"))
    node = world.node(config={"shaping": {"default": {"max_messages_per_connection": 1}}})
    for _ in range(24):
        node.submit("a@src.test", "b@dest.test", mail.message())
    node.wait_empty()
    counts = [len(h.mails) for h in hosts]
    assert sum(counts) == 24 and min(counts) >= 2, counts


def test_g01_dead_first_host_is_passed_over(world, promise):
    promise("G01", "dead first host is passed over").case()
    world.remote("mx1.dest.test", start=False)
    second = world.remote("mx2.dest.test")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    line = attempt(world.node(), "b@dest.test", outcome="delivered")
    assert line["peer"] == f"{second.address}:25"


def test_g01_host_that_greets_with_421_or_554_is_passed_over(world, promise):
    promise("G01", "host that greets with 421 or 554 is passed over").case()
    first, second = world.remote("mx1.dest.test"), world.remote("mx2.dest.test")
    third = world.remote("mx3.dest.test")
    first.answer("greeting", "421 4.3.2 busy")
    second.answer("greeting", "554 5.3.2 no service here")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test", "mx3.dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert third.mails


def test_g01_4xx_to_mail_goes_to_the_next_host(world, promise):
    promise("G01", "4xx to mail goes to the next host").case()
    first, second = world.remote("mx1.dest.test"), world.remote("mx2.dest.test")
    first.answer("mail", "451 4.3.0 not now")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert second.mails and not first.mails


def test_b01_every_host_greeting_with_5xx_counts_as_a_refusal(world, promise):
    promise("B01", "every host greeting with 5xx counts as a refusal").case()
    for i in (1, 2):
        world.remote(f"mx{i}.dest.test").answer("greeting", "554 5.3.2 we take no mail")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["code"] == "554" and line["phase"] == "greeting"


def test_b05_ehlo_refused_is_followed_by_helo(world, promise):
    promise("B05", "ehlo refused is followed by helo").case()
    mx = world.mx("dest.test")
    mx.answer("ehlo", "502 5.5.1 what?")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert [c.split()[0] for c in mx.commands()][:3] == ["EHLO", "HELO", "MAIL"]


def test_g01_domain_without_mx_is_reached_by_its_address(world, promise):
    promise("G01", "domain without MX is reached by its address").case()
    host = world.remote("dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert host.mails


def test_g01_cname_is_followed(world, promise):
    promise("G01", "CNAME is followed").case()
    mx = world.mx("real.test")
    world.dns.cname("alias.test", "real.test")
    attempt(world.node(), "b@alias.test", outcome="delivered")
    assert mx.mails[0].rcpts == ["b@alias.test"]


def test_g04_cname_loop_does_not_hang(world, promise):
    promise("G04", "CNAME loop does not hang").case()
    world.dns.cname("one.test", "two.test")
    world.dns.cname("two.test", "one.test")
    line = attempt(world.node(config=PATIENT), "b@one.test")
    assert line["phase"] == "dns" and line["outcome"] in ("deferred", "failed")


def test_g02_null_mx_fails_at_once_without_a_connection(world, promise):
    promise("G02", "null MX fails at once without a connection").case()
    world.dns.null_mx("dest.test")
    world.remote("dest.test")
    line = attempt(world.node(), "b@dest.test", outcome="failed")
    assert line["enh"] == "5.1.10"


def test_g02_nxdomain_fails(world, promise):
    promise("G02", "NXDOMAIN fails").case()
    line = attempt(world.node(), "b@nothere.test", outcome="failed")
    assert line["enh"] == "5.1.2" and line["phase"] == "dns"


def test_g02_domain_that_exists_without_mx_and_address_fails(world, promise):
    promise("G02", "domain that exists without MX and address fails").case()
    world.dns.txt("dest.test", "only text")
    line = attempt(world.node(), "b@dest.test", outcome="failed")
    assert line["phase"] == "dns" and line["enh"].startswith("5.")


def test_g03_servfail_is_retried(world, promise):
    promise("G03", "SERVFAIL is retried").case()
    line = attempt(world.node(config=PATIENT), "b@x.broken.test")
    assert line["outcome"] == "deferred" and line["enh"].startswith("4.4.")


def test_g03_resolver_that_does_not_answer_is_retried(world, promise):
    promise("G03", "resolver that does not answer is retried").case()
    node = world.node(config={**PATIENT, "resolver": {"servers": [f"{world.take()}:53"],
                                                      "timeout": "1s"}})
    line = attempt(node, "b@dest.test")
    assert line["outcome"] == "deferred"


def test_g04_mx_whose_address_is_missing_does_not_fall_back_to_the_domain(world, promise):
    promise("G04", "MX whose address is missing does not fall back to the domain").case()
    trap = world.remote("dest.test")
    world.dns.mx("dest.test", "nowhere.dest.test")
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not trap.sessions


def test_g08_our_own_address_as_mx_is_dropped_with_all_worse_ones(world, promise):
    """Mail must not be sent in a circle, nor to a host that would send it back to us."""
    promise("G08", "our own address as MX is dropped with all worse ones").case()
    worse = world.remote("worse.dest.test")
    node = world.node(config=PATIENT, port=25)
    world.dns.a("self.dest.test", node.address)
    world.dns.mx("dest.test", (10, "self.dest.test"), (20, "worse.dest.test"))
    line = attempt(node, "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not worse.sessions
    # Received once, from the client; the other one is the notice that it cannot be delivered.
    assert len([e for e in node.log.all(event="received") if e["client"] != "notice"]) == 1


def test_g08_better_host_than_ourselves_is_still_used(world, promise):
    promise("G08", "better host than ourselves is still used").case()
    best = world.remote("best.dest.test")
    node = world.node(port=25)
    world.dns.a("self.dest.test", node.address)
    world.dns.mx("dest.test", (10, "best.dest.test"), (20, "self.dest.test"))
    attempt(node, "b@dest.test", outcome="delivered")
    assert best.mails


def test_g08_loopback_mx_is_refused_unless_private_addresses_are_allowed(world, promise):
    promise("G08", "loopback MX is refused unless private addresses are allowed").case()
    mx = world.mx("dest.test")
    node = world.node(config={**PATIENT, "direct": {"allow_private": False}})
    line = attempt(node, "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not mx.sessions


def test_g04_at_most_five_hosts_an_attempt(world, promise):
    promise("G04", "at most five hosts an attempt").case()
    hosts = [world.remote(f"mx{i}.dest.test") for i in range(8)]
    for host in hosts:
        host.answer("greeting", "421 4.3.2 busy")
    world.dns.mx("dest.test", *[f"mx{i}.dest.test" for i in range(8)])
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["outcome"] == "deferred"
    assert [len(h.sessions) for h in hosts] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_g04_two_addresses_of_a_host_at_most(world, promise):
    promise("G04", "two addresses of a host at most").case()
    first = world.remote("mx.dest.test", start=False)
    others = [world.remote("mx.dest.test") for _ in range(3)]
    world.dns.remove("mx.dest.test")
    world.dns.mx("dest.test", "mx.dest.test")
    world.dns.a("mx.dest.test", first.address, *[o.address for o in others])
    for remote in others:
        remote.answer("greeting", "421 4.3.2 busy")
    attempt(world.node(config=PATIENT), "b@dest.test")
    assert sum(len(o.sessions) for o in others) <= 2


def test_g04_what_the_first_attempts_leave_out_gets_its_turn(world, promise):
    case = promise("G04", "hosts and addresses beyond the limits get their turn at a retry")
    mx = world.remote("mx.one.test")
    world.dns.remove("mx.one.test")
    world.dns.a("mx.one.test", *[world.take() for _ in range(4)], mx.address)  # in this order
    world.dns.mx("one.test", "mx.one.test")
    for i in range(6):
        world.remote(f"mx{i}.six.test", start=False)
    seventh = world.remote("mx6.six.test")
    world.dns.mx("six.test", *[f"mx{i}.six.test" for i in range(7)])
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}}})
    for remote, rcpt, attempts in ((mx, "b@one.test", 3), (seventh, "b@six.test", 2)):
        case.case()
        ident = node.submit("a@src.test", rcpt, mail.message())
        remote.wait_mail(rcpt=rcpt)
        assert len(node.log.wait(event="attempt", msg=ident, count=attempts)) == attempts


def test_g06_changed_mx_is_honoured_at_the_retry(world, promise):
    promise("G06", "changed MX is honoured at the retry").case()
    old = world.mx("dest.test", "old.dest.test")
    old.answer("rcpt", "451 4.3.0 moving")
    node = world.node(config={"queue": {"retry": {"intervals": ["2s"], "jitter": "0%"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    new = world.remote("new.dest.test")
    world.dns.remove("dest.test", "MX")
    world.dns.mx("dest.test", "new.dest.test")
    assert new.wait_mail()


def test_g08_literals_of_loopback_and_private_addresses_and_bare_quads_are_refused(world, promise):
    promise("G08", "literals of loopback and private addresses and bare quads are refused").case()
    node = world.node()
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        for literal in ("[127.0.0.1]", "[10.1.2.3]", "[0.0.0.0]", "[IPv6:::1]", "[IPv6:fe80::1]",
                        "[IPv6:::ffff:127.0.0.1]", f"[{node.address}]"):
            reply = session.rcpt(f"b@{literal}")
            assert reply.code == 550 and reply.text.startswith("5.1.2"), (literal, str(reply))
        assert session.rcpt("b@192.0.2.1").code == 501


@pytest.mark.parametrize("source", [{}, {"v6": "::1"}], ids=["ipv4-first", "ipv6-first"])
def test_g09_ipv6_that_leads_nowhere_delays_nothing(world, promise, source):
    promise("G09", "an AAAA that cannot be reached: the IPv4 address within seconds").case()
    mx = world.mx("dest.test")
    world.dns.a("mx.dest.test", "2620:fe::fe", "2620:fe::9")
    node = world.node(config={**PATIENT, "timeouts": {"connect": "3s"},
                              "direct": {"source": source}})
    line = attempt(node, "b@dest.test", outcome="delivered")
    assert mx.mails and float(line["delay"]) < 10 * PATIENCE
