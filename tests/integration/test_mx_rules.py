"""Finding the hosts of a domain: RFC 5321 section 5.1, RFC 7505, and our own limits."""

from rig import mail

PATIENT = {"queue": {"retry": {"intervals": ["1h"]}}}


def attempt(node, rcpt, sender="a@src.test", **fields):
    """Submit one message; its first attempt line."""
    ident = node.submit(sender, rcpt, mail.message())
    return node.log.wait(event="attempt", msg=ident, **fields)


def test_preferred_host_is_used(world):
    worse, better = world.remote("mx2.dest.test"), world.remote("mx1.dest.test")
    world.dns.mx("dest.test", (20, "mx2.dest.test"), (10, "mx1.dest.test"))
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert better.mails and not worse.sessions


def test_equal_preferences_share_the_load(world):
    hosts = [world.remote(f"mx{i}.dest.test") for i in range(2)]
    world.dns.mx("dest.test", (10, "mx0.dest.test"), (10, "mx1.dest.test"))
    node = world.node(config={"shaping": {"default": {"max_messages_per_connection": 1}}})
    for _ in range(24):
        node.submit("a@src.test", "b@dest.test", mail.message())
    node.wait_empty()
    counts = [len(h.mails) for h in hosts]
    assert sum(counts) == 24 and min(counts) >= 2, counts


def test_dead_first_host_is_passed_over(world):
    world.remote("mx1.dest.test", start=False)
    second = world.remote("mx2.dest.test")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    line = attempt(world.node(), "b@dest.test", outcome="delivered")
    assert line["peer"] == f"{second.address}:25"


def test_host_that_greets_with_421_or_554_is_passed_over(world):
    first, second = world.remote("mx1.dest.test"), world.remote("mx2.dest.test")
    third = world.remote("mx3.dest.test")
    first.answer("greeting", "421 4.3.2 busy")
    second.answer("greeting", "554 5.3.2 no service here")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test", "mx3.dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert third.mails


def test_4xx_to_mail_goes_to_the_next_host(world):
    first, second = world.remote("mx1.dest.test"), world.remote("mx2.dest.test")
    first.answer("mail", "451 4.3.0 not now")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert second.mails and not first.mails


def test_every_host_greeting_with_5xx_counts_as_a_refusal(world):
    for i in (1, 2):
        world.remote(f"mx{i}.dest.test").answer("greeting", "554 5.3.2 we take no mail")
    world.dns.mx("dest.test", "mx1.dest.test", "mx2.dest.test")
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["code"] == "554" and line["phase"] == "greeting"


def test_ehlo_refused_is_followed_by_helo(world):
    mx = world.mx("dest.test")
    mx.answer("ehlo", "502 5.5.1 what?")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert [c.split()[0] for c in mx.commands()][:3] == ["EHLO", "HELO", "MAIL"]


