"""A reload takes all of a file or nothing of it, and says what is wrong with its place."""

import http.client
import json
import pathlib
import re

import pytest

from rig import dkimkeys, mail, smtp
from rig.proc import run
from rig.node import binary
from rig.wait import PATIENCE, until

TWO = [{"domains": ["never.test"], "reject": "550 5.1.2 gone"}, {"default": True, "route": "direct"}]


def refuses(node, changes, *words):
    """The reload is refused with these words, by relayctl and in the log."""
    before, mark = node.config, node.log.mark()
    node.write_config(changes)
    done = node.ctl("reload", check=False)
    assert done.returncode == 78 or done.returncode == 65, done
    for word in words:
        assert word in done.stderr, done.stderr
    node.log.wait(since=mark, level="alert", alert="reload_failed")
    assert "reload_error" in node.ctl_json("status")["config"]
    node.config = before
    return done.stderr


def is_old(node):
    """The rule of the refused file is not in force."""
    with node.client() as c:
        c.ehlo()
        c.mail("a@src.test")
        return c.rcpt("x@never.test").code == 250


def test_listeners_are_opened_and_closed(world):
    mx = world.mx("dest.test")
    node = world.node()
    other = world.take()
    with node.client() as old:
        old.ehlo()
        node.reload({"listeners": [{"address": f"{other}:2525"}]})
        smtp.submit(other, 2525, "a@src.test", "b@dest.test", mail.message())
        with pytest.raises(OSError):
            smtp.Client(node.address, node.port)
        old.submit("a@src.test", "c@dest.test", mail.message())  # its session goes on
    mx.wait_mail(2)


def test_port_in_use_refuses_all_of_the_file(world):
    node, taken = world.node(), world.remote("taken.test", port=2525)
    refuses(node, {"transport_map": TWO,
                   "listeners": [{"address": f"{node.address}:{node.port}"},
                                 {"address": f"{taken.address}:2525"}]}, f"{taken.address}:2525")
    assert is_old(node)


@pytest.mark.parametrize("content", [b"no key at all\n", None])
def test_broken_dkim_key_is_named_with_its_place_and_the_old_one_signs_on(world, content):
    key = world.key("src.test", "cn")
    mx = world.mx("dest.test")
    node = world.node(config={"dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]})
    path = node.dir / "new.pem"
    if content is None:
        run("openssl", "genrsa", "-out", str(path), "512")
        path.chmod(0o600)
    else:
        node.file("new.pem", content)
    said = refuses(node, {"transport_map": TWO, "dkim": [
        {"domains": ["src.test"], "key_file": "new.pem"}]}, "new.pem")
    assert re.search(r"relayd\.yaml:\d+:\d+: dkim", said)
    assert is_old(node)
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "cn"))


