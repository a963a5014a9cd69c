"""Killed at any instant under load: what was answered 250 arrives or is reported, once.

RFC 1047: a second copy is possible only when the node dies between the remote's 250 and the commit
of that outcome. rig.ledger.Books tells such copies from others by the moments of both.
"""

import random
import re
import signal
import socket
import time

import pytest

from rig import mail, smtp
from rig.chain import Chain
from rig.crash import CONFIG, Crash
from rig.ledger import Ledger
from rig.load import Load
from rig.promise import size
from rig.remote import SILENCE
from rig.wait import PATIENCE, until

pytestmark = [pytest.mark.crash, pytest.mark.torture]

BOOKS = 100  # kills after which the books are balanced and begun anew
# Messages promised between two kills on average: less would be too little load to mean anything.
PER_KILL = size(100, 600)


def new_seed():
    return random.SystemRandom().randrange(1 << 30)


def kill_under_load(crash, promise, kills, number=signal.SIGKILL):
    """So many kills at random instants, and the books balanced."""
    for done in range(1, kills + 1):
        crash.kill(number)
        promise.case()
        if done % BOOKS == 0 and done < kills:
            crash.wait_promised(BOOKS * PER_KILL)
            crash.settle(go_on=True)
    crash.wait_promised(((kills - 1) % BOOKS + 1) * PER_KILL)
    crash.settle()


def test_a01_killed_at_any_instant_under_load_loses_nothing(world, promise):
    promise("A01", "kill -9 at any instant under load: nothing lost, corrupted or invented")
    kill_under_load(Crash(world, seed=new_seed()), promise, size(6, 1000))


def test_a02_killed_with_hosts_that_fail_loses_nothing(world, promise):
    promise("A02", "A01 with hosts that answer 451 and 554, close after the dot and reset in DATA")
    crash = Crash(world, faults=20, seed=new_seed())
    kill_under_load(crash, promise, size(6, 600))
    assert crash.unconfirmed or not size(0, 1), "the hosts never broke off"


def test_a03_killed_with_many_recipients_delivers_each_pair_once(world, promise):
    promise("A03", "A01 with 40 recipients at 8 domains: no pair lost, none repeated after its 250")
    crash = Crash(world, seed=new_seed(), rcpts=40, sessions=4)
    for _ in range(size(3, 60)):
        crash.kill()
        promise.case()
    crash.settle()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGINT],
                         ids=["SEGV", "ABRT", "TERM", "INT"])
def test_a04_other_signals_lose_nothing_and_orderly_stops_repeat_nothing(world, promise, number):
    """Books explains no copy by an orderly stop: there is nothing to explain one."""
    promise("A04", "A01 with SEGV, ABRT, TERM, INT; TERM and INT: exit 0 in time and no copies")
    crash = Crash(world, faults=10, seed=new_seed())
    for _ in range(size(2, 50)):
        crash.wait_load(50)
        crash.kill(number)
        promise.case()
    crash.settle()


def test_a16_killed_between_the_results_of_recipients_repeats_no_finished_one(world, promise):
    """Of each message some recipients are taken, some deferred, some refused, at several hosts."""
    promise("A16", "killed between results of one message's recipients: no finished one again")
    crash = Crash(world, faults=100, seed=new_seed(), rcpts=20, sessions=4)
    points = ["record: outcome after its commit", "record: deferral after its commit",
              "deliver: 250 read", "record: outcome before its commit"]
    for _ in range(size(1, 15)):
        for point in points:
            crash.kill_at(point, crash.random.randint(1, 40))
            promise.case()
    crash.settle()


