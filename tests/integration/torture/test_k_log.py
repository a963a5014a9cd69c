"""The books: every recipient that was accepted has exactly one final line, whatever became of it."""

import collections
import random

import pytest

from rig.ledger import Ledger
from rig.load import Load
from rig.promise import size
from rig.remote import CLOSE
from rig.wait import until

pytestmark = pytest.mark.torture

FINAL = ("delivered", "failed", "discarded")


def books(node):
    """(recipients accepted, by message; final lines, by (message, recipient))"""
    events = node.log.all()  # one look: what is final in it was accepted in it
    accepted = {e["msg"]: int(e["rcpts"]) for e in events if e["event"] == "received"}
    final = collections.Counter((e["msg"], e["rcpt"]) for e in events
                                if e["event"] == "attempt" and e["outcome"] in FINAL)
    # Taken out by hand: there is a line for each, by its number in the message.
    final.update((e["msg"], e["no"]) for e in events if e["event"] == "removed")
    return accepted, final


def differences(node):
    """Messages whose books do not agree: (accepted, final, waiting). May be mail in between."""
    waiting = collections.Counter(item["id"] for item in node.queue("--limit", "1000000"))
    accepted, final = books(node)
    twice = [pair for pair, n in final.items() if n > 1]
    assert not twice, f"two final lines: {twice[:3]}"
    count = collections.Counter(msg for msg, _ in final)
    strangers = set(count) - set(accepted)
    assert not strangers, f"final lines of what was never accepted: {list(strangers)[:3]}"
    return {m: (n, count[m], waiting[m]) for m, n in accepted.items() if n != count[m] + waiting[m]}


def reconcile(node):
    """The number of recipients, when log and queue agree: mail moves on between a look at one and at
    the other, but no message differs in the same way twice."""
    looks = [None, differences(node)]
    wrong = {}

    def agree():
        looks[:] = looks[1], differences(node)
        wrong.clear()
        wrong.update(looks[0].items() & looks[1].items())
        return not wrong

    try:
        until(agree, every=0.1)
    except AssertionError:
        raise AssertionError(f"(accepted, final, waiting): {list(wrong.items())[:3]}") from None
    return sum(books(node)[0].values())


def test_k07_every_recipient_has_one_final_line(world, promise):
    promise("K07", "log, queue and ledger agree: accepted once, one final line per recipient")
    seed = random.randrange(1 << 30)
    rng, ledger = random.Random(seed), Ledger()
    # A host that complains of the rate as long as the long run takes is slowed to a message in 10 s.
    more = size("452 4.5.3 more", "450 4.2.1 later")
    fates = {"good": None, "slow": None, "bad": "550 5.1.1 no such user", "gone": None,
             "later": None}
    for name in fates:
        mx = world.mx(f"{name}.test")
        mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
        if fates[name]:
            mx.answer("rcpt", fates[name])
        if name == "slow":
            mx.answer("rcpt", lambda s: rng.choice(["250 ok"] * 6 + ["451 4.3.0 later", more]))
            mx.answer("dot", lambda s: rng.choice(["250 ok"] * 6 + ["451 4.3.0 later"]))
        if name == "gone":
            mx.answer("mail", lambda s: rng.choice(["250 ok"] * 6 + [CLOSE, "421 4.3.2 later"]))
        if name == "later":
            later = mx
            mx.answer("rcpt", "451 4.3.0 later")
    back = world.mx("src.test")
    node = world.node(config={
        "queue": {"retry": {"intervals": ["1s"], "jitter": "0%"}},
        "shaping": {"default": {"max_rate": "none"}},
        "transport_map": [{"domains": ["dropped.test"], "discard": True},
                          {"domains": ["kept.test"], "hold": "for a test"},
                          {"default": True, "route": "direct"}]})
    domains = [f"{n}.test" for n in [*fates, "dropped", "kept", "nowhere"]]

    def targets(n):
        return sorted({f"u{rng.randrange(99)}@{rng.choice(domains)}" for _ in range(rng.randrange(1, 6))})

    for round_ in range(size(2, 20)):
        Load(node, ledger, threads=3, targets=targets, limit=size(60, 1000),
             prefix=f"r{round_}x").join()
        waiting = node.queue("--domain", "later.test", "--limit", "100")
        for i, verb in enumerate(("remove", "bounce", "hold", "reroute")):
            if i < len(waiting):
                where = ["direct"] if verb == "reroute" else []
                node.ctl("queue", verb, waiting[i]["id"], *where, check=False)
        if round_ % 2:
            node.restart()  # an orderly one: kill -9 may cost the last lines of the log
        promise.case(reconcile(node) and 1)
    later.behave()
    node.ctl("queue", "release", "--domain", "later.test", check=False)
    until(lambda: {w["state"] for w in node.queue("--limit", "1000000")} <= {"held"}, 60,
          f"only held ones to be left (seed {seed})", every=0.2)
    promise.case(reconcile(node))
    assert back.mails
