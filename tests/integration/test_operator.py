"""What an operator does in trouble: pin, suspend, reroute, give up; and what survives a restart."""

import time
import urllib.request

import pytest

from rig import mail
from rig.wait import until

HOUR = {"retry": {"intervals": ["1h"]}}
BLOCKED = "550 5.7.1 Service unavailable; client host blocked using sbl.spamhaus.org"


@pytest.fixture
def two(world):
    """(world, node, mx of dest.test, hop "out"): the default route is direct."""
    hop, mx = world.remote("hop.test"), world.mx("dest.test")
    world.mx("src.test")
    node = world.node(config={
        "queue": HOUR, "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"domains": ["gov.test"], "never_via": ["out"]},
                          {"default": True, "route": "direct"}]})
    return world, node, mx, hop


def deferred(node, mx, rcpt="b@dest.test", **options):
    """One recipient that waits in the schedule."""
    mx.answer("rcpt", "451 4.3.0 later")
    ident = node.submit("a@src.test", rcpt, mail.message(), **options)
    node.log.wait(event="attempt", msg=ident, outcome="deferred")
    until(lambda: node.queue("--state", "scheduled"), what="the recipient to be scheduled")
    return ident


def sender_mx(world):
    return next(r for r in world._parts if getattr(r, "hostname", "") == "mx.src.test")


# -- pins

def test_pinned_domain_goes_by_its_route_also_after_a_restart(two):
    _, node, mx, hop = two
    node.ctl("routes", "pin", "DEST.test", "out", "--for", "7d")
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    (row,) = node.ctl_json("routes", "learned")["learned"]
    assert (row["key"], row["route"], row["pinned"]) == ("dest.test", "out", True)
    node.restart()
    explained = node.ctl_json("explain", "x@dest.test")
    assert explained["route"] == "out" and explained["learned"] == "out"
    assert "dest.test" in node.ctl("routes", "learned").stdout
    node.submit("a@src.test", "c@dest.test", mail.message())
    hop.wait_mail(2)
    node.ctl("routes", "forget", "dest.test")
    assert node.ctl_json("routes", "learned")["learned"] == []
    assert node.ctl("routes", "forget", "dest.test", check=False).returncode == 66
    node.submit("a@src.test", "d@dest.test", mail.message())
    assert mx.wait_mail().rcpts == ["d@dest.test"]


def test_pin_ends_with_its_time(two):
    _, node, mx, hop = two
    node.ctl("routes", "pin", "dest.test", "out", "--for", "1s")
    until(lambda: not node.ctl_json("routes", "learned")["learned"], what="the end of the pin")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()


def test_pin_never_breaks_a_fence(two):
    world, node, _, hop = two
    gov = world.mx("gov.test")
    node.ctl("routes", "pin", "gov.test", "out", "--for", "1h")
    node.submit("a@src.test", "b@gov.test", mail.message())
    gov.wait_mail()
    assert not hop.sessions
    assert node.ctl_json("explain", "b@gov.test")["route"] == "direct"


@pytest.mark.parametrize("arguments, code", [
    (("dest.test", "nosuch", "--for", "1h"), 65), (("dest.test", "out"), 64),
    (("no domain", "out", "--for", "1h"), 64)])
def test_bad_pins_are_refused(two, arguments, code):
    _, node, _, _ = two
    assert node.ctl("routes", "pin", *arguments, check=False).returncode == code


# -- suspensions

@pytest.mark.parametrize("kind", ["domain", "site", "route"])
def test_suspension_holds_mail_back_and_survives_a_restart(two, kind):
    _, node, mx, _ = two
    node.submit("a@src.test", "first@dest.test", mail.message())
    mx.wait_mail()
    target = {"domain": "dest.test", "site": "mx.dest.test", "route": "direct"}[kind]
    said = node.ctl_json("suspend", target, "--for", "2h", "--reason", "they asked")
    assert said["kind"] == kind
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    for _ in range(2):
        (row,) = node.ctl_json("status")["suspended"]
        assert (row["target"], row["kind"], row["reason"]) == (target, kind, "they asked")
        assert "they asked" in node.ctl("status").stdout
        told = node.ctl_json("explain", "b@dest.test")
        assert told["suspended"] is True and told["next"].startswith("would wait, suspended, ")
        assert [i["rcpt"] for i in node.queue()] == ["b@dest.test"]
        assert len(mx.mails) == 1
        node.restart()
    node.ctl("resume", target)
    mx.wait_mail(2)
    node.wait_empty()
    assert not node.log.all(event="attempt", msg=ident, outcome="deferred")