@pytest.mark.parametrize("ends", ["killed", "stopped"])
def test_a16_who_has_his_250_is_recorded_while_others_of_the_transaction_wait(world, promise,
                                                                              ends):
    """x is taken; y got a 452 and a transaction of his own, whose dot is not answered."""
    promise("A16", "a 250 is recorded at once, also when the transaction goes on with others").case()
    mx = world.mx("dest.test")
    mx.answer("dot", SILENCE)
    mx.answer("dot", "250 2.0.0 taken", times=1)
    mx.answer("rcpt", "452 4.5.3 too many", match="y@", times=1)
    node = world.node(start=False)
    node.start("--drain", "1s")
    node.submit("a@src.test", ["x@dest.test", "y@dest.test"], mail.message())
    node.log.wait(event="attempt", rcpt="x@dest.test", outcome="delivered")
    mx.wait_command("DATA", count=2)
    until(lambda: len(node.queue()) == 1, what="x to have left the queue")
    node.kill() if ends == "killed" else node.stop()
    mx.behave()
    node.start()
    mx.wait_mail(rcpt="y@dest.test")
    node.wait_empty()
    assert len(mx.received_for("x@dest.test")) == 1


# A message on its way to or from the other node at a kill may be on both.
IN_FLIGHT = 10
KILLS = size(2, 40)


def settle(ledger, *nodes):
    """Everything promised has arrived and the queues are empty."""
    until(lambda: not ledger.missing(), 60, "the delivery of everything promised")
    for node in nodes:
        node.wait_empty(60)


@pytest.mark.parametrize("victim", ["cn", "us", "both"])
def test_a01_killed_node_of_the_chain_loses_nothing(world, promise, victim):
    promise("A01", "kill -9 of either node of a chain, or of both: nothing lost or invented")
    ledger = Ledger()
    mx = world.mx("abc.test")
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
    chain = Chain(world, [{"default": True, "route": "us", "fallback": ["direct"]}],
                  cn=CONFIG, us=CONFIG)
    load = Load(chain.cn, ledger, targets=lambda n: [f"u{n % 20}@abc.test"])
    nodes = {"cn": [chain.cn], "us": [chain.us], "both": [chain.cn, chain.us]}[victim]
    for _ in range(KILLS):
        for node in nodes:
            before = len(ledger.promised)
            until(lambda: len(ledger.promised) > before + 20, what="some load")
            node.kill()
            node.start()
            promise.case()
    load.stop()
    settle(ledger, chain.cn, chain.us)
    # A copy may also be made between the nodes, when one dies before the other's 250 is recorded.
    ledger.check(duplicates=KILLS * len(nodes) * IN_FLIGHT * 2)


def test_a17_reply_to_the_dot_comes_after_the_sync(world, promise):
    """strace: no 250 to the dot is written before an fdatasync that followed the last body byte."""
    promise("A17", "the reply to the dot follows the sync of the message, and waits for nothing else")
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
        promise.case()


def test_a17_reply_to_the_dot_waits_for_no_name_server_and_no_host(world, promise):
    """Neither says a word: the 250 comes all the same, and at once."""
    promise("A17", "the reply to the dot follows the sync of the message, and waits for nothing else")
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind((world.take(), 53))
    mute = world.remote(hostname="mute.test")
    mute.answer("greeting", SILENCE)
    node = world.node(config={"resolver": {"servers": [f"{silent.getsockname()[0]}:53"]}})
    for i in range(size(20, 500)):
        rcpt = f"b@d{i}.test" if i % 2 else f"b@[{mute.address}]"
        with node.client() as session:
            session.ehlo()
            session.mail("a@src.test")
            if session.rcpt(rcpt).code != 250:
                continue  # a literal may be against the rules of the node
            begun = time.monotonic()
            assert session.data(mail.message()).code == 250
            assert time.monotonic() - begun < 1 * PATIENCE
            promise.case()
    silent.close()
    node.kill()


def test_a08_failing_sync_never_acknowledges(world, promise):
    """EIO from fdatasync: 451 or 452 for the batch, exit 74, nothing acknowledged is lost."""
    promise("A08", "a failed sync is never answered 250, and nothing acknowledged is lost by it")
    promise.case()
    ledger = Ledger()
    mx = world.mx("dest.test")
    mx.on_mail = lambda got: ledger.arrive(got.data, got.rcpts)
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
