"""Sender rewriting: the addresses by a second implementation, and the way of a bounce."""

import base64
import hashlib
import hmac
import re
import time

import pytest

from rig import mail
from rig.wait import until

SECRET = "0123456789abcdef0123456789abcdef"
OLDER = "an-older-secret-of-this-node"
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
DAY = 86400


def fold(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


def digest(secret, *parts):
    mac = hmac.new(secret.encode(), fold("".join(parts)).encode(), hashlib.sha1).digest()
    return base64.b64encode(mac).decode()[:6]


def stamp(age=0):
    day = (int(time.time()) // DAY - age) % 1024
    return BASE32[day >> 5] + BASE32[day & 31]


def srs0(local, domain, age=0, secret=SECRET):
    return (f"SRS0={digest(secret, stamp(age), domain, local)}={stamp(age)}={domain}={local}"
            "@fwd.test")


def srs1(first, tail, secret=SECRET):
    return f"SRS1={digest(secret, first, tail)}={first}={tail}@fwd.test"


class Site:
    """A node with SRS that trusts one client, and the world around it."""

    def __init__(self, world, secrets=SECRET + "\n", **config):
        self.world, self.client = world, world.take()
        self.node = world.node(start=False, config={
            "trusted_clients": [{"cidr": f"{self.client}/32"}],
            "local_domains": ["ours.test"],
            "srs": {"domain": "fwd.test", "secret_file": "srs.secret"}, **config})
        self.node.file("srs.secret", secrets)
        self.node.start()

    def submit(self, sender, rcpts, message=None, params=""):
        return self.node.submit(sender, rcpts, message or mail.message(), params,
                                source=self.client)

    def stranger(self):
        """A session of somebody who may not relay, past EHLO."""
        session = self.node.client()
        session.ehlo()
        return session

    def rcpt(self, rcpt, sender="", trusted=False, params=""):
        """The reply to this RCPT."""
        with self.node.client(source=self.client if trusted else None) as session:
            session.ehlo()
            assert session.mail(sender, params).code == 250
            return str(session.rcpt(rcpt))


def test_foreign_sender_is_rewritten_and_the_log_has_both(world):
    mx, site = world.mx("dest.test"), Site(world)
    ident = site.submit("joe@src.test", "b@dest.test")
    assert mx.wait_mail().sender == srs0("joe", "src.test")
    line = site.node.log.wait(event="attempt", msg=ident)
    assert line["sender"] == "joe@src.test"
    assert line["srs"] == srs0("joe", "src.test")
    assert line["outcome"] == "delivered"


@pytest.mark.parametrize("sender", ["a@ours.test", "A@OURS.test", "", "SRS0=a=b=c=d@fwd.test"])
def test_sender_of_ours_is_left_alone(world, sender):
    mx, site = world.mx("dest.test"), Site(world)
    ident = site.submit(sender, "b@dest.test")
    assert mx.wait_mail().sender == sender
    assert "srs" not in site.node.log.wait(event="attempt", msg=ident)


def test_subdomain_of_ours_is_foreign(world):
    mx, site = world.mx("dest.test"), Site(world)
    site.submit("a@sub.ours.test", "b@dest.test")
    assert mx.wait_mail().sender == srs0("a", "sub.ours.test")


def test_sender_is_rewritten_for_hops_too(world):
    hop = world.remote("hop.test")
    site = Site(world, hops={"out": {"address": f"{hop.address}:25", "tls": "off"}},
                transport_map=[{"default": True, "route": "out"}])
    site.submit("joe@src.test", "b@dest.test")
    assert hop.wait_mail().sender == srs0("joe", "src.test")


def test_utf8_sender_stays_one(world):
    mx, site = world.mx("dest.test"), Site(world)
    site.submit("用户@src.test", "b@dest.test", params="SMTPUTF8")
    got = mx.wait_mail()
    assert got.sender == srs0("用户", "src.test")
    assert "SMTPUTF8" in got.params
    back = world.mx("src.test")
    reply = site.rcpt(got.sender, params="SMTPUTF8")
    assert reply.startswith("250"), reply
    assert not back.mails


def test_attempts_of_a_message_have_one_sender(world):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "450 4.2.0 greylisted", times=2)
    site = Site(world, queue={"retry": {"intervals": ["1s"], "jitter": "0%", "greylist": "1s"}})
    site.submit("joe@src.test", "b@dest.test")
    mx.wait_mail()
    senders = {c for c in mx.commands() if c.startswith("MAIL")}
    assert len([c for c in mx.commands() if c.startswith("MAIL")]) == 3
    assert {re.search("<(.*?)>", c)[1] for c in senders} == {srs0("joe", "src.test")}


def test_notices_go_to_the_sender_himself(world):
    world.mx("dest.test").answer("rcpt", "550 5.1.1 no such user")
    back, site = world.mx("src.test"), Site(world)
    site.submit("joe@src.test", "b@dest.test")
    got = back.wait_mail()
    assert (got.sender, got.rcpts) == ("", ["joe@src.test"])
    assert mail.report(got.data).recipients[0]["Status"] == "5.1.1"


@pytest.mark.parametrize("local", [
    "joe", "Joe.User+tag", '"john doe"',
    "bounce-1234567-abcdefghijklmnopqrstuvwxyz-0123456789-user=ours.test"])
def test_postfix_takes_the_sender_and_its_bounce_goes_home(world, local):
    """A real server accepts the rewritten sender, of 90 octets too, and returns mail to it."""
    site = Site(world)
    far = world.postfix("mx.dest.test").as_destination("dest.test")
    (far.dir / "transport").write_text("lost.test error:5.7.1 refused later\n"
                                       f"fwd.test smtp:[{site.node.address}]:{site.node.port}\n")
    (far.dir / "aliases").write_text("b@dest.test b@lost.test\n")
    far.options.update(transport_maps=f"texthash:{far.dir}/transport",
                       virtual_alias_maps=f"texthash:{far.dir}/aliases")
    far.start()
    world.dns.site("dest.test", "mx.dest.test", far.address)
    back = world.mx("src.test")

    ident = site.submit(f"{local}@src.test", "b@dest.test", mail.message(ident="lost1"))
    got = back.wait_mail()
    assert (got.sender, got.rcpts) == ("", [f"{local}@src.test"])
    report = mail.report(got.data)
    assert report.recipients[0]["Status"] == "5.7.1" and b"lost1" in report.returned
    sent_as = site.node.log.wait(event="attempt", msg=ident)["srs"]
    decoded = site.node.log.wait(event="srs_decoded")
    assert decoded["srs"] == sent_as and decoded["rcpt"] == f"{local}@src.test"


def test_bounce_in_lower_case_goes_home(world):
    back, site = world.mx("src.test"), Site(world)
    with site.stranger() as session:
        session.submit("", srs0("Joe", "src.test").lower(), mail.message())
    assert back.wait_mail().rcpts == ["joe@src.test"]


def test_answer_from_a_person_goes_home_rewritten(world):
    """Not every server uses the null sender; whoever answers is foreign here, too."""
    back, site = world.mx("src.test"), Site(world)
    with site.stranger() as session:
        session.submit("b@dest.test", srs0("joe", "src.test"), mail.message())
    got = back.wait_mail()
    assert (got.sender, got.rcpts) == (srs0("b", "dest.test"), ["joe@src.test"])


def damaged(address):
    """The address with one character of its hash changed."""
    return address[:7] + ("b" if address[7] in "aA" else "a") + address[8:]


@pytest.mark.parametrize("trusted", [False, True], ids=["stranger", "trusted"])
def test_what_we_did_not_sign_is_refused(world, trusted):
    site = Site(world)
    for rcpt in [damaged(srs0("joe", "src.test")), srs0("joe", "src.test", secret=OLDER),
                 srs0("joe", "src.test").replace("joe", "jim"), "joe@fwd.test",
                 "postmaster@fwd.test", "SRS0=@fwd.test", "joe%dest.test@fwd.test",
                 "dest.test!joe@fwd.test", '"joe@dest.test"@fwd.test',
                 srs0("SRS0=x=y=z=joe", "fwd.test"),
                 srs1("fwd.test", f"=abcd={stamp()}=src.test=joe"),
                 srs0("joe", "[127.0.0.1]").replace("SRS0", '"SRS0').replace("@", '"@')]:
        reply = site.rcpt(rcpt, trusted=trusted)
        assert reply.startswith("550 5.1."), f"{rcpt}: {reply}"
        assert reply.startswith("550 5.1.1") or "[127" in rcpt, f"{rcpt}: {reply}"
    assert site.rcpt("joe@src.test").startswith("554 5.7.1")
    assert site.rcpt(f"@fwd.test:{srs0('joe', 'src.test')}", trusted=trusted).startswith("501")
    assert not site.node.queue()


def test_address_is_good_for_21_days(world):
    site = Site(world)
    assert site.rcpt(srs0("joe", "src.test", age=-1)).startswith("250")
    assert site.rcpt(srs0("joe", "src.test", age=20)).startswith("250")
    assert site.rcpt(srs0("joe", "src.test", age=23)).startswith("550 5.1.1")
    assert site.rcpt(srs0("joe", "src.test", age=-3)).startswith("550 5.1.1")


def test_bounce_holds_at_most_one_mebibyte(world):
    back, site = world.mx("src.test"), Site(world)
    rcpt = srs0("joe", "src.test")
    line = "x" * 98 + "\r\n"
    with site.stranger() as session:
        session.mail("", f"SIZE={(1 << 20) + 1}")
        assert session.rcpt(rcpt).code == 552
        session.cmd("RSET")
        session.mail("")
        assert session.rcpt(rcpt).code == 250
        assert session.data(mail.message(body=line * 10500)).code == 552
        session.submit("", rcpt, mail.message(body=line * 10000))
    assert len(back.wait_mail().data) > 1000000
    site.submit("a@ours.test", rcpt, mail.message(body=line * 10500))
    assert len(back.wait_mail(2)[1].data) > 1 << 20


def test_srs_address_of_another_forwarder_becomes_srs1_and_comes_back_to_it(world):
    mx, first, site = world.mx("dest.test"), world.mx("first.test"), Site(world)
    theirs = f"SRS0=h+/h={stamp(1)}=src.test=joe"
    site.submit(f"{theirs}@first.test", "b@dest.test")
    ours = mx.wait_mail().sender
    assert ours == srs1("first.test", theirs[4:])
    with site.stranger() as session:
        session.submit("", ours, mail.message())
    assert first.wait_mail().rcpts == [f"{theirs}@first.test"]

    # and one that has had two of them before us still goes back to the first
    site.submit(f"SRS1=abcd=first.test={theirs[4:]}@second.test", "b@dest.test")
    assert mx.wait_mail(2)[1].sender == ours


def test_secrets_are_changed_without_losing_bounces(world):
    mx, back = world.mx("dest.test"), world.mx("src.test")
    site = Site(world, secrets=OLDER + "\n")
    site.submit("joe@src.test", "b@dest.test")
    old = mx.wait_mail().sender
    assert old == srs0("joe", "src.test", secret=OLDER)

    site.node.file("srs.secret", f"{SECRET}\n{OLDER}\n")
    site.node.reload()
    site.submit("joe@src.test", "b@dest.test")
    assert mx.wait_mail(2)[1].sender == srs0("joe", "src.test")
    with site.stranger() as session:
        session.submit("", old, mail.message())
    back.wait_mail()

    site.node.file("srs.secret", f"{SECRET}\n")
    site.node.reload()
    assert site.rcpt(old).startswith("550 5.1.1")
    assert site.rcpt(srs0("joe", "src.test")).startswith("250")


def test_map_decides_about_the_decoded_recipient(world):
    world.dns.site("far.test", "mx.bad.test", "127.0.0.9")
    world.mx("src.test")
    site = Site(world, transport_map=[
        {"domains": ["moved.test"], "reject": "550 5.1.6 this partner has moved"},
        {"recipients": ["vip@src.test"], "reject": "550 5.7.1 not for you"},
        {"domains": ["fwd.test"], "reject": "550 5.7.1 never asked"},
        {"mx": ["*.bad.test"], "reject": "550 5.7.1 no mail for hosts of bad.test"},
        {"default": True, "route": "direct"}])
    assert site.rcpt(srs0("joe", "moved.test")).startswith("550 5.1.6")
    assert site.rcpt(srs0("vip", "src.test")).startswith("550 5.7.1 not for you")
    # known only once DNS has been asked, and then from what it said
    for _ in range(2):
        assert site.rcpt(srs0("joe", "far.test")).startswith("550 5.7.1 no mail for hosts")
        assert site.rcpt(srs0("joe", "src.test")).startswith("250")


def test_client_that_leaves_while_facts_are_asked_does_no_harm(world):
    site = Site(world, resolver={"servers": [world.take()], "timeout": "2s"}, transport_map=[
        {"mx": ["*.bad.test"], "reject": "550 5.7.1 no"}, {"default": True, "route": "direct"}])
    with site.stranger() as session:
        session.mail("")
        session.send(f"RCPT TO:<{srs0('joe', 'slow.test')}>\r\n".encode())
        site.node.log.wait(event="srs_decoded")
    assert site.rcpt("joe@fwd.test").startswith("550 5.1.1")


def test_sender_that_would_get_too_long_goes_as_it_is(world):
    mx, site = world.mx("dest.test"), Site(world)
    sender = "x" * 110 + "@src.test"
    ident = site.submit(sender, "b@dest.test")
    assert mx.wait_mail().sender == sender
    assert site.node.log.wait(event="srs_too_long")["msg"] == ident


def test_recipients_that_are_one_are_delivered_once(world):
    back, site = world.mx("src.test"), Site(world)
    with site.stranger() as session:
        session.submit("", [srs0("joe", "src.test"), srs0("joe", "src.test", age=3)],
                       mail.message())
    until(lambda: not site.node.queue(), what="an empty queue")
    assert [m.rcpts for m in back.mails] == [["joe@src.test"]]
