"""relayctl on the queue: look, retry, hold, release, remove, bounce, reroute; trace and verify."""

import json
import re
import threading

import pytest

from rig import mail
from rig.node import binary, sanitized
from rig.proc import rss_kib, run
from rig.remote import SILENCE
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


@pytest.mark.parametrize("state", [None, "scheduled"])
def test_retry_of_mail_for_a_host_that_is_back_sends_it_now(world, state):
    mx = world.mx("dest.test", start=False)
    node = world.node(config=WAITING)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    until(lambda: node.queue("--state", "scheduled"), what="the deferral to be stored")
    mx.start()
    assert act(node, "retry", *(["--state", state] if state else [ident])) == 1
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


def test_removing_what_is_being_sent_is_no_damage(world):
    gate = threading.Event()
    mx = world.mx("dest.test")
    mx.answer("data", lambda session: gate.wait(30) and "354 go on")
    node = world.node(config={"limits": {"memory": "1MiB"}})
    ident = node.submit("a@src.test", "b@dest.test",
                        mail.message(body=("x" * 70 + "\r\n") * 20000))  # read piece by piece
    mx.wait_command("^DATA")
    node.ctl("queue", "remove", ident)
    gate.set()
    assert "removed" in node.log.wait(event="attempt", msg=ident)["text"]
    node.log.wait(event="outcome_dropped", msg=ident)
    assert not node.log.all(alert="queue_damaged")
    assert not mx.mails and not node.queue()


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


# ---- --state: a verb acts on what the list shows in that state, and says how many those were

@pytest.fixture
def mixed(world):
    """x, y@one.test are scheduled, z@two.test is in hand: its site does not say a word."""
    one, two = world.mx("one.test"), world.mx("two.test")
    one.answer("rcpt", "451 4.3.0 come back later")
    two.answer("greeting", SILENCE)
    node = world.node(config=WAITING)
    node.submit("a@src.test", ["x@one.test", "y@one.test"], mail.message())
    node.submit("c@src.test", "z@two.test", mail.message(ident="second"))
    until(lambda: states(node) == {"x@one.test": "scheduled", "y@one.test": "scheduled",
                                   "z@two.test": "in_hand"}, what="two scheduled, one in hand")
    yield node, one, two
    two.behave()
    two.hang_up()


def states(node, *filters):
    return {w["rcpt"]: w["state"] for w in node.queue(*filters)}


def act(node, verb, *arguments):
    """How many it says."""
    return node.ctl_json("queue", verb, *arguments)["matched"]


@pytest.mark.parametrize("verb, then", [("remove", None), ("bounce", None), ("hold", "held"),
                                        ("retry", "in_hand"), ("reroute", "in_hand")])
def test_a_verb_on_what_is_in_hand_leaves_what_is_scheduled(mixed, world, verb, then):
    node, one, _ = mixed
    back = world.mx("src.test")
    tries = len(one.sessions)
    assert act(node, verb, "--state", "in_hand") == 1
    want = {"x@one.test": "scheduled", "y@one.test": "scheduled"}
    until(lambda: states(node) == (want if then is None else {**want, "z@two.test": then}),
          what=f"{verb} of the one in hand")
    assert len(one.sessions) == tries
    if verb == "bounce":
        assert mail.report(back.wait_mail().data).recipients[0]["Final-Recipient"] == \
            "rfc822; z@two.test"
    assert act(node, verb, "--state", "in_hand", "--domain", "one.test") == 0


@pytest.mark.parametrize("verb", ["remove", "bounce", "hold", "retry", "reroute"])
def test_a_verb_on_what_is_scheduled_leaves_what_is_in_hand(mixed, world, verb):
    node, one, _ = mixed
    world.mx("src.test")
    tried = one.commands().count("RCPT TO:<x@one.test>")
    assert act(node, verb, "--state", "scheduled", "--domain", "two.test") == 0
    assert act(node, verb, "--state", "scheduled") == 2
    if verb in ("retry", "reroute"):
        until(lambda: one.commands().count("RCPT TO:<x@one.test>") == tried + 1, what="a try")
        assert "z@two.test" in states(node)
    else:
        want = {"z@two.test": "in_hand"}
        if verb == "hold":
            want.update({"x@one.test": "held", "y@one.test": "held"})
        until(lambda: states(node) == want, what=f"{verb} of the scheduled ones")


def test_release_of_what_is_not_held_releases_nothing(mixed):
    node, _, _ = mixed
    assert act(node, "hold", "--sender", "a@src.test", "--reason", "wait") == 2
    before = states(node)
    for filters in (["--state", "scheduled"], ["--state", "in_hand"],
                    ["--state", "scheduled", "--domain", "one.test"], ["--domain", "two.test"]):
        assert act(node, "release", *filters) == 0, filters
        assert states(node) == before, filters
    assert act(node, "release", "--state", "held", "--domain", "one.test") == 2
    until(lambda: not node.queue("--state", "held"), what="the held ones to be released")


