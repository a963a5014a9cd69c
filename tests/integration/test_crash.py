"""kill -9 at any instant: what was answered 250 arrives, and hardly anything arrives twice.

RFC 1047: a second copy is possible only when the node dies between the remote's 250 and the commit
of that outcome, so for each kill at most as many copies as deliveries were under way.
"""

import random
import re
import signal
import time

import pytest

from rig import mail, smtp
from rig.chain import Chain
from rig.ledger import Ledger
from rig.load import Load
from rig.remote import CLOSE
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.crash

KILLS = 12
# The load is as fast as the machine: the rate of a site must not keep the end waiting.
QUICK = {"queue": {"retry": {"intervals": ["1s", "2s"], "jitter": "0%"}},
         "shaping": {"default": {"max_rate": "none"}}}
IN_FLIGHT = 10  # messages that can be between the remote's 250 and our commit at one kill


def sink(world, ledger, domain="dest.test"):
    mx = world.mx(domain)
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    return mx


def settle(ledger, *nodes):
    """Everything promised has arrived and the queues are empty."""
    until(lambda: not ledger.missing(), 60, "the delivery of everything promised")
    for node in nodes:
        node.wait_empty(60)


def kill_under_load(node, rounds, number=signal.SIGKILL):
    """Kill at random instants after the node is ready, start again, and so on."""
    for _ in range(rounds):
        time.sleep(random.uniform(0.05, 0.8))  # the instant is what is random here
        node.kill(number)
        node.start()


@pytest.mark.parametrize("seed", range(2))
def test_kill_9_under_load_loses_nothing(world, seed):
    random.seed(seed)
    ledger = Ledger()
    sink(world, ledger)
    node = world.node(config=QUICK)
    load = Load(node, ledger)
    kill_under_load(node, KILLS)
    load.stop()
    settle(ledger, node)
    assert len(ledger.promised) > 20 * KILLS, "too little load to mean anything"
    ledger.check(duplicates=KILLS * IN_FLIGHT)
    assert node.ctl("verify").returncode == 0