def test_changed_key_signs_what_comes_after_the_reload(world):
    first, second = world.key("src.test", "one"), world.key("src.test", "two", "ed25519")
    mx = world.mx("dest.test")
    node = world.node(config={"dkim": [{"domains": ["src.test"], "key_file": str(first.path),
                                        "selector": "one"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "one"))
    node.reload({"dkim": [{"domains": ["src.test"], "key_file": str(second.path),
                           "selector": "two"}]})
    node.submit("a@src.test", "c@dest.test", mail.message())
    signatures = dkimkeys.assert_signed(mx.wait_mail(2)[1].data, world.dns, ("src.test", "two"))
    assert len(signatures) == 1


@pytest.mark.parametrize("files, words", [
    ({"users": "someone:notahash\n"}, ["trusted_clients", "users:1"]),
    ({"ca.pem": "nothing\n"}, ["hops.out", "ca.pem"]),
    ({"rules.yaml": "rules: [{name: x, class: nosuch}]\n"}, ["rules.yaml:1", "nosuch"])])
def test_faults_of_other_files_have_their_place_too(world, files, words):
    certificate = world.ca.issue("relay.test")
    node = world.node(config={"tls": {"certificate_file": certificate.cert_file,
                                      "private_key_file": certificate.key_file}})
    for name, content in files.items():
        node.file(name, content)
    changes = {"users": {"trusted_clients": [{"users_file": "users"}]},
               "ca.pem": {"hops": {"out": {"address": "hop.test", "ca_file": "ca.pem"}}},
               "rules.yaml": {"classify": {"rules_file": "rules.yaml"}}}[next(iter(files))]
    refuses(node, {"transport_map": TWO, **changes}, *words)
    assert is_old(node)
    check = run(binary("relayd"), "-c", node.write_config({"transport_map": TWO, **changes}),
                "--check", check=False)
    assert check.returncode == 78 and all(w in check.stderr for w in words), check.stderr


def test_resolver_of_a_refused_file_is_not_used(world):
    mx = world.mx("dest.test")
    node, taken = world.node(), world.remote("taken.test", port=2525)
    refuses(node, {"resolver": {"servers": [f"{world.take()}:53"]},
                   "listeners": [{"address": f"{node.address}:{node.port}"},
                                 {"address": f"{taken.address}:2525"}]}, "2525")
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail(timeout=5)


def test_what_takes_a_restart_is_said(world):
    node = world.node()
    node.write_config({"http": {"address": f"{node.address}:8025"},
                       "queue": {"path": str(node.dir / "elsewhere")}})
    done = node.ctl("reload")
    for option in ("http.address", "queue.path"):
        assert re.search(rf"relayd\.yaml:\d+:\d+: {option}: warning: .*next start", done.stderr)
    assert not pathlib.Path(node.dir / "elsewhere").exists()


def ask(node, path, token=None):
    """A status, over TCP, of what a stranger or the holder of a token asks."""
    connection = http.client.HTTPConnection(node.address, 8025, timeout=10 * PATIENCE)
    connection.request("GET", path, headers={
        "Host": "localhost", **({"Authorization": f"Bearer {token}"} if token else {})})
    return connection.getresponse().status


@pytest.mark.parametrize("then", [None, "127.0.0.1:18026"], ids=["removed", "moved"])
def test_port_of_the_api_keeps_its_token_while_it_is_open(world, then):
    node = world.node(start=False)
    node.file("token", "first-secret\n")
    node.file("token2", "second-secret\n")
    served = {"http": {"address": f"{node.address}:8025", "token_file": "token"}}
    node.write_config(served)
    node.start()
    assert ask(node, "/v1/queue") == 401 and ask(node, "/v1/queue", "first-secret") == 200
    del node.config["http"]
    node.write_config({"http": {"address": then}} if then else {})
    done = node.ctl("reload")
    assert "http.address: warning: takes effect at the next start only: until then the old one is " \
        "served, with the token that it had" in done.stderr
    assert ask(node, "/v1/queue") == 401 and ask(node, "/v1/queue", "first-secret") == 200
    node.reload({"http": {**served["http"], "token_file": "token2"}})
    assert ask(node, "/v1/queue", "first-secret") == 401
    assert ask(node, "/v1/queue", "second-secret") == 200


def test_node_keeps_its_name_until_a_restart(world):
    world.mx("dest.test")
    node = world.node()
    refuses(node, {"node": {"name": "other"}, "transport_map": TWO}, "relayd.yaml:",
            'node.name: another name takes a restart: this relayd is "cn"')
    assert is_old(node)
    assert node.submit("a@src.test", "b@dest.test", mail.message()).startswith("cn.")


def test_reload_twice_in_a_row_ends_with_the_last_file(world):
    node = world.node()
    for i in range(5):
        node.write_config({"transport_map": [
            {"domains": ["never.test"], "reject": f"550 5.1.2 version {i}"},
            {"default": True, "route": "direct"}]})
        node.send_signal(1)

    def last():
        with node.client() as c:
            c.ehlo()
            c.mail("a@src.test")
            return "version 4" in str(c.rcpt("x@never.test"))

    until(last, what="the last file to be in force")


def test_status_of_json_is_one_document(world):
    node = world.node()
    assert json.loads(node.ctl("--json", "status").stdout)["state"] == "running"