@pytest.mark.parametrize("state, held", [("in_hand", 0), ("scheduled", 2), ("held", 0)])
def test_hold_of_a_domain_in_one_state_holds_no_later_mail(mixed, state, held):
    node, one, _ = mixed
    assert act(node, "hold", "--domain", "one.test", "--state", state) == held
    assert len(node.queue("--state", "held")) == held
    one.behave()
    node.submit("a@src.test", "later@one.test", mail.message(ident="later"))
    one.wait_mail(rcpt="later@one.test")


def test_what_waits_for_a_held_domain_is_held_and_not_scheduled(mixed):
    node, _, _ = mixed
    assert act(node, "hold", "--domain", "one.test") == 2
    for verb in ("remove", "bounce", "retry", "reroute", "hold"):
        assert act(node, verb, "--state", "scheduled") == 0, verb
    assert states(node) == {"x@one.test": "held", "y@one.test": "held", "z@two.test": "in_hand"}
    assert act(node, "remove", "--state", "held") == 2
    assert states(node) == {"z@two.test": "in_hand"}


def test_a_verb_says_how_many_and_not_how_many_there_were(world):
    """One in a transaction cannot be bounced; nothing is held at the domain."""
    two = world.mx("two.test")
    two.answer("rcpt", SILENCE)
    node = world.node(config=WAITING)
    node.submit("c@src.test", "z@two.test", mail.message())
    two.wait_command("RCPT TO:<z@two.test>")
    assert act(node, "bounce", "--domain", "two.test") == 0
    assert act(node, "bounce", "--state", "in_hand") == 0
    assert states(node) == {"z@two.test": "in_hand"}
    assert act(node, "release", "--domain", "two.test") == 0
    assert act(node, "hold", "--domain", "two.test") == 1
    assert act(node, "remove", "--state", "held") == 0, "its transaction has not ended"
    assert act(node, "remove", "--state", "in_hand") == 1
    assert states(node) == {}
    two.hang_up()


@pytest.mark.parametrize("state", ["in_hand", "scheduled"])
def test_more_than_a_slice_in_one_state(mixed, state):
    """Pages of many messages, and several of one; the others stay."""
    node, one, two = mixed
    domain = {"in_hand": "two.test", "scheduled": "one.test"}[state]
    for i in range(13):
        node.submit("a@src.test", [f"r{n}@{domain}" for n in range(5 if i else 560)],
                    mail.message(ident=f"many{i}"))
    more = 560 + 12 * 5
    n = more + {"in_hand": 1, "scheduled": 2}[state]
    until(lambda: len(node.queue("--state", state, "--limit", "10000")) == n, what=f"{n} {state}")
    job = node.ctl_json("queue", "remove", "--state", state, "--wait")
    assert (job["state"], job["done"], job["total"]) == ("done", n, n)
    assert states(node) == {"in_hand": {"x@one.test": "scheduled", "y@one.test": "scheduled"},
                            "scheduled": {"z@two.test": "in_hand"}}[state]


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


def test_domain_on_hold_is_held_in_show_and_trace_too(parked):
    node, _, _ = parked
    node.ctl("queue", "hold", "--domain", "two.test")
    assert [w["state"] for w in node.queue("--domain", "two.test")] == ["held"]
    for verb in ("queue", "show"), ("trace",):
        assert [r["state"] for r in node.ctl_json(*verb, node.second)["recipients"]] == ["held"]


def test_suspend_and_resume_a_domain(parked):
    node, one, two = parked
    two.behave()
    node.ctl("suspend", "two.test", "--for", "2h", "--reason", "they asked")
    assert "they asked" in node.ctl("status").stdout
    ident = node.submit("a@src.test", "late@two.test", mail.message())
    node.restart()
    # It is ready before the queue's rows have been read; no mail goes before that.
    until(lambda: "they asked" in node.ctl("status").stdout, what="it to survive the restart")
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


@pytest.mark.slow
@pytest.mark.skipif(sanitized(), reason="a sanitizer keeps memory of its own")
def test_bounce_of_many_takes_little_memory(world):
    """Originals and reports of 2,000 messages of 28 KiB would be 150 MiB."""
    world.mx("dest.test")
    world.mx("src.test").answer("rcpt", "451 4.3.0 later")
    node = world.node(config=WAITING)
    node.ctl("queue", "hold", "--domain", "dest.test")
    with node.client() as session:
        session.ehlo()
        for i in range(2000):
            session.submit(f"a{i}@src.test", f"u{i}@dest.test",
                           mail.message(body=("x" * 70 + "\r\n") * 400))
    before, peak = rss_kib(node.pid), 0
    node.ctl("queue", "bounce", "--domain", "dest.test")

    def told():
        nonlocal peak
        peak = max(peak, rss_kib(node.pid))
        return len(node.log.all(event="received", client="notice")) == 2000

    until(told, 60, "all notices")
    assert peak - before < 80 << 10, f"{before} -> {peak} KiB"
