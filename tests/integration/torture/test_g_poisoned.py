"""Absurd and hostile MX records: what a zone may say and a correct sender must survive.

Mail never goes to this relay itself, to addresses that are nobody's, or without
direct.allow_private to loopback and private ones. Each look-up is bounded, and what is left out is
told once for a domain.
"""

import pytest

from rig import mail
from rig.oddns import OddDns

PATIENT = {"queue": {"retry": {"intervals": ["1h"]}}}
PUBLIC_ONLY = {**PATIENT, "direct": {"allow_private": False}}


def attempt(node, rcpt, **fields):
    ident = node.submit("a@src.test", rcpt, mail.message())
    return node.log.wait(event="attempt", msg=ident, **fields)


def told(node, domain="dest.test"):
    return node.log.all(event="mx_dropped", domain=domain)


def assert_refused(line, enh="5.4.4"):
    """Failed for good before any connection."""
    assert line["outcome"] == "failed" and line["phase"] == "dns" and line["enh"] == enh, line
    assert not line.get("peer"), line


# -- addresses

SPECIAL = [
    ("10.1.2.3", "private"), ("100.64.0.1", "private"), ("169.254.1.1", "link-local"),
    ("127.0.0.1", "loopback"), ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"),
    ("224.0.0.1", "multicast"), ("255.255.255.255", "multicast"), ("240.0.0.1", "reserved"),
    ("::1", "loopback"), ("::", "unspecified"), ("fe80::1", "link-local"), ("fd00::1", "private"),
    ("ff02::1", "multicast"), ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"),
]


def test_g08_special_addresses_are_nobodys_mx(world, promise):
    promise("G08", "special addresses are nobodys MX").case()
    node = world.node(config=PUBLIC_ONLY)
    with world.dns:
        for i, (address, _) in enumerate(SPECIAL):
            world.dns.site(f"d{i}.test", f"mx.d{i}.test", address)
    idents = [node.submit("a@src.test", f"b@d{i}.test", mail.message())
              for i in range(len(SPECIAL))]
    for i, (address, kind) in enumerate(SPECIAL):
        line = node.log.wait(event="attempt", msg=idents[i])
        assert_refused(line)
        assert kind in line["text"], (address, line["text"])
        assert kind in told(node, f"d{i}.test")[0]["reason"], address


def test_g08_loopback_where_somebody_listens_gets_no_connection(world, promise):
    promise("G08", "loopback where somebody listens gets no connection").case()
    trap = world.mx("dest.test")
    node = world.node(config=PUBLIC_ONLY)
    assert_refused(attempt(node, "b@dest.test"))
    assert not trap.sessions
    assert trap.address in told(node)[0]["reason"] and told(node)[0]["level"] == "warning"


def test_g08_domain_without_mx_at_a_private_address_is_refused_too(world, promise):
    promise("G08", "domain without MX at a private address is refused too").case()
    trap = world.remote("dest.test")
    node = world.node(config=PUBLIC_ONLY)
    assert_refused(attempt(node, "b@dest.test"))
    assert not trap.sessions and told(node)


def test_g08_addresses_that_are_nobodys_are_refused_in_labs_too(world, promise):
    """direct.allow_private allows a lab's addresses; 0.0.0.0 would be ourselves."""
    promise("G08", "addresses that are nobodys are refused in labs too").case()
    with world.dns:
        for i, address in enumerate(("0.0.0.0", "::", "224.0.0.1", "255.255.255.255")):
            world.dns.site(f"d{i}.test", f"mx.d{i}.test", address)
    node = world.node(config=PATIENT)
    for i in range(4):
        assert_refused(attempt(node, f"b@d{i}.test"))


def test_g08_good_addresses_beside_bad_ones_are_used(world, promise):
    promise("G08", "good addresses beside bad ones are used").case()
    mx = world.mx("dest.test")
    world.dns.a(mx.hostname, "0.0.0.0", "224.0.0.1", "240.0.0.1")
    node = world.node()
    line = attempt(node, "b@dest.test", outcome="delivered")
    assert line["peer"] == f"{mx.address}:25"
    assert all(a in told(node)[0]["reason"] for a in ("0.0.0.0", "224.0.0.1", "240.0.0.1"))


