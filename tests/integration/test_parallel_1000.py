"""A thousand senders at once, and one dead destination among many."""

import concurrent.futures
import time

from rig import mail, smtp
from rig.ledger import Ledger
from rig.load import Load
from rig.remote import SILENCE
from rig.wait import PATIENCE, until


def test_a_thousand_sessions_at_once_are_all_served(world):
    ledger = Ledger()
    mx = world.mx("dest.test")
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    node = world.node(config={"limits": {"sessions_per_client": 2000},
                              "direct": {"source": None}})
    sessions = []
    for _ in range(1000):  # all connected before the first one sends
        sessions.append(smtp.Client(node.address, node.port, timeout=60))

    def send(numbered):
        n, session = numbered
        name, rcpts = f"p{n}", [f"u{n}@dest.test"]
        session.ehlo()
        ledger.send(name, rcpts)
        session.submit("a@src.test", rcpts, mail.message(ident=name))
        ledger.promise(name, rcpts)
        session.quit()

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        list(pool.map(send, enumerate(sessions)))
    until(lambda: not ledger.missing(), 60, "a thousand deliveries")
    node.wait_empty(60)
    ledger.check()
    assert len(ledger.promised) == 1000


def test_a_thousand_domains_are_delivered_side_by_side(world):
    ledger = Ledger()
    mx = world.mx("d0.test", "shared-mx.test")
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    with world.dns:
        for i in range(1, 1000):
            world.dns.mx(f"d{i}.test", "shared-mx.test")
    node = world.node()
    Load(node, ledger, limit=1000, targets=lambda n: [f"u@d{n - 1}.test"]).join()
    until(lambda: not ledger.missing(), 60, "a thousand deliveries")
    ledger.check()


def test_b20_dead_destinations_do_not_slow_the_good_ones(world, promise):
    """Twenty domains whose host swallows packets' answers; the good one keeps its pace."""
    promise("B20", "dead destinations do not slow the good ones").case()
    good = world.mx("good.test")
    hang = world.remote("mx.hang.test")
    hang.answer("greeting", SILENCE)
    with world.dns:
        for i in range(20):
            world.dns.mx(f"hang{i}.test", "mx.hang.test")
    node = world.node()
    for i in range(20):
        node.submit("a@src.test", f"u@hang{i}.test", mail.message())
    hang.wait_sessions(1)
    begun = time.monotonic()
    with node.client() as session:
        session.ehlo()
        for i in range(100):
            session.submit("a@src.test", f"u{i}@good.test", mail.message())
    good.wait_mail(100)
    assert time.monotonic() - begun < 15 * PATIENCE
    assert len(hang.sessions) <= 5, "more connections than shaping allows for one site"


def test_b21_site_limits_hold_under_a_burst(world, promise):
    promise("B21", "connections and messages of a site stay in their limits").case()
    mx = world.mx("dest.test")
    open_now, most = [0], [0]

    def greet(session):
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        return "220 mx.dest.test"

    def leave(session):
        open_now[0] -= 1
        return "221 bye"

    mx.answer("greeting", greet)
    mx.answer("quit", leave)
    node = world.node(config={"shaping": {"default": {
        "max_connections": 3, "max_messages_per_connection": 10}}})
    with node.client() as session:
        session.ehlo()
        for i in range(200):
            session.submit("a@src.test", f"u{i}@dest.test", mail.message())
    mx.wait_mail(200, timeout=60)
    assert most[0] <= 3
    assert all(sum(c == "DATA" for c in s.commands) <= 10 for s in mx.sessions)


def test_too_many_sessions_of_one_client_are_answered_421(world):
    node = world.node(config={"limits": {"sessions_per_client": 5}})
    held = [node.client(source=node.address) for _ in range(5)]
    with node.client(source=node.address, greet=False) as session:
        reply = session.reply()
        assert reply.code == 421 and reply.text.startswith("4.3.2") or reply.text.startswith("4.7")
    held.pop().close()
    until(lambda: _greeted(node), what="a place that became free")


def _greeted(node):
    with node.client(source=node.address, greet=False) as session:
        return session.reply().code == 220
