"""Rules by facts of the domain: MX hosts and the country of the best one's address.

The name server is a real one; the countries are those of documentation addresses, which no one
listens at, so what goes by country goes through a hop.
"""

import os
import pwd
import socket
import time

import pytest

from rig import mail, mmdb
from rig.node import binary
from rig.oddns import OddDns, Reply
from rig.proc import run
from rig.wait import until

PATIENT = {"queue": {"retry": {"intervals": ["1h"]}}}
COUNTRIES = {"192.0.2.0/24": "US", "198.51.100.0/24": "CN", "203.0.113.0/24": "KP",
             "127.0.0.0/8": "US", "2001:db8::/32": "JP"}
DEFAULT = {"default": True, "route": "direct"}


def by_facts(world, *rules, countries=False, **changes):
    """A node with a hop `us`, and the hop's server. The hop takes what it is given, in clear."""
    hop = world.remote("hop.test", port=2525)
    config = {"hops": {"us": {"address": f"{hop.address}:2525", "tls": "off"}},
              "transport_map": [*rules, DEFAULT], **changes}
    if countries:
        config["geoip"] = {"database": mmdb.write(world.dir / "c.mmdb", COUNTRIES)}
    return world.node(config=config), hop


def attempts(node, ident):
    return {line["rcpt"]: line for line in node.log.all(event="attempt", msg=ident)}


def test_one_message_is_split_by_the_mx_of_its_recipients(world):
    big, small = world.mx("a.test", "mx1.big.test"), world.mx("b.test", "mx.small.test")
    world.dns.mx("c.test", "backup.other.test", "mx2.BIG.test")  # any of its hosts counts
    node, hop = by_facts(world, {"mx": ["*.big.test"], "route": "us"})
    ident = node.submit("x@src.test", ["1@a.test", "2@b.test", "3@c.test"], mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="delivered", count=3)
    routes = {rcpt: line["route"] for rcpt, line in attempts(node, ident).items()}
    assert routes == {"1@a.test": "us", "2@b.test": "direct", "3@c.test": "us"}
    assert sorted(r for m in hop.mails for r in m.rcpts) == ["1@a.test", "3@c.test"]
    assert [m.rcpts for m in small.mails] == [["2@b.test"]]
    assert not big.sessions


def test_a_domain_without_mx_goes_on_to_the_next_rule(world):
    host = world.remote("bare.big.test")  # an address, and no MX
    node, hop = by_facts(world, {"mx": ["*.big.test", "bare.big.test"], "route": "us"})
    node.submit("x@src.test", "1@bare.big.test", mail.message())
    host.wait_mail()
    assert not hop.sessions


def test_cname_is_followed_to_the_mx(world):
    world.dns.mx("real.test", "mx.big.test")
    world.dns.cname("alias.test", "real.test")
    node, hop = by_facts(world, {"mx": ["*.big.test"], "route": "us"})
    node.submit("x@src.test", "1@alias.test", mail.message())
    hop.wait_mail(rcpt="1@alias.test")


def test_country_of_the_best_mx_decides(world):
    with world.dns:
        world.dns.site("us.test", "mx.us.test", "192.0.2.10")
        world.dns.mx("cn.test", "mx1.cn.test", "mx2.cn.test")
        world.dns.a("mx1.cn.test", "198.51.100.10")  # the best one
        world.dns.a("mx2.cn.test", "192.0.2.11")
        world.dns.mx("six.test", "none.six.test", "mx.six.test")
        world.dns.txt("none.six.test", "no address")
        world.dns.a("mx.six.test", "2001:db8::10")
    node, hop = by_facts(world, {"mx_country": ["us", "JP"], "route": "us"},
                         {"mx_country": ["CN"], "hold": "china"}, countries=True)
    node.submit("x@src.test", ["1@us.test", "2@cn.test", "3@six.test"], mail.message())
    hop.wait_mail(rcpt="1@us.test")
    hop.wait_mail(rcpt="3@six.test")
    held = until(lambda: [m for m in node.queue() if "china" in str(m)], what="a held recipient")
    assert "2@cn.test" in str(held) and "1@us.test" not in str(held), held
    assert "2@cn.test" not in [r for m in hop.mails for r in m.rcpts]


