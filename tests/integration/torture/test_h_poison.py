"""Messages that make relayd crash: only evidence blames them, and they stop doing harm."""

import signal

import pytest

from rig import mail
from rig.crash import Crash
from rig.node import sanitized
from rig.preload import library
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture

CRASHES = "a message that crashes relayd is blamed, tried alone, held or refused with an alert"
OUTSIDE = "kill -9 and signals from outside blame no message"

# Crashes the process when it sends, or signs, the marked bytes, as a bug of ours would.
PILL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
static void look(const void *bytes, size_t n)
{
    if (n > 0 && memmem(bytes, n, "POISON-PILL", 11) != 0)
        *(volatile int *)8 = 0;
}
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        look(msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
    return real(fd, msg, flags);
}
int dkim_header(void *handle, unsigned char *bytes, size_t n)
{
    int (*real)(void *, unsigned char *, size_t) = dlsym(RTLD_NEXT, "dkim_header");
    if (memmem(bytes, n, "SIGNING-PILL", 12) != 0)
        *(volatile int *)8 = 0;
    return real(handle, bytes, n);
}
"""

DIED = -signal.SIGSEGV


@pytest.fixture
def node(world):
    """A node (not started) in which marked messages find a bug."""
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    pill = library(world, "pill", PILL)
    key = world.key("src.test", "cn")
    node = world.node(start=False, config={
        "queue": {"retry": {"intervals": ["1h"]}},
        "dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]})
    node.env = {"LD_PRELOAD": str(pill)}
    return node


def hold(node, *rcpts):
    """Messages that wait, so that a crash finds company."""
    for rcpt in rcpts:
        node.submit("a@src.test", rcpt, mail.message())


def test_h06_message_that_crashes_delivery_is_retried_alone_and_held_at_the_third(world, node,
                                                                              promise):
    promise("H06", CRASHES)
    mx, other = world.mx("dest.test"), world.mx("other.test")
    node.start()
    node.ctl("suspend", "direct", "--for", "1h")
    hold(node, "x@other.test", "y@other.test")
    pill = node.submit("a@src.test", "b@dest.test", mail.message(body="POISON-PILL\r\n"))
    hold(node, "z@other.test")
    node.ctl("resume", "direct")
    assert node.wait_exit() == DIED
    assert "relayd: crashed by SIGSEGV" in node.log.lines()
    delivered = len(other.mails)
    for crash in (1, 2):
        node.start(ready=False)
        assert node.wait_exit() == DIED
        alert = node.log.all(alert="poison")[-1]
        assert pill in alert["text"] and "retried alone" in alert["text"]
        assert len(other.mails) == delivered, "nothing else may be in hand beside it"
        promise.case()
    node.start()
    alert = node.log.wait(alert="poison", text=lambda t: "held" in t)
    assert pill in alert["text"]
    other.wait_mail(3)
    until(lambda: [(i["id"], i["state"]) for i in node.queue()] == [(pill, "held")],
          what="only the pill in the queue")
    assert not mx.mails
    node.restart()
    assert node.queue()[0]["state"] == "held"


def test_h06_every_recipient_of_a_blamed_message_is_held(world, node, promise):
    promise("H06", CRASHES)
    promise.case()
    world.mx("dest.test")
    node.write_config({"limits": {"recipients_per_message": 2000}})
    node.start()
    node.ctl("suspend", "direct", "--for", "1h")
    node.submit("a@src.test", [f"u{i}@dest.test" for i in range(1500)],
                mail.message(body="POISON-PILL\r\n"))
    node.ctl("resume", "direct")
    assert node.wait_exit() == DIED
    for _ in range(2):
        node.start(ready=False)
        assert node.wait_exit() == DIED
    node.start()
    until(lambda: len(node.queue("--state", "held", "--limit", "2000")) == 1500, what="all held")
    assert node.running()


def test_h06_blamed_message_that_does_no_more_harm_is_delivered(world, node, promise):
    promise("H06", CRASHES)
    promise.case()
    mx, other = world.mx("dest.test"), world.mx("other.test")
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message(body="POISON-PILL\r\n"))
    assert node.wait_exit() == DIED
    node.env = {}  # the bug is mended
    node.start()
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    hold(node, "x@other.test")
    other.wait_mail()
    node.wait_empty()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_h06_signal_from_outside_with_a_message_in_hand_blames_nobody(world, node, promise, number):
    promise("H06", OUTSIDE)
    promise.case()
    mx = world.mx("dest.test")

    def kill(session):
        node.kill(number)

    mx.answer("data", kill, times=1)
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    until(lambda: not node.running(), what="the daemon to be killed")
    node.start()
    mx.wait_mail()
    assert not node.log.all(alert="poison")


def test_h06_header_that_crashes_intake_twice_is_refused(world, node, promise):
    """It was never accepted, so its client sends it again and again."""
    promise("H06", CRASHES)
    mx = world.mx("dest.test")
    message = mail.message(subject="SIGNING-PILL")
    for _ in range(2):
        node.start()
        with pytest.raises(Exception):
            node.submit("a@src.test", "b@dest.test", message)
        assert node.wait_exit() == DIED
        promise.case()
    node.start()
    node.log.wait(alert="poison", text=lambda t: "refused from now on" in t)
    with node.client() as c:
        c.ehlo()
        c.mail("a@src.test")
        c.rcpt("b@dest.test")
        assert str(c.data(message)).startswith("554 5.6.0")
        c.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()


@pytest.mark.crash
def test_h06_any_number_of_kills_under_load_blames_nobody(world, promise):
    """Messages are in hand at each of them, the same ones again and again: 451 keeps them here."""
    promise("H06", OUTSIDE)
    crash = Crash(world, faults=100, seed=6)
    for _ in range(size(20, 1000)):
        crash.kill(least=0.0, most=0.15)
        assert not crash.node.log.all(alert="poison"), crash.told()
        promise.case()
    assert not [i for i in crash.node.queue() if i["state"] == "held"]
    crash.settle()