def test_g08_good_host_behind_a_bad_one_is_used(world, promise):
    promise("G08", "good host behind a bad one is used").case()
    good = world.remote("good.dest.test")
    world.dns.a("bad.dest.test", "0.0.0.0")
    world.dns.mx("dest.test", "bad.dest.test", "good.dest.test")
    attempt(world.node(), "b@dest.test", outcome="delivered")
    assert good.mails


# -- ourselves

def test_g08_our_own_listener_is_dropped_even_in_a_lab(world, promise):
    promise("G08", "our own listener is dropped even in a lab").case()
    node = world.node(config=PATIENT, port=25)
    world.dns.site("dest.test", "mx.dest.test", node.address)
    assert_refused(attempt(node, "b@dest.test"), "5.4.6")
    assert node.address in told(node)[0]["reason"]
    # From the client; the other one is the notice that it cannot be delivered.
    assert len([e for e in node.log.all(event="received") if e["client"] != "notice"]) == 1


def test_g08_a_hundred_names_for_ourselves_end(world, promise):
    promise("G08", "a hundred names for ourselves end").case()
    node = world.node(config=PATIENT, port=25)
    with world.dns:
        for i in range(100):
            world.dns.add("dest.test", "MX", f"10 us{i}.dest.test.")
            world.dns.a(f"us{i}.dest.test", node.address)
    assert_refused(attempt(node, "b@dest.test"), "5.4.6")


# -- aliases

def test_g04_alias_loop_of_a_domain_is_deferred(world, promise):
    promise("G04", "alias loop of a domain is deferred").case()
    world.dns.cname("a.test", "b.test")
    world.dns.cname("b.test", "a.test")
    world.dns.cname("self.test", "self.test")
    node = world.node(config=PATIENT)
    for domain in ("a.test", "self.test"):
        line = attempt(node, f"x@{domain}")
        assert line["outcome"] == "deferred" and line["enh"] == "4.4.3", line


def test_g04_alias_loop_of_an_mx_host_does_not_hide_the_others(world, promise):
    promise("G04", "alias loop of an MX host does not hide the others").case()
    good = world.remote("good.dest.test")
    world.dns.cname("loop.dest.test", "pool.dest.test")
    world.dns.cname("pool.dest.test", "loop.dest.test")
    world.dns.mx("dest.test", "loop.dest.test", "good.dest.test")
    world.dns.mx("only.test", "loop.dest.test")
    node = world.node(config=PATIENT)
    attempt(node, "b@dest.test", outcome="delivered")
    assert good.mails
    line = attempt(node, "b@only.test")
    assert line["outcome"] == "deferred" and line["enh"] == "4.4.3"


def chain(world, name, links, end):
    """name is an alias of an alias ... of end."""
    with world.dns:
        for i in range(links):
            here = name if i == 0 else f"{i}.{name}"
            world.dns.cname(here, end if i == links - 1 else f"{i + 1}.{name}")


def test_g04_chains_of_aliases_are_followed_as_far_as_is_sane(world, promise):
    promise("G04", "chains of aliases are followed as far as is sane").case()
    mx = world.mx("real.test", "mx.real.test")
    chain(world, "eight.test", 8, "real.test")
    chain(world, "twenty.test", 20, "real.test")
    world.dns.mx("host.test", "alias.host.test")
    chain(world, "alias.host.test", 8, "mx.real.test")
    node = world.node(config=PATIENT)
    attempt(node, "b@eight.test", outcome="delivered")
    attempt(node, "b@host.test", outcome="delivered")
    line = attempt(node, "b@twenty.test")
    assert line["outcome"] == "deferred" and line["enh"] == "4.4.3"
    assert len(mx.mails) == 2


# -- many hosts

def test_g04_a_hundred_equal_hosts_are_five_connections(world, promise):
    promise("G04", "a hundred equal hosts are five connections").case()
    mx = world.remote("mx.pool.test")
    mx.answer("greeting", "421 4.3.2 busy")
    with world.dns:
        for i in range(100):
            world.dns.add("dest.test", "MX", f"10 mx{i}.dest.test.")
            world.dns.a(f"mx{i}.dest.test", mx.address)
    node = world.node(config=PATIENT)
    line = attempt(node, "b@dest.test")
    assert line["outcome"] == "deferred" and len(mx.sessions) == 5
    assert "80 more hosts" in told(node)[0]["reason"]


