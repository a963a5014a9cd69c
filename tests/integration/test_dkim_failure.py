"""The signing library fails: dkim_failure decides, and reports of ours go out all the same."""


import pytest

from rig import dkimkeys, mail
from rig.node import sanitized
from rig.preload import library
from rig.wait import until

# libopendkim's last step, broken while a file is there.
BROKEN = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int dkim_eom(void *handle, void *is_test)
{
    int (*real)(void *, void *) = (int (*)(void *, void *))dlsym(RTLD_NEXT, "dkim_eom");
    return access(getenv("BROKEN_DKIM"), F_OK) == 0 ? 6 /* no resource */ : real(handle, is_test);
}
"""


@pytest.fixture
def node(world):
    """A node (not started) whose library fails while node.dir/broken exists."""
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    broken = library(world, "broken", BROKEN)
    key = world.key("src.test", "cn")
    world.key("relay.test", "cn")
    node = world.node(start=False)
    node.write_config({"dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]})
    node.env = {"LD_PRELOAD": str(broken), "BROKEN_DKIM": str(node.dir / "broken")}
    return node


def answer(node):
    with node.client() as c:
        c.ehlo()
        c.mail("a@src.test")
        c.rcpt("b@dest.test")
        return c.data(mail.message())


def test_tempfail_keeps_the_message_outside_until_signing_works_again(world, node):
    mx = world.mx("dest.test")
    node.start()
    node.file("broken", "")
    assert str(answer(node)).startswith("451 4.7.5")
    node.log.wait(level="alert", alert="dkim")
    assert not node.queue() and not mx.sessions
    (node.dir / "broken").unlink()
    assert answer(node).code == 250
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "cn"))


def test_accept_sends_it_unsigned_with_an_alert(world, node):
    mx = world.mx("dest.test")
    node.write_config({"dkim_failure": "accept"})
    node.start()
    node.file("broken", "")
    assert answer(node).code == 250
    assert not dkimkeys.verify(mx.wait_mail().data, world.dns)
    alert = node.log.wait(level="alert", alert="dkim")
    assert "src.test" in alert["text"] or "cn." in alert["text"]
    until(lambda: node.ctl_json("status")["alerts"], what="the alert in status")


def test_report_of_ours_is_sent_unsigned_rather_than_not_at_all(world, node):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    mx.answer("rcpt", "550 5.1.1 no")
    key = world.dir / "keys" / "cn.relay.test.rsa.pem"
    node.write_config({"dkim": [{"domains": ["relay.test", "*.relay.test"],
                                 "key_file": str(key)}]})
    node.start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(back.wait_mail().data, world.dns, ("relay.test", "cn"))
    node.file("broken", "")
    node.submit("a@src.test", "c@dest.test", mail.message())
    assert not dkimkeys.verify(back.wait_mail(2)[1].data, world.dns)
