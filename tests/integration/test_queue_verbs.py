"""relayctl on the queue: look, retry, hold, release, remove, bounce, reroute; trace and verify."""

import json
import re

import pytest

from rig import mail
from rig.node import binary
from rig.proc import run
from rig.wait import seconds_until, until

WAITING = {"queue": {"retry": {"intervals": ["1h"], "jitter": "0%"}}}


@pytest.fixture
def parked(world):
    """A node with three deferred recipients of two domains, and the two MXs."""
    one, two = world.mx("one.test"), world.mx("two.test")
    for mx in (one, two):
        mx.answer("rcpt", "451 4.3.0 come back later")
    node = world.node(config=WAITING)
    node.first = node.submit("a@src.test", ["x@one.test", "y@one.test"], mail.message())
    node.second = node.submit("c@src.test", "z@two.test",
                              mail.message(ident="second", body="the body\r\n"))
    node.log.wait(event="attempt", outcome="deferred", count=3)
    until(lambda: len(node.queue("--state", "scheduled")) == 3, what="three scheduled recipients")
    return node, one, two


def rcpts(node, *filters):
    return sorted(w["rcpt"] for w in node.queue(*filters))


def test_list_has_the_documented_fields(parked):
    node, _, _ = parked
    item = next(w for w in node.queue() if w["rcpt"] == "z@two.test")
    assert set(item) >= {"id", "rcpt", "sender", "state", "route", "due_at", "attempts",
                         "last_reply"}
    assert (item["id"], item["sender"], item["state"]) == (node.second, "c@src.test", "scheduled")
    assert item["route"] == "direct" and item["attempts"] == 1
    assert item["last_reply"].startswith("451 4.3.0")
    assert 3000 < seconds_until(item["due_at"]) < 3700


def test_list_filters(parked):
    node, _, _ = parked
    assert rcpts(node) == ["x@one.test", "y@one.test", "z@two.test"]
    assert rcpts(node, "--domain", "one.test") == ["x@one.test", "y@one.test"]
    assert rcpts(node, "--sender", "c@src.test") == ["z@two.test"]
    assert rcpts(node, "--state", "held") == []
    assert rcpts(node, "--older", "1h") == []
    assert len(node.queue("--limit", "2")) == 2


def test_show_and_body(parked):
    node, _, _ = parked
    shown = node.ctl("queue", "show", node.second).stdout
    assert "z@two.test" in shown and "c@src.test" in shown and "come back later" in shown
    body = node.ctl("queue", "body", node.second).stdout
    assert "second@src.test" in body and "the body" in body


def test_retry_of_one_message_leaves_the_others(parked):
    node, one, two = parked
    one.behave()
    two.behave()
    done = node.ctl("queue", "retry", node.second).stdout
    assert re.search(r"\b1\b", done), "it must say how many"
    assert two.wait_mail().rcpts == ["z@two.test"]
    until(lambda: rcpts(node) == ["x@one.test", "y@one.test"], what="the delivered one to go")


def test_retry_of_a_domain(parked):
    node, one, two = parked
    one.behave()
    assert re.search(r"\b2\b", node.ctl("queue", "retry", "--domain", "one.test").stdout)
    one.wait_mail(rcpt="x@one.test")
    one.wait_mail(rcpt="y@one.test")
    until(lambda: rcpts(node) == ["z@two.test"], what="the delivered ones to leave the queue")


def test_retry_of_mail_for_a_host_that_is_back_sends_it_now(world):
    mx = world.mx("dest.test", start=False)
    node = world.node(config=WAITING)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    mx.start()
    assert "1" in node.ctl("queue", "retry", ident).stdout
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    node.wait_empty()


def test_hold_and_release_a_message(parked):
    node, one, two = parked
    two.behave()
    node.ctl("queue", "hold", node.second)
    until(lambda: rcpts(node, "--state", "held") == ["z@two.test"], what="a held recipient")
    node.ctl("queue", "retry", "--domain", "two.test")
    node.restart()
    assert rcpts(node, "--state", "held") == ["z@two.test"]
    assert not two.mails
    node.ctl("queue", "release", node.second)
    node.ctl("queue", "retry", node.second, check=False)
    assert two.wait_mail()