def test_kill_9_with_a_faulty_remote_loses_nothing(world):
    """4xx at RCPT and dot, closed after the dot, while the node is killed.

    What the remote drops after the dot it does not record, so no copies come from that.
    """
    random.seed(3)
    ledger = Ledger()
    mx = sink(world, ledger)
    dropped = []

    def dot(session):
        """5 % deferred, 2 % closed without an answer; the rest is taken and recorded."""
        draw = random.random()
        if draw < 0.05:
            return "451 4.3.0 try later"
        if draw < 0.07:
            dropped.append(1)
            return CLOSE
        return "250 2.0.0 taken"

    mx.answer("dot", dot)
    mx.answer("rcpt", lambda s: "451 4.3.0 later" if random.random() < 0.05 else "250 2.1.5 ok")
    node = world.node(config=QUICK)
    load = Load(node, ledger)
    kill_under_load(node, KILLS // 2)
    load.stop()
    mx.behave()
    settle(ledger, node)
    assert dropped
    ledger.check(duplicates=KILLS // 2 * IN_FLIGHT)


def test_kill_9_with_many_recipients_delivers_each_pair_once(world):
    """A recipient whose 250 was recorded is never repeated because of another one's failure."""
    random.seed(4)
    ledger = Ledger()
    domains = [f"d{i}.test" for i in range(8)]
    for domain in domains:
        sink(world, ledger, domain)
    node = world.node(config=QUICK)
    load = Load(node, ledger, threads=2,
                targets=lambda n: [f"u{i}.{n}@{domains[i % 8]}" for i in range(40)])
    kill_under_load(node, KILLS // 2)
    load.stop()
    settle(ledger, node)
    # One transaction carries up to five recipients of a domain here.
    ledger.check(duplicates=KILLS // 2 * IN_FLIGHT * 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_orderly_stop_under_load_loses_and_repeats_nothing(world, number):
    random.seed(5)
    ledger = Ledger()
    sink(world, ledger)
    node = world.node(config=QUICK)
    load = Load(node, ledger)
    for _ in range(4):
        before = len(ledger.promised)
        until(lambda: len(ledger.promised) > before + 50, what="some load")
        node.send_signal(number)
        assert node.wait_exit(35) == 0
        node.start()
    load.stop()
    settle(ledger, node)
    ledger.check(duplicates=0)


@pytest.mark.parametrize("victim", ["cn", "us", "both"])
def test_kill_9_of_either_node_of_the_chain_loses_nothing(world, victim):
    random.seed(6)
    ledger = Ledger()
    sink(world, ledger, "abc.test")
    chain = Chain(world, [{"default": True, "route": "us", "fallback": ["direct"]}],
                  cn=QUICK, us=QUICK)
    load = Load(chain.cn, ledger, targets=lambda n: [f"u{n % 20}@abc.test"])
    nodes = {"cn": [chain.cn], "us": [chain.us], "both": [chain.cn, chain.us]}[victim]
    for _ in range(KILLS // 2):
        for node in nodes:
            kill_under_load(node, 1)
    load.stop()
    settle(ledger, chain.cn, chain.us)
    # A copy may also be made between the nodes, when one dies before the other's 250 is recorded.
    ledger.check(duplicates=KILLS * IN_FLIGHT * 2)


def test_killed_during_recovery_again_and_again(world):
    ledger = Ledger()
    mx = sink(world, ledger)
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    load = Load(node, ledger, limit=2000, targets=lambda n: [f"u{n}@dest.test"])
    load.join()
    promised = len(ledger.promised)
    for i in range(10):
        node.kill()
        node.start(ready=False)
        time.sleep(0.01 * i)  # a later instant of the start each time
    node.kill()
    node.start()
    assert len(node.queue("--limit", "100000")) == promised
    mx.behave()
    node.ctl("queue", "retry", "--domain", "dest.test")
    settle(ledger, node)
    ledger.check()


def test_restart_answers_quickly_and_repeats_nothing_that_is_not_due(world):
    ledger = Ledger()
    mx = sink(world, ledger)
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    Load(node, ledger, limit=5000, targets=lambda n: [f"u{n}@d{n % 100}.test"]).join()
    node.kill()
    tries = len(mx.sessions)
    begun = time.monotonic()
    node.start()
    assert time.monotonic() - begun < 3 * PATIENCE
    assert len(node.queue("--limit", "100000")) == 5000 or tries == 0
    assert len(mx.sessions) == tries


def test_reply_to_the_dot_comes_after_the_sync(world):
    """strace: no 250 to the dot is written before an fdatasync that followed the last body byte."""
    world.mx("dest.test")
    node = world.node(start=False)
    trace = world.dir / "strace"
    node.wrapper = ["strace", "-f", "-ttt", "-s", "200", "-o", str(trace), "-e",
                    "trace=fdatasync,fsync,msync,pwrite64,pwritev,sendmsg,sendto,write,writev,"
                    "recvfrom,read,recvmsg"]
    node.start()
    for i in range(5):
        node.submit("a@src.test", "b@dest.test", mail.message(ident=f"sync{i}"))
    node.wait_empty()
    node.stop()
    # A call that another thread's interrupted is told in two lines: what was read, and that a sync
    # is done, stand in the second ("resumed"), what was written in the first.
    syncs, replies, arrivals = [], [], []
    for at, line in enumerate(trace.read_text(errors="replace").splitlines()):
        call = re.sub(r"^\d+ +[\d.]+ ", "", line)
        if re.match(r"(<\.\.\. )?f(data)?sync\b", call) and call.endswith("= 0"):
            syncs.append(at)
        elif "queued as" in call and re.match(r"(send|write)", call):
            replies.append(at)
        elif "Message-ID: <sync" in call and re.match(r"(<\.\.\. )?(recv|read)", call):
            arrivals.append(at)
    assert len(replies) == 5 and len(arrivals) >= 5, (len(replies), len(arrivals))
    for arrived, replied in zip(arrivals, replies):
        assert any(arrived < s < replied for s in syncs), "250 before the message was synced"


def test_failing_sync_never_acknowledges(world):
    """EIO from fdatasync: 451 or 452 for the batch, exit 74, nothing acknowledged is lost."""
    ledger = Ledger()
    mx = sink(world, ledger)
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(start=False, config={"queue": {"retry": {"intervals": ["1h"]}}})
    node.wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e",
                    "inject=fdatasync:error=EIO:when=12+"]
    node.start()
    with pytest.raises((smtp.Closed, OSError, AssertionError)):
        with node.client() as session:
            session.ehlo()
            for i in range(200):
                name, rcpts = f"eio{i}", [f"u{i}@dest.test"]
                ledger.send(name, rcpts)
                session.mail("a@src.test")
                session.rcpt(rcpts[0])
                reply = session.data(mail.message(ident=name))
                assert reply.code in (451, 452) or reply.queued_id
                if reply.code == 250:
                    ledger.promise(name, rcpts)
                else:
                    raise smtp.Closed("refused, as it should be")
    assert node.wait_exit() == 74
    node.wrapper = []
    node.start()
    mx.behave()
    node.ctl("queue", "retry", "--domain", "dest.test")
    settle(ledger, node)
    ledger.check()
