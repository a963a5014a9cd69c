"""relayctl check --diff: who would go another way under another file."""

import json
import subprocess
import time

import pytest

from rig import mail, mmdb
from rig.node import binary, sanitized
from rig.oddns import OddDns
from rig.proc import run
from rig.wait import PATIENCE, until


def diff(node, rules, **changes):
    """The answer for the node's configuration with other rules."""
    config = {**node.config, "transport_map": rules, **changes}
    config = {k: v for k, v in config.items() if v is not None}
    return node.ctl_json("check", "--diff", node.file("new.yaml", json.dumps(config)))


def rows(changes):
    return [(c["domain"], c["recipients"], c["from"], c["to"]) for c in changes]


@pytest.fixture
def out(world):
    """A hop that takes everything, so that no mail asks DNS."""
    return world.remote("out.test")


@pytest.fixture
def node(world, out):
    """Everything goes by the hop, but for held.test: that waits."""
    return world.node(config={
        "hops": {name: {"address": f"{out.address}:25", "tls": "off"} for name in ("out", "far")},
        "transport_map": [{"domains": ["*.held.test"], "hold": "wait"},
                          {"default": True, "route": "out"}]})


def send(node, *rcpts, sender="a@src.test"):
    node.submit(sender, list(rcpts), mail.message())


def test_waiting_mail_and_the_last_day_are_told_apart(node, out):
    send(node, "a@one.test", "b@one.test", "c@two.test")
    send(node, "d@one.test", "e@x.held.test")
    out.wait_mail(count=2)
    node.log.wait(event="attempt", outcome="delivered", count=4)
    found = diff(node, [{"domains": ["one.test", "*.held.test"], "route": "far"},
                        {"default": True, "route": "out"}])
    assert rows(found["history"]) == [("one.test", 3, "out", "far")]
    assert rows(found["changes"]) == [("x.held.test", 1, "hold: wait", "far")]
    assert (found["checked"], found["history_checked"]) == (1, 4)
    assert found["complete"] and not found["unknown"] and not found["history_unknown"]


def test_the_largest_change_comes_first(node):
    send(node, "a@one.test", *[f"u{i}@many.test" for i in range(5)], "a@few.test", "b@few.test")
    node.wait_empty()
    found = diff(node, [{"default": True, "route": "far"}])
    assert [c["domain"] for c in found["history"]] == ["many.test", "few.test", "one.test"]


def test_rules_by_sender_and_recipient_see_what_history_keeps(node):
    send(node, "a@one.test", "VIP@one.test", sender="x@src.test")
    send(node, "a@one.test", sender="x@news.src.test")
    send(node, "a@one.test", sender="")
    node.wait_empty()
    found = diff(node, [{"recipients": ["vip@one.test"], "route": "far", "fallback": ["out"]},
                        {"senders": ["*@news.src.test"], "reject": "550 5.7.1 no news"},
                        {"senders": ["<>"], "route": "direct"},
                        {"default": True, "route": "out"}])
    assert sorted(rows(found["history"])) == [
        ("one.test", 1, "out", "direct"), ("one.test", 1, "out", "far, then out"),
        ("one.test", 1, "out", "reject: 550 5.7.1 no news")]


def test_the_same_map_changes_nothing(node):
    send(node, "a@one.test", "a@x.held.test")
    node.log.wait(event="attempt", outcome="delivered")
    found = diff(node, node.config["transport_map"])
    assert found["changes"] == found["history"] == [] and found["complete"]
    done = node.ctl("check", "--diff", node.config_file)
    assert "0 of 1 recipients would go another way" in done.stdout


def test_text_is_a_table_for_each(node):
    send(node, "a@one.test", "a@x.held.test")
    node.log.wait(event="attempt", outcome="delivered")
    new = node.file("new.yaml", json.dumps({**node.config,
                                            "transport_map": [{"default": True, "route": "far"}]}))
    text = node.ctl("check", "--diff", new).stdout
    waiting, past = text.split("Mail of the last 24 hours")
    assert waiting.startswith("Waiting mail\n") and "x.held.test" in waiting
    assert ["one.test", "1", "out", "far"] in [line.split() for line in past.splitlines()]
    assert "1 of 1 recipients would go another way\n" in past


def test_more_changes_than_the_answer_lists_make_it_incomplete(node):
    for part in range(2):
        send(node, *[f"a@d{part}-{i}.held.test" for i in range(600)])
    node.log.wait(event="held", count=1)
    found = diff(node, [{"default": True, "route": "far"}])
    assert found["checked"] == 1200 and len(found["changes"]) == 1000
    assert not found["complete"] and not found["waiting_complete"] and found["history_complete"]


def test_bad_file_is_told_with_its_places(node):
    new = node.file("new.yaml", json.dumps({**node.config, "transport_map": [
        {"default": True, "route": "mars"}]}))
    done = run(binary("relayctl"), "-c", node.config_file, "check", "--diff", new, check=False)
    assert done.returncode != 0 and "mars" in done.stdout + done.stderr


# -- rules that ask DNS