def test_hold_a_domain_also_stops_new_mail_for_it(parked):
    node, one, two = parked
    two.behave()
    node.ctl("queue", "hold", "--domain", "two.test")
    node.submit("a@src.test", "new@two.test", mail.message())
    node.submit("a@src.test", "x@two.test", mail.message())
    tries = len(two.sessions)
    node.restart()
    assert len(node.queue("--domain", "two.test")) == 3
    assert len(two.sessions) == tries and not two.mails
    node.ctl("queue", "release", "--domain", "two.test")
    node.ctl("queue", "retry", "--domain", "two.test")
    assert sorted(r for m in two.wait_mail(3) for r in m.rcpts) == \
        ["new@two.test", "x@two.test", "z@two.test"]


def test_remove_leaves_no_trace_for_the_sender(world, parked):
    node, one, two = parked
    back = world.mx("src.test")
    node.ctl("queue", "remove", node.first)
    until(lambda: rcpts(node) == ["z@two.test"], what="the removed ones to go")
    assert not back.sessions
    assert node.ctl("verify").returncode == 0


def test_bounce_tells_the_sender(world, parked):
    node, one, two = parked
    back = world.mx("src.test")
    node.ctl("queue", "bounce", node.second)
    got = back.wait_mail()
    assert got.rcpts == ["c@src.test"]
    report = mail.report(got.data)
    assert report.recipients[0]["Final-Recipient"] == "rfc822; z@two.test"
    assert "come back later" in report.text
    until(lambda: rcpts(node) == ["x@one.test", "y@one.test"], what="the bounced one to go")


def test_reroute_asks_the_map_again_at_once(world, parked):
    node, one, two = parked
    hop = world.remote("hop.test")
    node.reload({"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
                 "transport_map": [{"domains": ["two.test"], "route": "out"},
                                   {"default": True, "route": "direct"}]})
    node.ctl("queue", "reroute", node.second)
    assert hop.wait_mail().rcpts == ["z@two.test"]


def test_unknown_id_is_an_error_that_says_so(parked):
    node, _, _ = parked
    for verb in (["queue", "show", "cn.0000000000000"], ["queue", "remove", "cn.0000000000000"],
                 ["queue", "show", "nonsense"], ["trace", "cn.0000000000000"]):
        done = node.ctl(*verb, check=False)
        assert done.returncode != 0 and done.stderr.strip(), verb


def test_trace_tells_what_became_of_a_message(parked):
    node, one, two = parked
    two.behave()
    node.ctl("queue", "retry", node.second)
    two.wait_mail()
    node.log.wait(event="attempt", msg=node.second, outcome="delivered")
    text = node.ctl("trace", node.second).stdout
    assert "z@two.test" in text and "delivered" in text
    assert json.loads(node.ctl("--json", "trace", node.second).stdout)


def test_explain_gives_rule_route_and_site(world, parked):
    node, _, _ = parked
    explained = node.ctl_json("explain", "x@one.test")
    assert set(explained) >= {"rcpt", "rule", "route", "fallback", "fences", "site", "tls", "dkim"}
    assert explained["rcpt"] == "x@one.test" and explained["route"] == "direct"
    text = node.ctl("explain", "--from", "a@src.test", "x@one.test").stdout
    assert re.search(r"relayd\.yaml:\d+", text), "the rule's file and line"


def test_suspend_and_resume_a_domain(parked):
    node, one, two = parked
    two.behave()
    node.ctl("suspend", "two.test", "--for", "2h", "--reason", "they asked")
    assert "they asked" in node.ctl("status").stdout
    ident = node.submit("a@src.test", "late@two.test", mail.message())
    node.restart()
    assert "they asked" in node.ctl("status").stdout, "a suspension survives a restart"
    assert not two.mails
    node.ctl("resume", "two.test")
    node.ctl("queue", "retry", ident, check=False)
    two.wait_mail()


def test_verify_finds_a_sound_queue_running_and_stopped(parked):
    node, _, _ = parked
    assert node.ctl("verify").returncode == 0
    node.stop()
    assert run(binary("relayctl"), "-c", node.config_file, "verify").returncode == 0
    node.start()


def test_verbs_work_in_pipes_and_have_help(parked):
    node, _, _ = parked
    for verb in ("status", "queue list", "routes"):
        assert "\x1b" not in node.ctl(*verb.split()).stdout
    for verb in ("status", "queue", "explain", "routes", "suspend", "trace", "reload", "dkim",
                 "classify", "user", "tls", "verify", "check", "resume"):
        assert node.ctl(verb, "--help").stdout.strip(), verb


def test_unknown_verbs_and_missing_daemon_exit_non_zero(parked):
    node, _, _ = parked
    assert node.ctl("frobnicate", check=False).returncode != 0
    assert node.ctl("queue", "list", "--nonsense", check=False).returncode != 0
    node.stop()
    assert node.ctl("status", check=False).returncode != 0
    node.start()