def test_suspension_ends_by_itself(two):
    _, node, mx, _ = two
    node.ctl("suspend", "dest.test", "--for", "1s")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    assert node.ctl_json("status")["suspended"] == []


# -- verbs

def test_reroute_to_a_route_takes_it_first_and_only_for_this_mail(two):
    _, node, mx, hop = two
    ident = deferred(node, mx)
    deferred(node, mx, "other@dest.test")
    node.ctl("queue", "reroute", "--to", "out", ident)
    assert hop.wait_mail().rcpts == ["b@dest.test"]
    until(lambda: [i["rcpt"] for i in node.queue()] == ["other@dest.test"],
          what="the delivered one to leave the queue")
    assert len(hop.mails) == 1
    assert node.ctl("queue", "reroute", "--to", "nosuch", "--all", check=False).returncode == 65


def test_bounce_tells_the_reason_and_honours_notify(two):
    world, node, mx, _ = two
    back = sender_mx(world)
    mx.answer("rcpt", "451 4.3.0 later")
    ident = node.submit("a@src.test", ["said@dest.test", ("quiet@dest.test", "NOTIFY=NEVER")],
                        mail.message())
    node.log.wait(event="attempt", msg=ident, outcome="deferred", count=2)
    node.ctl("queue", "bounce", ident, "--reason", "the partner has moved")
    report = mail.report(back.wait_mail().data)
    assert [f["Final-Recipient"] for f in report.recipients] == ["rfc822; said@dest.test"]
    fields = report.recipients[0]
    assert fields["Action"] == "failed" and fields["Status"].startswith("5.")
    assert "the partner has moved" in report.text
    node.wait_empty()
    assert len(back.mails) == 1


def test_held_mail_keeps_its_reason_for_us_and_from_the_sender(two):
    world, node, mx, _ = two
    mailbox = sender_mx(world)
    ident = deferred(node, mx)
    node.ctl("queue", "hold", ident, "--reason", "looks odd")
    (item,) = node.queue()
    assert (item["state"], item["reason"]) == ("held", "looks odd")
    assert node.ctl("queue", "retry", ident, check=False).returncode == 66
    node.restart()
    assert node.queue()[0]["state"] == "held" and node.queue()[0]["reason"] == "looks odd"
    assert node.queue()[0]["last_reply"] == "451 4.3.0 later"
    node.ctl("queue", "release", ident)
    node.log.wait(event="attempt", msg=ident, outcome="deferred", count=2)
    node.ctl("queue", "bounce", ident)
    report = mail.report(mailbox.wait_mail().data)
    assert "later" in report.text and "looks odd" not in report.message.as_string()
    node.wait_empty()


def test_held_domain_keeps_new_mail_too_and_tells_why(two):
    _, node, mx, _ = two
    node.ctl("queue", "hold", "--domain", "dest.test", "--reason", "under attack")
    node.submit("a@src.test", "b@dest.test", mail.message())
    for _ in range(2):
        (item,) = node.queue()
        assert item["state"] == "held" and "under attack" in item["reason"]
        told = node.ctl_json("explain", "x@dest.test")
        assert told["held"] is True and told["next"] == "would be held: under attack"
        node.restart()
    assert node.ctl_json("explain", "x@other.test")["held"] is False
    node.ctl("queue", "release", "--domain", "dest.test")
    mx.wait_mail()
    told = node.ctl_json("explain", "x@dest.test")
    assert told["held"] is False and told["next"] == "would go at once by route direct"


def test_verbs_reach_mail_that_waits_in_memory(two):
    """Ready at a suspended site: in hand, and yet to be held, bounced or removed."""
    world, node, mx, _ = two
    node.submit("a@src.test", "first@dest.test", mail.message())
    mx.wait_mail()
    node.ctl("suspend", "mx.dest.test", "--for", "1h")
    idents = [node.submit("a@src.test", f"u{i}@dest.test", mail.message()) for i in range(3)]
    node.ctl("queue", "hold", idents[0])
    node.ctl("queue", "remove", idents[1])
    node.ctl("queue", "bounce", idents[2])
    until(lambda: [(i["rcpt"], i["state"]) for i in node.queue() if "dest" in i["rcpt"]] ==
          [("u0@dest.test", "held")], what="the verbs to have acted")
    node.ctl("resume", "mx.dest.test")
    node.ctl("queue", "release", idents[0])
    assert mx.wait_mail(2)[1].rcpts == ["u0@dest.test"]