MX_RULES = [{"mx": ["*.big.test"], "route": "far"}, {"default": True, "route": "out"}]


def test_mx_are_looked_up_for_both_lists(world, node):
    world.dns.mx("one.test", "mx1.big.test")
    world.dns.mx("two.test", "mx.two.test")
    world.dns.mx("x.held.test", "mx2.big.test")
    world.dns.a("three.test", "203.0.113.9")  # no MX: no rule by MX matches
    send(node, "a@one.test", "b@one.test", "a@two.test", "a@three.test", "a@gone.test",
         "a@x.held.test")
    node.log.wait(event="attempt", outcome="delivered", count=5)
    found = diff(node, MX_RULES)
    assert rows(found["history"]) == [("one.test", 2, "out", "far")]
    # Not the rule that holds any more, and not one by MX: the same for every subdomain.
    assert rows(found["changes"]) == [("x.held.test", 1, "hold: wait", "far")]
    assert found["complete"] and not found["unknown"] and not found["history_unknown"]


def test_the_map_in_force_may_ask_for_facts_too(world, node):
    world.dns.mx("one.test", "mx1.big.test")
    world.dns.mx("two.test", "mx.two.test")
    node.reload({"transport_map": MX_RULES})
    send(node, "a@one.test", "a@two.test")
    node.wait_empty()
    found = diff(node, [{"default": True, "route": "out"}])
    assert rows(found["history"]) == [("one.test", 1, "far", "out")]


def test_what_dns_does_not_tell_is_unknown_and_never_guessed(world, node):
    world.dns.mx("one.test", "mx1.big.test")
    send(node, "a@one.test", "a@broken.test", "b@broken.test")
    node.wait_empty()
    found = diff(node, MX_RULES)
    assert rows(found["history"]) == [("one.test", 1, "out", "far")]
    assert found["history_unknown"] == 2 and found["history_checked"] == 3
    assert not found["unknown"] and found["complete"]


def test_rules_above_need_no_facts(world, node):
    """A domain that a sure rule decides first is not asked about."""
    send(node, "a@broken.test")
    node.wait_empty()
    found = diff(node, [{"domains": ["broken.test"], "route": "far"}, *MX_RULES])
    assert rows(found["history"]) == [("broken.test", 1, "out", "far")]
    assert not found["history_unknown"]


@pytest.fixture
def silent(world, out):
    """A node whose resolver never answers, and the resolver."""
    resolver = world.keep(OddDns(world.take(), lambda name, kind: OddDns.SILENCE))
    node = world.node(config={
        "resolver": {"servers": [resolver.server]},
        "hops": {name: {"address": f"{out.address}:25", "tls": "off"} for name in ("out", "far")},
        "transport_map": [{"default": True, "route": "out"}]})
    return node, resolver


def test_silent_dns_does_not_hold_the_answer_up(silent):
    """Unknown, and still within a second."""
    node, resolver = silent
    send(node, *[f"a@d{i}.test" for i in range(200)])
    node.wait_empty()
    begun = time.monotonic()
    found = diff(node, MX_RULES)
    took = time.monotonic() - begun
    assert found["history_unknown"] == 200 and found["history"] == []
    assert took < (3 if sanitized() else 1) * PATIENCE + 0.3, f"{took:.2f} s"
    # No more of them at a time than leaves deliveries their share.
    assert len({name for name, _ in resolver.asked}) == 50


def test_stop_does_not_wait_for_a_check(silent):
    node, resolver = silent
    send(node, *[f"a@d{i}.test" for i in range(10)])
    node.wait_empty()
    new = node.file("new.yaml", json.dumps({**node.config, "transport_map": MX_RULES}))
    check = subprocess.Popen([binary("relayctl"), "-c", node.config_file, "check", "--diff", new],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: resolver.asked, what="the check to ask")
    node.stop()
    check.wait(20)


def test_each_file_decides_by_its_own_database(world, node):
    us = mmdb.write(node.dir / "us.mmdb", {"8.8.8.0/24": "US", "9.9.9.0/24": "DE"})
    de = mmdb.write(node.dir / "de.mmdb", {"8.8.8.0/24": "DE", "9.9.9.0/24": "DE"})
    for name, address in (("one", "8.8.8.8"), ("two", "9.9.9.9")):
        world.dns.site(f"{name}.test", f"mx.{name}.test", address)
    rules = [{"mx_country": ["US"], "route": "far"}, {"default": True, "route": "out"}]
    send(node, "a@one.test", "a@two.test")
    node.wait_empty()
    # A file with a database against the one in force without.
    found = diff(node, rules, geoip={"database": us})
    assert rows(found["history"]) == [("one.test", 1, "out", "far")]
    # Two databases that differ about one address.
    node.reload({"transport_map": rules, "geoip": {"database": us}})
    found = diff(node, rules, geoip={"database": de})
    assert rows(found["history"]) == [("one.test", 1, "far", "out")]
    # And back to a file without any.
    found = diff(node, [{"default": True, "route": "out"}], geoip=None)
    assert rows(found["history"]) == [("one.test", 1, "far", "out")]
    assert not found["history_unknown"] and found["complete"]
