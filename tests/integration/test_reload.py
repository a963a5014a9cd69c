"""SIGHUP under load: no session is refused or dropped, a bad file changes nothing."""

import json

from rig import mail
from rig.ledger import Ledger
from rig.load import Load
from rig.node import sanitized
from rig.proc import rss_kib
from rig.wait import until


def routes(hop, to_hop):
    return {"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
            "transport_map": [{"default": True, "route": "out" if to_hop else "direct"}]}


def test_fifty_reloads_under_load_lose_and_refuse_nothing(world):
    ledger = Ledger()
    mx, hop = world.mx("dest.test"), world.remote("hop.test")
    for remote in (mx, hop):
        remote.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    node = world.node(config=routes(hop, False))
    load = Load(node, ledger)
    for i in range(50):
        node.reload(routes(hop, i % 2 == 0))
        if i == 5:
            early = rss_kib(node.pid)
    late = rss_kib(node.pid)
    load.stop()
    until(lambda: not ledger.missing(), 60, "all deliveries")
    node.wait_empty(60)
    ledger.check()
    assert hop.mails and mx.mails
    assert sanitized() or late < early + 30000, f"{early} KiB grew to {late} KiB"


def test_changed_map_applies_to_mail_that_already_waits(world):
    hop = world.remote("hop.test")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={**routes(hop, False),
                              "queue": {"retry": {"intervals": ["2s"], "jitter": "0%"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    node.reload(routes(hop, True))
    assert hop.wait_mail().rcpts == ["b@dest.test"]


def test_bad_file_is_reported_and_the_old_configuration_stays(world):
    mx = world.mx("dest.test")
    node = world.node()
    good = dict(node.config)
    node.reload({"limits": {"sessions": "many"}}, wait=False)
    until(lambda: any("limits.sessions" in line for line in node.log.lines()),
          what="the report of the mistake")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    node.config = good
    node.reload()
    assert node.running()


def test_reload_by_relayctl_says_what_is_wrong(world):
    node = world.node()
    node.write_config({"colour": "red"})
    done = node.ctl("reload", check=False)
    assert done.returncode != 0 and "colour" in done.stdout + done.stderr
    node.write_config({"colour": None})
    assert node.ctl("reload").returncode == 0


def test_removed_route_leaves_no_orphans(world):
    hop = world.remote("hop.test")
    hop.stop()
    mx = world.mx("dest.test")
    node = world.node(config={**routes(hop, True),
                              "queue": {"retry": {"intervals": ["2s"], "jitter": "0%"}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    node.reload({"hops": None, "transport_map": [{"default": True, "route": "direct"}]})
    node.ctl("queue", "retry", "--domain", "dest.test")
    assert mx.wait_mail().rcpts == ["b@dest.test"]


def test_changed_trust_takes_effect_at_reload(world):
    node = world.node(config={"trusted_clients": [{"cidr": "198.51.100.0/24"}]})
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 554
    node.reload({"trusted_clients": [{"cidr": "127.0.0.0/8"}]})
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").code == 250


def test_check_diff_tells_which_waiting_mail_changes_its_route(world):
    hop = world.remote("hop.test")
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={**routes(hop, False), "queue": {"retry": {"intervals": ["1h"]}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    new = node.file("new.yaml", json.dumps({**node.config, **routes(hop, True)}))
    done = node.ctl("check", "--diff", new)
    assert "b@dest.test" in done.stdout or "dest.test" in done.stdout
    assert "direct" in done.stdout and "out" in done.stdout


def test_log_file_is_opened_again(world):
    node = world.node(start=False)
    target = node.dir / "relayd.log"
    node.write_config({"log": {"target": str(target)}})
    node.start()
    rotated = node.dir / "relayd.log.1"
    target.rename(rotated)
    node.reload()
    node.submit("a@src.test", "b@nowhere.test", mail.message())
    until(lambda: target.exists() and "event=received" in target.read_text(),
          what="lines in the new file")