def test_g04_a_hundred_equal_hosts_of_which_one_answers_are_no_trap(world, promise):
    """Names without addresses cost a question each, and no more than twenty are looked up."""
    promise("G04", "a hundred equal hosts of which one answers are no trap").case()
    mx = world.remote("mx.pool.test")
    with world.dns:
        for i in range(100):
            world.dns.add("dest.test", "MX", f"{10 if i == 0 else 20} mx{i}.dest.test.")
        world.dns.a("mx0.dest.test", mx.address)
    attempt(world.node(), "b@dest.test", outcome="delivered")


# -- names

def test_g04_address_in_the_place_of_a_host_name_is_no_host(world, promise):
    """RFC 1035: an MX names a host. Neither is the address used, nor a name that looks like one."""
    promise("G04", "address in the place of a host name is no host").case()
    trap, good = world.remote("trap.test"), world.remote("good.dest.test")
    world.dns.a(trap.address, trap.address)  # the name 127.x.y.z. has an address
    world.dns.mx("dest.test", trap.address, "good.dest.test")
    world.dns.mx("only.test", trap.address)
    node = world.node(config=PATIENT)
    attempt(node, "b@dest.test", outcome="delivered")
    assert good.mails
    assert_refused(attempt(node, "b@only.test"))
    assert not trap.sessions
    assert trap.address in told(node)[0]["reason"] and told(node, "only.test")


LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 56, "test"])


@pytest.mark.parametrize("host", [LONGEST, "_mx.under_score.test", "MX.Upper.TEST"],
                         ids=["253", "underscore", "upper"])
def test_g04_unusual_host_names_are_used(world, promise, host):
    promise("G04", "unusual host names are used").case()
    assert len(LONGEST) == 253
    mx = world.remote("mx.test")
    world.dns.mx("dest.test", host)
    world.dns.a(host, mx.address)
    line = attempt(world.node(), "b@dest.test", outcome="delivered")
    assert line["site"] == host.lower() and mx.mails


# As a zone file writes them: a blank, a dot inside a label, a newline that would forge a log line,
# NUL, UTF-8, a slash, a wildcard, a hyphen in front.
BAD_NAMES = [r"mx\032x.dest.test", r"mx\046good.dest.test", r"x\010event=fake\032level=alert.test",
             r"mx\000.dest.test", r"m\195\188.dest.test", r"mx\047x.dest.test", r"*.dest.test",
             r"-mx.dest.test"]


def test_g04_names_that_no_host_has_are_dropped(world, promise):
    promise("G04", "names that no host has are dropped").case()
    trap = world.remote("trap.test")
    with world.dns:
        for i, name in enumerate(BAD_NAMES):
            world.dns.mx(f"d{i}.test", name)
            world.dns.a(name, trap.address)
    node = world.node(config=PATIENT)
    for i, name in enumerate(BAD_NAMES):
        assert_refused(attempt(node, f"b@d{i}.test"))
        assert "no host name" in told(node, f"d{i}.test")[0]["reason"], name
    assert not trap.sessions and not node.log.all(event="fake")


def test_g04_bad_names_do_not_hide_a_good_one(world, promise):
    promise("G04", "bad names do not hide a good one").case()
    good = world.remote("good.dest.test")
    world.dns.mx("dest.test", *BAD_NAMES, "good.dest.test")
    node = world.node(config={"shaping": {"providers": [{"mx": ["good.dest.test"],
                                                         "max_connections": 1}]}})
    line = attempt(node, "b@dest.test", outcome="delivered")
    assert good.mails and line["site"] == "good.dest.test"


def test_g02_null_mx_among_others_is_dropped(world, promise):
    """RFC 7505 section 3: it must not stand beside others; what they say is what the domain means."""
    promise("G02", "null MX among others is dropped").case()
    good = world.remote("good.dest.test")
    world.dns.add("dest.test", "MX", "0 .")
    world.dns.add("dest.test", "MX", "10 good.dest.test.")
    node = world.node()
    line = attempt(node, "b@dest.test", outcome="delivered")
    assert good.mails and line["site"] == "good.dest.test"
    assert "null MX" in told(node)[0]["reason"]