def test_filters_select_by_sender_age_and_state(two):
    _, node, mx, _ = two
    mx.answer("rcpt", "451 4.3.0 later")
    for sender in ("a@src.test", "other@src.test", ""):
        ident = node.submit(sender, "b@dest.test", mail.message())
        node.log.wait(event="attempt", msg=ident, outcome="deferred")
    assert len(node.queue("--sender", "a@src.test")) == 1
    assert [i["sender"] for i in node.queue("--sender", "<>")] == [""]
    assert node.queue("--older", "1h") == [] and len(node.queue("--limit", "2")) == 2
    assert "1 recipient" in node.ctl("queue", "remove", "--sender", "<>").stdout
    assert len(node.queue()) == 2


def test_trace_follows_a_message_over_routes_and_a_restart(two):
    world, node, mx, hop = two
    node.reload({"transport_map": [{"default": True, "route": "direct", "fallback": ["out"]}]})
    mx.answer("mail", BLOCKED, times=1)
    ident = node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail()
    node.wait_empty()
    node.restart()
    traced = node.ctl_json("trace", ident)
    assert traced["sender"] == "a@src.test"
    assert [r["result"] for r in traced["recipients"]] == ["delivered"]
    last = traced["events"][-1]
    assert (last["route"], last["outcome"], last["code"]) == ("out", "delivered", 250)
    assert node.ctl("trace", "cn.0000000000001", check=False).returncode == 66


def test_status_names_the_sites_in_trouble(two):
    world, node, _, _ = two
    world.dns.site("dead.test", "mx.dead.test", world.take())
    node.submit("a@src.test", "b@dead.test", mail.message())
    node.log.wait(event="site_down", site="mx.dead.test")
    (site,) = node.ctl_json("status")["sites"]
    assert (site["site"], site["route"], site["state"]) == ("mx.dead.test", "direct", "down")
    assert "refused" in site["last_reply"] and site["next_at"]
    text = node.ctl("status").stdout
    assert "mx.dead.test" in text


# -- metrics

def test_metrics_have_their_names(two):
    world, node, mx, hop = two
    certificate = world.ca.issue("relay.test")
    address = f"{node.address}:8025"
    node.stop()
    node.write_config({"http": {"address": address}, "tls": {
        "certificate_file": certificate.cert_file, "private_key_file": certificate.key_file}})
    node.start()
    world.dns.site("dead.test", "mx.dead.test", world.take())
    node.ctl("routes", "pin", "pinned.test", "out", "--for", "1h")
    node.submit("a@src.test", "x@pinned.test", mail.message())
    hop.wait_mail()
    node.submit("a@src.test", "x@dead.test", mail.message())
    node.log.wait(event="site_down", site="mx.dead.test")
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["relayd_messages_accepted_total"] == 2
    assert values['relayd_recipients_delivered_total{route="out",class="ok"}'] == 1
    assert values['relayd_recipients_deferred_total{route="direct",class="routing-error"}'] == 1
    assert values["relayd_queue_messages"] == 1
    assert values["relayd_queue_oldest_age_seconds"] >= 0
    assert values["relayd_sessions"] == 0 and values["relayd_connections_total"] == 2
    for name in ("commits_total", "commit_operations_total", "commit_bytes_total"):
        assert values[f"relayd_{name}"] > 0, name
    for name in ("commit_sync_seconds_total", "commit_apply_seconds_total"):
        assert values[f"relayd_{name}"] >= 0, "a fast disk takes no time that the clock sees"
    assert values['relayd_site_in_trouble{site="mx.dead.test",route="direct",state="down"}'] == 1
    assert values['relayd_sites_in_trouble{route="direct",state="down"}'] == 1
    assert values['relayd_sites_in_trouble{route="out",state="down"}'] == 0
    assert values["relayd_pinned_domains"] == 1
    expiry = values["relayd_certificate_expiry_timestamp_seconds"]
    assert 28 * 86400 < expiry - time.time() < 31 * 86400
