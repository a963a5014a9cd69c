"""What relayd is installed for: a real Postfix abroad refuses our home address, and the overseas
node's is welcome. Nobody edits a transport map.

company -> cn ── direct ──▶ Postfix that refuses cn's address
            └── us (TLS, AUTH) ── direct ──▶ the same Postfix
"""

import datetime

import pytest

from rig import mail
from rig.chain import Chain
from rig.wait import PATIENCE, until

BLOCKED = "554 5.7.1 Service unavailable; Client host blocked using zen.spamhaus.org"
BY_DEFAULT = [{"domains": ["mydomain.test"], "route": "direct"},
              {"default": True, "route": "direct", "fallback": ["us"], "learn": True}]


def destination(world, *domains):
    host = "mx." + domains[0]
    postfix = world.postfix(host).as_destination(*domains)
    postfix.with_tls(world.ca.issue(host)).start()
    for domain in domains:
        world.dns.site(domain, host, postfix.address)
    return postfix


def refuse_home(postfix, chain, stage, answer=BLOCKED, **limits):
    postfix.access(stage, answer, match=f" {chain.cn.address}$", **limits)


def send(chain, rcpts, sender="boss@mydomain.test"):
    return chain.cn.submit(sender, rcpts, mail.message(sender, rcpts if isinstance(rcpts, str)
                                                       else rcpts[0]))


def at(line):
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt", "dot"])
def test_mail_that_is_refused_from_home_arrives_from_abroad_within_a_second(world, stage):
    postfix = destination(world, "abc.test")
    chain = Chain(world, BY_DEFAULT)
    refuse_home(postfix, chain, stage)
    ident = send(chain, "who@abc.test")
    delivered = postfix.wait_mail("who@abc.test")
    assert f"[{chain.us.address}]".encode() in delivered
    moved = chain.trace(ident, outcome="rerouted")
    assert (moved["route"], moved["code"]) == ("direct", "554")
    handed = chain.trace(ident, outcome="delivered", route="us")
    assert at(handed) - at(moved) < 1 * PATIENCE
    # The next one does not even ask, also after a restart.
    chain.cn.restart()
    second = send(chain, "other@abc.test")
    postfix.wait_mail("other@abc.test")
    assert chain.trace(second)["route"] == "us"


def test_probes_lead_home_when_the_postfix_takes_us_back(world):
    postfix = destination(world, "abc.test")
    chain = Chain(world, BY_DEFAULT, cn={"learning": {"ttl": "1s", "max_ttl": "1s"}})
    refuse_home(postfix, chain, "rcpt", times=1)
    assert chain.trace(send(chain, "u0@abc.test"), outcome="delivered")["route"] == "us"

    def sent_directly():
        return chain.trace(send(chain, "u1@abc.test"), outcome="delivered")["route"] == "direct"

    until(sent_directly, what="a probe")
    until(lambda: sent_directly() and chain.cn.log.all(event="forgotten"), what="three good probes")
    assert chain.cn.ctl_json("routes", "learned")["learned"] == []


def test_recipients_of_one_message_have_fates_of_their_own(world):
    postfix, home = destination(world, "abc.test"), destination(world, "mydomain.test")
    chain = Chain(world, BY_DEFAULT)
    postfix.access("rcpt", BLOCKED, match=f"blocked@.* {chain.cn.address}$")
    postfix.access("rcpt", "550 5.1.1 User unknown in virtual mailbox table", match="unknown@")
    ident = send(chain, [f"{who}@abc.test" for who in ("taken", "blocked", "unknown")])
    taken, blocked = postfix.wait_mail("taken@abc.test"), postfix.wait_mail("blocked@abc.test")
    assert f"[{chain.cn.address}]".encode() in taken and b"smtp-us" not in taken
    assert f"[{chain.us.address}]".encode() in blocked
    report = mail.report(home.wait_mail("boss@mydomain.test"))
    assert [r["Final-Recipient"] for r in report.recipients] == ["rfc822; unknown@abc.test"]
    assert chain.trace(ident, rcpt="unknown@abc.test", outcome="failed")["class"] == "bad-mailbox"


def test_refused_by_every_route_bounces_with_both_refusals(world):
    postfix, home = destination(world, "abc.test"), destination(world, "mydomain.test")
    hop = world.remote("hop.test")
    hop.answer("rcpt", "550 5.7.1 mail from your country is not accepted")
    chain = Chain(world, [{"domains": ["mydomain.test"], "route": "direct"},
                          {"default": True, "route": "direct", "fallback": ["smart"]}], start=False)
    chain.cn.write_config({"hops": {"smart": {"address": f"{hop.address}:25", "tls": "off"}}})
    chain.cn.start()
    refuse_home(postfix, chain, "rcpt")
    send(chain, "who@abc.test")
    report = mail.report(home.wait_mail("boss@mydomain.test"))
    assert "spamhaus" in report.text and "country" in report.text


def test_fence_bounces_what_may_not_go_abroad(world):
    postfix, home = destination(world, "gov.test"), destination(world, "mydomain.test")
    chain = Chain(world, [{"domains": ["gov.test"], "never_via": ["us"]}, *BY_DEFAULT])
    refuse_home(postfix, chain, "connect")
    send(chain, "who@gov.test")
    report = mail.report(home.wait_mail("boss@mydomain.test"))
    assert "spamhaus" in report.text
    assert not chain.us.log.all(event="received")