# -- telling

def test_g04_a_domain_is_told_of_once(world, promise):
    promise("G04", "a domain is told of once").case()
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    world.dns.a(mx.hostname, "0.0.0.0")
    node = world.node(config={"queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
                              "shaping": {"default": {"max_messages_per_connection": 1}}})
    for i in range(10):
        node.submit("a@src.test", f"b{i}@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred", count=25)
    assert len(told(node)) == 1
    # Another reason is told; and after a reload, what still holds.
    world.dns.add("dest.test", "MX", "0 .")
    node.log.wait(event="mx_dropped", count=2)
    node.reload()
    node.log.wait(event="mx_dropped", count=3)


# -- what no zone file can hold

def odd(world, answer, timeout="1s", **config):
    """A resolver that answers by a function, and a node that asks it."""
    resolver = world.keep(OddDns(world.take(), answer))
    return resolver, world.node(config={
        **PATIENT, "resolver": {"servers": [resolver.server], "timeout": timeout}, **config})


def test_g04_chain_without_an_end_ends(world, promise):
    """Each answer is one more alias, made up as it is asked for."""
    promise("G04", "chain without an end ends").case()
    def answer(name, kind):
        number, _, rest = name.partition(".")
        return [(name, "CNAME", f"{int(number) + 1}.{rest}.")]

    resolver, node = odd(world, answer)
    line = attempt(node, "b@1.dest.test")
    assert line["outcome"] == "deferred" and line["enh"] == "4.4.3"
    assert len(resolver.asked) <= 30, resolver.asked


def test_g04_alias_to_the_root_and_mx_of_a_long_chain_end(world, promise):
    promise("G04", "alias to the root and MX of a long chain end").case()
    def answer(name, kind):
        if name == "root.test":
            return [(name, "CNAME", ".")]
        return [(name, "MX", "10 root.test.")] if kind == "MX" else None

    _, node = odd(world, answer)
    for domain in ("root.test", "dest.test"):
        line = attempt(node, f"b@{domain}")
        assert line["outcome"] in ("deferred", "failed") and line["phase"] == "dns", line


def test_g04_thousand_mx_are_cut_and_delivered_to(world, promise):
    promise("G04", "thousand MX are cut and delivered to").case()
    mx = world.remote("mx.pool.test")

    def answer(name, kind):
        if kind == "MX":
            return [(name, "MX", f"{i + 1} mx{i}.{name}.") for i in range(1000)]
        return [(name, "A", mx.address)] if kind == "A" else []

    resolver, node = odd(world, answer, timeout="10s")
    line = attempt(node, "b@dest.test", outcome="delivered")
    assert mx.mails and line["site"] == "mx0.dest.test"
    assert len(resolver.asked) <= 2 * (1 + 20 * 2), len(resolver.asked)


def test_g03_host_about_which_dns_is_silent_does_not_hide_the_others(world, promise):
    promise("G03", "host about which DNS is silent does not hide the others").case()
    mx = world.remote("mx.pool.test")

    def answer(name, kind):
        if name.startswith("silent."):
            return OddDns.SILENCE
        if kind == "MX":
            return [(name, "MX", "10 silent.dest.test."), (name, "MX", "20 good.dest.test.")]
        return [(name, "A", mx.address)] if kind == "A" else []

    _, node = odd(world, answer)
    attempt(node, "b@dest.test", outcome="delivered")
    assert mx.mails


def test_g03_answers_about_other_names_are_not_believed(world, promise):
    promise("G03", "answers about other names are not believed").case()
    trap = world.remote("trap.test")

    def answer(name, kind):
        if name == "dest.test" and kind == "MX":
            return [("victim.test", "MX", "10 trap.test."), ("trap.test", "A", trap.address)]
        return None

    resolver, node = odd(world, answer)
    for domain in ("dest.test", "victim.test"):
        line = attempt(node, f"b@{domain}")
        assert line["outcome"] in ("deferred", "failed"), line
    assert ("victim.test", "MX") in resolver.asked and not trap.sessions