def test_private_addresses_have_no_country(world):
    mx = world.mx("here.test")  # at 127.x, which the database has under US
    node, hop = by_facts(world, {"mx_country": ["US"], "route": "us"}, countries=True)
    node.submit("x@src.test", "1@here.test", mail.message())
    mx.wait_mail()
    assert not hop.sessions
    line = node.log.wait(event="facts", domain="here.test")
    assert "mx.here.test has private addresses only" in line["reason"]


def test_while_dns_is_silent_no_later_rule_is_taken(world):
    """The address of the best MX cannot be had: neither rule may decide, and the mail waits."""
    world.dns.mx("dest.test", "mx.broken.test", "mx2.dest.test")
    second = world.remote("mx2.dest.test")
    node, hop = by_facts(world, {"mx_country": ["CN"], "route": "us"}, countries=True, **PATIENT)
    ident = node.submit("x@src.test", "1@dest.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert line["outcome"] == "deferred" and line["enh"] == "4.4.3", line
    assert "looking up the address of mx.broken.test" in line["text"], line
    assert line.get("route", "") == "" and not second.sessions and not hop.sessions
    # It is decided as soon as DNS answers.
    world.dns.remove("dest.test", "MX")
    world.dns.site("dest.test", "mx.cn.test", "198.51.100.10")

    def sent():  # again and again, until the old answers have left the cache
        node.ctl("queue", "retry", ident, check=False)
        return hop.received_for("1@dest.test")

    until(sent, what="the recipient to be sent", every=0.5)
    assert not second.sessions


def test_mx_that_cannot_be_asked_waits_but_a_sure_rule_above_does_not(world):
    sure = world.remote("hop2.test", port=2525)
    node, hop = by_facts(
        world, {"domains": ["sure.broken.test"], "route": "jp"}, {"mx": ["*.big.test"], "route": "us"},
        hops={"us": {"address": f"{world.take()}:2525", "tls": "off"},
              "jp": {"address": f"{sure.address}:2525", "tls": "off"}}, **PATIENT)
    ident = node.submit("x@src.test", ["1@sure.broken.test", "2@x.broken.test"], mail.message())
    sure.wait_mail(rcpt="1@sure.broken.test")
    line = node.log.wait(event="attempt", msg=ident, rcpt="2@x.broken.test")
    assert line["outcome"] == "deferred" and line["enh"] == "4.4.3"
    assert "looking up MX of x.broken.test" in line["text"]
    assert not hop.sessions


def test_reject_by_country_is_answered_at_rcpt(world):
    world.dns.site("kp.test", "mx.kp.test", "203.0.113.1")
    mx = world.mx("ok.test")
    node, _ = by_facts(world, {"mx_country": ["KP"], "reject": "550 5.7.1 not to this country"},
                       countries=True)
    with node.client() as c:
        c.ehlo()
        c.mail("x@src.test")
        reply = c.rcpt("1@kp.test")
        assert reply.code == 550 and "not to this country" in reply.text, reply
        assert c.rcpt("2@ok.test").code == 250
        assert c.rcpt("3@[203.0.113.7]").code == 550
        c.data(mail.message())
    mx.wait_mail(rcpt="2@ok.test")


def test_no_rule_at_all_is_answered_at_rcpt_when_facts_say_so(world):
    world.dns.site("a.test", "mx.other.test", "192.0.2.1")
    world.dns.site("b.test", "mx.big.test", "192.0.2.1")
    node, _ = by_facts(world, {"mx": ["*.big.test"], "route": "us"})
    node.reload({"transport_map": [{"mx": ["*.big.test"], "route": "us"}]})
    with node.client() as c:
        c.ehlo()
        c.mail("x@src.test")
        assert c.rcpt("1@b.test").code == 250
        reply = c.rcpt("1@a.test")
        assert reply.code == 550 and "5.4.4" in reply.text, reply


def test_facts_that_come_too_late_for_rcpt_are_decided_later(world):
    """A resolver that never answers: the client gets its 250 after 5 s, and the mail waits."""
    silent = world.take()
    node, hop = by_facts(world, {"mx_country": ["KP"], "reject": "550 5.7.1 no"}, countries=True,
                         resolver={"servers": [f"{silent}:53"], "timeout": "30s"}, **PATIENT)
    # Nothing is bound there, so a socket has to take the questions in silence.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((silent, 53))
        with node.client() as c:
            c.ehlo()
            c.mail("x@src.test")
            began = time.monotonic()
            assert c.rcpt("1@dest.test").code == 250
            took = time.monotonic() - began
            assert took > 4.5, took
            # A client that goes away while it waits.
            other = node.client()
            other.ehlo()
            other.mail("x@src.test")
            other.send("RCPT TO:<2@dest.test>\r\n")
            other.close()
            assert c.rcpt("3@dest.test").code == 250
            assert c.data(mail.message()).code == 250
        assert not hop.sessions and not node.log.all(event="attempt", outcome="delivered")


def test_a_fact_that_refuses_nobody_is_not_waited_for(world):
    silent = world.take()
    node, _ = by_facts(world, {"mx_country": ["CN"], "route": "us"}, countries=True,
                       resolver={"servers": [f"{silent}:53"], "timeout": "30s"}, **PATIENT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((silent, 53))
        began = time.monotonic()
        node.submit("x@src.test", "1@dest.test", mail.message())
        assert time.monotonic() - began < 4


def test_a_fence_by_country_holds(world):
    world.dns.site("ru.test", "mx.ru.test", "198.51.100.9")
    node, hop = by_facts(world, {"domains": ["ru.test"], "route": "us"},
                         {"mx_country": ["CN"], "never_via": ["us"]}, countries=True)
    with node.client() as c:
        c.ehlo()
        c.mail("x@src.test")
        reply = c.rcpt("1@ru.test")
        assert reply.code == 550 and "5.7.1" in reply.text, reply
    assert not hop.sessions


def test_a_hundred_mx_hosts_and_loops_end(world):
    with world.dns:
        for i in range(99):
            world.dns.add("many.test", "MX", f"{i} host-without-an-address-{i}.many.test.")
        world.dns.add("many.test", "MX", "200 mx.big.test.")
        world.dns.cname("mx.loop.test", "mx2.loop.test")
        world.dns.cname("mx2.loop.test", "mx.loop.test")
        world.dns.mx("loop.test", "mx.loop.test")
    node, hop = by_facts(world, {"domains": ["many.test"], "mx_country": ["US"], "hold": "us"},
                         {"mx": ["*.big.test"], "route": "us"}, countries=True, **PATIENT)
    node.submit("x@src.test", "1@many.test", mail.message())
    hop.wait_mail(rcpt="1@many.test")  # the worst of them counts for mx, none for the country
    line = node.log.wait(event="facts", domain="many.test")
    assert "none of the 20 best hosts has an address" in line["reason"]
    node.reload({"transport_map": [{"mx_country": ["US"], "route": "us"}, DEFAULT]})
    ident = node.submit("x@src.test", "2@loop.test", mail.message())
    line = node.log.wait(event="attempt", msg=ident)
    assert line["outcome"] in ("deferred", "failed") and line["route"] == ""


@pytest.mark.parametrize("ttl, delay, cache_max", [(0, 1.2, 100000), (300, 0, 1)],
                         ids=["too_slow", "cache_of_one"])
def test_facts_that_do_not_stay_in_the_cache_are_used(world, ttl, delay, cache_max):
    """MX and address are never known at the same time: each is asked for once all the same, and once
    more by the connection."""
    host = world.remote("mx.pool.test")

    def zone(name, kind):
        found = {"MX": [(name, "MX", "10 mx.pool.test.")], "A": [(name, "A", host.address)]}
        return Reply(found.get(kind, []), ttl=ttl, delay=delay)
    resolver = world.keep(OddDns(world.take(), zone))
    node, _ = by_facts(world, {"mx_country": ["US"], "hold": "us"}, countries=True, **PATIENT,
                       resolver={"servers": [resolver.server], "cache_max": cache_max})
    ident = node.submit("", "b@dest.test", mail.message())
    node.log.wait(event="attempt", msg=ident)
    kinds = [kind for _, kind in resolver.asked]
    assert kinds.count("MX") <= 2 and kinds.count("A") <= 2, kinds


def test_explain_tells_the_facts(world):
    world.dns.site("us.test", "mx1.example.test", "192.0.2.10")
    node, _ = by_facts(world, {"mx": ["*.other.test"], "route": "direct"},
                       {"mx_country": ["US"], "route": "us"}, countries=True)
    said = node.ctl("explain", "1@us.test").stdout
    assert "missed: MX mx1.example.test is not in mx" in said, said
    assert "won: country US of 192.0.2.10 is in mx_country" in said, said


def test_database_is_read_anew_and_a_bad_one_is_refused_with_its_place(world):
    world.dns.site("us.test", "mx.us.test", "192.0.2.10")
    node, hop = by_facts(world, {"mx_country": ["US"], "reject": "550 5.7.1 no"}, countries=True)

    def rcpt():
        with node.client() as c:
            c.ehlo()
            c.mail("x@src.test")
            return c.rcpt("1@us.test").code

    assert rcpt() == 550
    path = mmdb.write(world.dir / "c.mmdb", {"192.0.2.0/24": "CN"})
    assert rcpt() == 550  # the one that is open
    node.reload()
    assert rcpt() == 250
    # Written over in place, as cp does: who has it open must not fall over it.
    with open(path, "wb") as f:
        f.write(b"damaged")
    assert rcpt() == 250
    node.reload()
    assert rcpt() == 250
    line = next(i for i, text in enumerate(node.config_file.read_text().splitlines(), 1)
                if text.startswith("  database:"))
    wrong = node.log.wait(event="config", level="error")
    assert f"{node.config_file}:{line}:" in str(wrong) and "geoip.database" in str(wrong), wrong
    assert node.running()


def test_check_refuses_what_a_start_refuses(world):
    world.dns.site("us.test", "mx.us.test", "192.0.2.10")
    node, _ = by_facts(world, {"mx_country": ["US"], "route": "us"}, countries=True)
    path = world.dir / "c.mmdb"

    def check():
        done = run(binary("relayd"), "-c", node.config_file, "--check", check=False)
        return done.returncode, done.stdout + done.stderr

    assert check()[0] == 0
    path.write_bytes(mmdb.make({"192.0.2.0/24": None}, "Test-ASN"))
    code, said = check()
    assert code == 78 and f"geoip.database: {path}: no country in it" in said, said
    path.write_bytes(mmdb.make(COUNTRIES)[:200])
    assert check()[0] == 78
    path.unlink()
    code, said = check()
    assert code == 78 and f"{path}: No such file" in said, said
    node.stop()
    node.start(ready=False)
    assert node.wait_exit() == 78


def test_database_is_read_by_the_user_relayd_becomes(world):
    """Without root's power and not dumpable, as in production, at start and at a reload."""
    user = pwd.getpwnam("nobody")
    world.dns.site("us.test", "mx.us.test", "192.0.2.10")
    database = mmdb.write(world.dir / "c.mmdb", COUNTRIES)
    rules = [{"mx_country": ["US"], "reject": "550 5.7.1 no"}, DEFAULT]
    node = world.node(start=False, config={"user": user.pw_name, "transport_map": rules,
                                           "geoip": {"database": database}})
    for name in ("queue", "run"):
        (node.dir / name).mkdir()
        os.chown(node.dir / name, user.pw_uid, -1)
    node.write_config({"control": {"socket": str(node.dir / "run" / "control.sock")}})
    node.start()
    node.reload()
    assert not node.log.all(level="error")
    with node.client() as c:
        c.ehlo()
        c.mail("x@src.test")
        assert c.rcpt("1@us.test").code == 550