def test_domain_without_mx_is_reached_by_its_address(world):
    host = world.remote("dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert host.mails


def test_cname_is_followed(world):
    mx = world.mx("real.test")
    world.dns.cname("alias.test", "real.test")
    attempt(world.node(), "b@alias.test", outcome="delivered")
    assert mx.mails[0].rcpts == ["b@alias.test"]


def test_cname_loop_does_not_hang(world):
    world.dns.cname("one.test", "two.test")
    world.dns.cname("two.test", "one.test")
    line = attempt(world.node(config=PATIENT), "b@one.test")
    assert line["phase"] == "dns" and line["outcome"] in ("deferred", "failed")


def test_null_mx_fails_at_once_without_a_connection(world):
    world.dns.null_mx("dest.test")
    world.remote("dest.test")
    line = attempt(world.node(), "b@dest.test", outcome="failed")
    assert line["enh"] == "5.1.10"


def test_nxdomain_fails(world):
    line = attempt(world.node(), "b@nothere.test", outcome="failed")
    assert line["enh"] == "5.1.2" and line["phase"] == "dns"


def test_domain_that_exists_without_mx_and_address_fails(world):
    world.dns.txt("dest.test", "only text")
    line = attempt(world.node(), "b@dest.test", outcome="failed")
    assert line["phase"] == "dns" and line["enh"].startswith("5.")


def test_servfail_is_retried(world):
    line = attempt(world.node(config=PATIENT), "b@x.broken.test")
    assert line["outcome"] == "deferred" and line["enh"].startswith("4.4.")


def test_resolver_that_does_not_answer_is_retried(world):
    node = world.node(config={**PATIENT, "resolver": {"servers": [f"{world.take()}:53"],
                                                      "timeout": "1s"}})
    line = attempt(node, "b@dest.test")
    assert line["outcome"] == "deferred"


def test_mx_whose_address_is_missing_does_not_fall_back_to_the_domain(world):
    trap = world.remote("dest.test")
    world.dns.mx("dest.test", "nowhere.dest.test")
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not trap.sessions


def test_our_own_address_as_mx_is_dropped_with_all_worse_ones(world):
    """Mail must not be sent in a circle, nor to a host that would send it back to us."""
    worse = world.remote("worse.dest.test")
    node = world.node(config=PATIENT, port=25)
    world.dns.a("self.dest.test", node.address)
    world.dns.mx("dest.test", (10, "self.dest.test"), (20, "worse.dest.test"))
    line = attempt(node, "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not worse.sessions
    # Received once, from the client; the other one is the notice that it cannot be delivered.
    assert len([e for e in node.log.all(event="received") if e["client"] != "notice"]) == 1


def test_better_host_than_ourselves_is_still_used(world):
    best = world.remote("best.dest.test")
    node = world.node(port=25)
    world.dns.a("self.dest.test", node.address)
    world.dns.mx("dest.test", (10, "best.dest.test"), (20, "self.dest.test"))
    attempt(node, "b@dest.test", outcome="delivered")
    assert best.mails


def test_loopback_mx_is_refused_unless_private_addresses_are_allowed(world):
    mx = world.mx("dest.test")
    node = world.node(config={**PATIENT, "direct": {"allow_private": False}})
    line = attempt(node, "b@dest.test")
    assert line["outcome"] in ("deferred", "failed") and not mx.sessions


def test_at_most_five_hosts_an_attempt(world):
    hosts = [world.remote(f"mx{i}.dest.test") for i in range(8)]
    for host in hosts:
        host.answer("greeting", "421 4.3.2 busy")
    world.dns.mx("dest.test", *[f"mx{i}.dest.test" for i in range(8)])
    line = attempt(world.node(config=PATIENT), "b@dest.test")
    assert line["outcome"] == "deferred"
    assert [len(h.sessions) for h in hosts] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_two_addresses_of_a_host_at_most(world):
    first = world.remote("mx.dest.test", start=False)
    others = [world.remote("mx.dest.test") for _ in range(3)]
    world.dns.remove("mx.dest.test")
    world.dns.mx("dest.test", "mx.dest.test")
    world.dns.a("mx.dest.test", first.address, *[o.address for o in others])
    for remote in others:
        remote.answer("greeting", "421 4.3.2 busy")
    attempt(world.node(config=PATIENT), "b@dest.test")
    assert sum(len(o.sessions) for o in others) <= 2


def test_changed_mx_is_honoured_at_the_retry(world):
    old = world.mx("dest.test", "old.dest.test")
    old.answer("rcpt", "451 4.3.0 moving")
    node = world.node(config={"queue": {"retry": {"intervals": ["2s"], "jitter": "0%"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    new = world.remote("new.dest.test")
    world.dns.remove("dest.test", "MX")
    world.dns.mx("dest.test", "new.dest.test")
    assert new.wait_mail()


def test_literals_of_loopback_and_private_addresses_and_bare_quads_are_refused(world):
    node = world.node()
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        for literal in ("[127.0.0.1]", "[10.1.2.3]", "[0.0.0.0]", "[IPv6:::1]", "[IPv6:fe80::1]",
                        "[IPv6:::ffff:127.0.0.1]", f"[{node.address}]"):
            reply = session.rcpt(f"b@{literal}")
            assert reply.code == 550 and reply.text.startswith("5.1.2"), (literal, str(reply))
        assert session.rcpt("b@192.0.2.1").code == 501
