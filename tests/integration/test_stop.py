"""SIGTERM: what is under way may finish, for as long as --drain says; a second one ends at once."""

import signal
import threading
import time

import pytest

from rig import mail, smtp
from rig.remote import SILENCE
from rig.wait import PATIENCE, until


def at_the_dot(mx, gate):
    """The remote answers the final dot when the gate opens."""
    def slow(session):
        gate.wait(30 * PATIENCE)
        return "250 2.0.0 taken"

    mx.answer("dot", slow, times=1)


def test_transaction_under_way_is_finished_and_stays_single(world):
    mx, gate = world.mx("dest.test"), threading.Event()
    at_the_dot(mx, gate)
    node = world.node()
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^DATA")
    node.send_signal(signal.SIGTERM)
    node.log.wait(event="stopping")
    assert node.running()
    gate.set()
    assert node.wait_exit() == 0
    node.start()
    assert not node.queue() and len(mx.mails) == 1


def test_stop_takes_no_longer_than_drain_says_and_loses_nothing(world):
    mx = world.mx("dest.test")
    mx.answer("dot", SILENCE, times=1)
    node = world.node(start=False)
    node.start("--drain", "1s")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^DATA")
    begun = time.monotonic()
    node.send_signal(signal.SIGTERM)
    assert node.wait_exit() == 0
    assert 0.8 < time.monotonic() - begun < 5 * PATIENCE
    node.start()
    assert mx.wait_mail().rcpts == ["b@dest.test"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(world, second):
    mx = world.mx("dest.test")
    mx.answer("dot", SILENCE, times=1)
    node = world.node()
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^DATA")
    node.send_signal(signal.SIGTERM)
    node.log.wait(event="stopping")
    begun = time.monotonic()
    node.send_signal(second)
    assert node.wait_exit() == 0
    assert time.monotonic() - begun < 5 * PATIENCE
    node.start()
    mx.wait_mail()


def test_clients_are_sent_away_but_a_message_may_finish(world):
    mx = world.mx("dest.test")
    node = world.node()
    idle, busy = node.client(), node.client()
    idle.ehlo()
    busy.ehlo()
    busy.mail("a@src.test")
    busy.rcpt("b@dest.test")
    assert busy.cmd("DATA").code == 354
    node.send_signal(signal.SIGTERM)
    assert idle.reply().code == 421 and idle.closed()
    with pytest.raises(OSError):
        smtp.Client(node.address, node.port)
    busy.send(mail.message() + b".\r\n")
    assert busy.reply().code == 250
    assert node.wait_exit() == 0
    assert not mx.mails or len(mx.mails) == 1
    node.start()
    until(lambda: len(mx.mails) == 1, what="the message that was accepted while stopping")


def test_status_says_that_it_drains(world):
    mx, gate = world.mx("dest.test"), threading.Event()
    at_the_dot(mx, gate)
    node = world.node()
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_command("^DATA")
    node.send_signal(signal.SIGTERM)
    until(lambda: node.ctl_json("status")["state"] == "draining", what="the state")
    gate.set()
    assert node.wait_exit() == 0


def test_reload_that_a_stop_overtakes_is_no_failure(world):
    node = world.node(start=False)
    names = node.file("many", "".join(f"d{i}.example\n" for i in range(200000)))
    node.config["transport_map"].insert(0, {"domains_file": names, "route": "direct"})
    node.start()
    node.reload(wait=False)
    node.stop()
    assert not node.log.all(alert="reload_failed")
