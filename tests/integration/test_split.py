"""Each recipient of one message goes its own way: routes, rejects, fences and the home route."""

from rig import mail
from rig.chain import Chain
from rig.wait import until


def test_one_message_is_split_over_direct_and_hop_with_the_same_bytes(world):
    home, abroad = world.mx("qq.test"), world.mx("abc.test")
    chain = Chain(world, [{"domains": ["abc.test", "*.abc.test"], "route": "us"},
                          {"default": True, "route": "direct"}])
    world.dns.mx("sub.abc.test", "mx.abc.test")
    message = mail.message("boss@mydomain.test", "all@x.test")
    ident = chain.cn.submit("boss@mydomain.test",
                            ["a@qq.test", "b@abc.test", "c@sub.abc.test"], message)
    at_home = home.wait_mail()
    assert at_home.rcpts == ["a@qq.test"]
    for rcpt in ("b@abc.test", "c@sub.abc.test"):
        abroad.wait_mail(rcpt=rcpt)
    far = abroad.mails
    for delivered in [at_home, *far]:
        assert delivered.data.endswith(message)
    assert at_home.peer[0] == chain.cn.address
    assert all(m.peer[0] == chain.us.address for m in far)
    assert chain.trace(ident, rcpt="a@qq.test", outcome="delivered")["route"] == "direct"
    assert chain.trace(ident, rcpt="b@abc.test", outcome="delivered")["route"] == "us"


def test_recipients_of_one_site_share_one_transaction(world):
    mx = world.mx("dest.test")
    node = world.node()
    rcpts = [f"u{i}@dest.test" for i in range(50)]
    node.submit("a@src.test", rcpts, mail.message())
    assert sorted(mx.wait_mail().rcpts) == sorted(rcpts)
    node.wait_empty()
    assert len(mx.mails) == 1


def test_more_than_a_hundred_recipients_are_several_transactions(world):
    mx = world.mx("dest.test")
    node = world.node()
    rcpts = [f"u{i}@dest.test" for i in range(250)]
    node.submit("a@src.test", rcpts, mail.message())
    node.wait_empty()
    assert sorted(r for m in mx.mails for r in m.rcpts) == sorted(rcpts)
    assert max(len(m.rcpts) for m in mx.mails) <= 100
    assert len(mx.mails) == 3


def test_same_recipient_twice_is_delivered_once(world):
    mx = world.mx("dest.test")
    node = world.node()
    node.submit("a@src.test", ["b@dest.test", "b@DEST.test", "b@dest.test"], mail.message())
    node.wait_empty()
    assert [m.rcpts for m in mx.mails] == [["b@dest.test"]] or \
        [[r.lower() for r in m.rcpts] for m in mx.mails] == [["b@dest.test"]]


def test_first_rule_whose_matchers_all_hold_wins(world):
    direct, hop = world.mx("dest.test"), world.remote("hop.test")
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [
            {"senders": ["*@news.src.test"], "domains": ["dest.test"], "route": "out"},
            {"recipients": ["vip@dest.test"], "route": "out"},
            {"domains": ["dest.test"], "route": "direct"},
            {"default": True, "route": "out"}]})
    node.submit("x@news.src.test", "b@dest.test", mail.message())
    node.submit("x@src.test", "vip@dest.test", mail.message())
    node.submit("x@src.test", "b@dest.test", mail.message())
    assert direct.wait_mail().sender == "x@src.test"
    assert sorted(m.rcpts[0] for m in hop.wait_mail(2)) == ["b@dest.test", "vip@dest.test"]


def test_rules_can_reject_discard_and_hold(world):
    mx = world.mx("dest.test")
    node = world.node(config={"transport_map": [
        {"domains": ["gone.test"], "reject": "550 5.1.2 this partner has moved"},
        {"domains": ["void.test"], "discard": True},
        {"domains": ["held.test"], "hold": "wait for the lawyers"},
        {"domains": ["dest.test"], "route": "direct"}]})
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        reply = session.rcpt("x@gone.test")
        assert (reply.code, reply.text) == (550, "5.1.2 this partner has moved")
        reply = session.rcpt("x@unrouted.test")
        assert reply.code == 550 and reply.text.startswith("5.4.4")
        for rcpt in ("x@void.test", "x@held.test", "x@dest.test"):
            assert session.rcpt(rcpt).code == 250
        assert session.data(mail.message()).queued_id
    assert mx.wait_mail().rcpts == ["x@dest.test"]
    node.log.wait(event="attempt", rcpt="x@dest.test", outcome="delivered")
    # The lines of an attempt come before its outcome is stored.
    until(lambda: [(w["rcpt"], w["state"]) for w in node.queue()] == [("x@held.test", "held")],
          what="only the held one to be left")


def test_fence_of_any_matching_rule_holds_even_against_the_fallback(world):
    """never_via of a rule that is not the winner still forbids the hop."""
    hop = world.remote("hop.test")
    mx = world.mx("gov.test")
    mx.answer("mail", "550 5.7.1 Your IP address is on our blocklist")
    node = world.node(config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"default": True, "route": "direct", "fallback": ["out"]},
                          {"domains": ["gov.test"], "never_via": ["out"]}]})
    bounces = world.mx("src.test")
    node.submit("a@src.test", "b@gov.test", mail.message())
    report = mail.report(bounces.wait_mail().data)
    assert report.recipients[0]["Action"] == "failed"
    assert not hop.sessions


def test_domains_from_a_file_with_comments_and_any_case(world):
    hop = world.remote("hop.test")
    node = world.node(start=False, config={
        "hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
        "transport_map": [{"domains_file": "overseas.txt", "route": "out"},
                          {"default": True, "reject": "550 5.1.2 not here"}]})
    node.file("overseas.txt", "# abroad\nABC.test  # partner\n\n*.def.test\nm\u00fcnchen.test\n")
    node.start()
    node.submit("a@src.test", ["a@abc.TEST", "b@x.def.test", "c@xn--mnchen-3ya.test"],
                mail.message())
    assert len(hop.wait_mail().rcpts) == 3
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("x@other.test").code == 550
