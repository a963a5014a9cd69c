"""The image: built from the Dockerfile, run as etc/compose.yaml says, it is a node abroad.

The container has a network stack of its own, so that its ports, its default route and its addresses
are real; what it reaches through that route is the tests' name server and recipients.
"""

import os
import pathlib
import re
import socket
import socketserver
import threading

import pytest

from rig import dkimkeys, mail, smtp
from rig.container import UID, Container, Machine, build_image, image_config, podman
from rig.node import ROOT
from rig.postfix import authentication_results
from rig.wait import until

pytestmark = pytest.mark.container

# Debian's name resolution and a compiler would be several times as big.
IMAGE_BYTES_MAX = 200e6
CAP_NET_BIND_SERVICE = 1 << 10


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    return build_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def machine(world):
    """The machine abroad, which reaches whatever this world starts from now on."""
    world.net.release()
    world.net = Machine()
    return world.net


@pytest.fixture
def container(world, machine, image):
    return world.keep(Container(image, machine, world.dir / "us"))


def base_config(world, **changes):
    """A node that trusts the company's network, and delivers at once and to this test's addresses."""
    return {"node": {"name": "us", "hostname": "smtp-us.relay.test"},
            "listeners": [{"address": "0.0.0.0:25"}],
            "trusted_clients": [{"cidr": world.net.cidr}],
            "queue": {"max_size": "1GiB", "min_free": "64MiB", "retry": {"intervals": ["1h"]}},
            "resolver": {"servers": [world.dns.server], "timeout": "2s"},
            "direct": {"allow_private": True},
            "transport_map": [{"default": True, "route": "direct"}], **changes}


def submit(world, container, rcpt="b@dest.test", message=None):
    """Hand the container a message from the company's network; the id it was queued as."""
    return smtp.submit(container.machine.address, 25, "a@src.test", rcpt,
                       message or mail.message(), source=world.take())


# -- the node abroad


def certify(world, container):
    """Put fullchain.pem and privkey.pem into the container's /etc/relayd."""
    certificate = world.ca.issue("mail-us.mydomain.test")
    for name, path in (("fullchain.pem", certificate.cert_file),
                       ("privkey.pem", certificate.key_file)):
        container.file(name, pathlib.Path(path).read_bytes())


def overseas(world, container):
    """etc/overseas.yaml as it is, with what an operator makes for it with the image's own tools.

    The one addition is where names are asked for, and that a test's recipients are private.
    """
    config = (ROOT / "etc" / "overseas.yaml").read_text().replace("mydomain.com", "mydomain.test")
    config += (f"resolver: {{servers: ['{world.dns.server}'], timeout: 2s}}\n"
               "direct: {allow_private: true}\n")
    container.write_config(config)
    certify(world, container)
    world.dns.a("mail-us.mydomain.test", container.machine.address)
    password = container.tool("relayctl", "user", "add", "cn", "--generate", "--file",
                              "users").stdout.split()[-1]
    made = container.tool("relayctl", "dkim", "keygen", "--domain", "mydomain.test").stdout
    record = "".join(re.findall(r'"([^"]*)"', made))
    assert record.startswith("v=DKIM1"), made
    world.dns.txt("us._domainkey.mydomain.test", record)
    checked = container.tool("relayd", "-c", "relayd.yaml", "--check")
    assert "ok" in checked.stdout
    for name in ("users", "mydomain.test.pem"):
        st = (container.etc / name).stat()
        assert st.st_uid == UID and st.st_mode & 0o777 == 0o600, name
    return password


def home(world, machine, password, **hop):
    node = world.node("cn", start=False)
    secret = node.file("us.secret", password + "\n")
    key = world.key("mydomain.test", "cn")
    node.write_config({
        "trusted_clients": [{"cidr": machine.cidr}],
        "hops": {"us": {"address": "mail-us.mydomain.test", "ca_file": world.ca.file,
                        "auth": {"username": "cn", "password_file": secret}, **hop}},
        "transport_map": [{"domains": ["abc.test"], "route": "us"},
                          {"default": True, "route": "direct"}],
        "dkim": [{"domains": ["mydomain.test"], "key_file": str(key.path)}]})
    return node.start()


def recipient(world):
    destination = world.postfix("mx.abc.test").as_destination("abc.test")
    destination.with_tls(world.ca.issue("mx.abc.test")).with_milter(world.verifier().milter).start()
    world.dns.site("abc.test", "mx.abc.test", destination.address)
    return destination


@pytest.mark.parametrize("port", [None, 587, 25], ids=["ladder-465", "587", "25"])
def test_company_mail_goes_abroad_through_the_container(world, machine, container, port):
    destination = recipient(world)
    password = overseas(world, container)
    container.start()
    address = "mail-us.mydomain.test" + (f":{port}" if port else "")
    cn = home(world, machine, password, address=address)
    company = world.postfix("company.test").as_client(f"[{cn.address}]:{cn.port}")
    company.options["mynetworks"] = machine.cidr
    company.start()

    message = mail.message("boss@mydomain.test", "who@abc.test", body="Hello.\r\n..\r\n你好\r\n")
    with smtp.Client(company.address) as session:
        session.ehlo()
        assert session.mail("boss@mydomain.test", "BODY=8BITMIME").code == 250
        assert session.rcpt("who@abc.test").code == 250
        assert session.data(message).code == 250
        session.quit()
    delivered = destination.wait_mail("who@abc.test", timeout=60)

    assert delivered.endswith(message), "header or body were changed on the way"
    dkimkeys.assert_signed(delivered, world.dns, ("mydomain.test", "cn"), ("mydomain.test", "us"))
    verdicts = authentication_results(delivered)
    assert ("pass", "mydomain.test", "us") in verdicts and ("pass", "mydomain.test", "cn") in verdicts
    hops = mail.received(delivered)
    assert [re.search(r"\bby (\S+)", h).group(1) for h in hops] == [
        "mx.abc.test", "mail-us.mydomain.test", "smtp-cn.relay.test", "company.test"]
    assert re.search(r"with ESMTPSA\b", hops[1]) and "TLS" in hops[0]
    attempt = cn.log.wait(event="attempt", outcome="delivered", route="us")
    assert attempt["peer"] == f"{machine.address}:{port or 465}"
    assert attempt["tls"].startswith("TLSv1.3")
    out = container.log.wait(event="attempt", outcome="delivered", route="direct")
    assert out["peer"] == f"{destination.address}:25"
    container.wait_empty()


def test_stranger_and_wrong_password_are_refused_at_every_port(world, machine, container):
    overseas(world, container)
    container.start()
    for port in (25, 587, 465):
        wrapped = smtp.insecure_context() if port == 465 else None
        with smtp.Client(machine.address, port, implicit_tls=wrapped) as session:
            session.ehlo()
            if port == 25:
                assert session.mail("a@src.test").code == 250
                assert session.rcpt("b@dest.test").code == 554
                session.cmd("RSET")
            else:
                assert session.mail("a@src.test").code == 530
            if not wrapped:
                assert session.starttls().code == 220
                session.ehlo()
            assert session.auth_plain("cn", "guess").code == 535


# -- the container itself


def test_daemon_is_confined(world, container):
    container.write_config(base_config(world))
    container.start()
    status = container.status()
    assert status["Uid"].split() == [str(UID)] * 4 and status["Gid"].split() == [str(UID)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == CAP_NET_BIND_SERVICE
    assert int(status["CapBnd"], 16) == CAP_NET_BIND_SERVICE
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert container.exec("sh", "-c", "echo x > /usr/x", check=False).returncode != 0
    owner = container.exec("stat", "-c", "%U %a", "/var/lib/relayd/queue").stdout.split()
    assert owner == ["relayd", "700"]


def test_k10_image_starts_where_the_capability_is_not_allowed(world, container, promise):
    promise("K10", "without CAP_NET_BIND_SERVICE the image starts, on ports above 1023")
    container.write_config(base_config(world, listeners=[{"address": "0.0.0.0:2525"}]))
    container.start(without=["--cap-add=NET_BIND_SERVICE"])
    status = container.status()
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    promise.case()


def test_image_says_how_to_run_it(image):
    found = image_config(image)
    config = found["Config"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert list(config["Volumes"]) == ["/var/lib/relayd"]
    assert config["User"] == "relayd"
    assert {"25/tcp", "465/tcp", "587/tcp"} == set(config["ExposedPorts"])
    assert found["Healthcheck"]["Test"][-1] == "status"
    assert found["Size"] < IMAGE_BYTES_MAX
    done = podman("run", "--rm", "--network=none", "--ulimit=nofile=1024:1024",
                  "--ulimit=nproc=1024:1024", "--entrypoint=sh", image, "-c",
                  "command -v cc gcc cmake perl6; ls /src", check=False, timeout=180)
    assert not done.stdout.strip()


def test_health_check_sees_a_daemon_that_hangs(world, container):
    container.write_config(base_config(world))
    container.start()
    assert container.health() == 0
    podman("kill", "--signal=STOP", container.name)
    try:
        assert container.health() != 0
    finally:
        podman("kill", "--signal=CONT", container.name)
    until(lambda: container.health() == 0, what="the container to be healthy again")


def test_reload_by_signal(world, container):
    container.write_config(base_config(world))
    container.start()
    mark = container.log.mark()
    container.write_config(base_config(world, transport_map=[
        {"default": True, "reject": "550 5.7.1 closed today"}]))
    podman("kill", "--signal=HUP", container.name)
    container.log.wait(since=mark, event="reloaded")
    with smtp.Client(container.machine.address, source=world.take()) as session:
        session.ehlo()
        session.mail("a@src.test")
        assert session.rcpt("b@dest.test").text == "5.7.1 closed today"


# -- stop and start


def test_stop_finishes_what_is_under_way(world, container):
    mx = world.mx("dest.test")
    asked, go = threading.Event(), threading.Event()

    def slowly(session):
        asked.set()
        go.wait(60)
        return "250 2.0.0 taken"

    mx.answer("dot", slowly)
    container.write_config(base_config(world))
    container.start()
    submit(world, container)
    assert asked.wait(60)
    stopper = threading.Thread(target=container.stop)
    stopper.start()
    container.log.wait(event="stopping")
    go.set()
    stopper.join()
    assert len(mx.mails) == 1
    assert container.log.all(event="attempt", outcome="delivered")


def test_queue_is_on_the_volume(world, container):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    container.write_config(base_config(world))
    container.start()
    ident = submit(world, container)
    container.log.wait(event="attempt", outcome="deferred")
    container.stop()
    left = podman("ps", "-a", "--format", "{{.Names}}").stdout.split()
    assert container.name not in left, "the first container is gone"

    mx.behave()
    container.start()
    assert [w["id"] for w in container.queue()] == [ident]
    container.ctl("queue", "retry", "--domain", "dest.test")
    assert mx.wait_mail().rcpts == ["b@dest.test"]
    container.wait_empty()


# -- strangers behind a proxy


class UserlandProxy:
    """Carries connections on, as docker-proxy does: they come from the container's gateway."""

    def __init__(self, address, target):
        def handle(request, *_):
            with socket.create_connection(target) as onward:
                back = threading.Thread(target=self._pump, args=(onward, request), daemon=True)
                back.start()
                self._pump(request, onward)
                back.join()

        self._server = socketserver.ThreadingTCPServer((address, 0), handle)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def _pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def logs(self):
        return []


def stranger_asks(world, container):
    """What a stranger's RCPT is answered who comes through a proxy in front of the container."""
    address = world.take()
    proxy = world.keep(UserlandProxy(address, (container.machine.address, 25)))
    with smtp.Client(address, proxy.port) as session:
        session.ehlo()
        assert session.mail("spammer@example.test").code == 250
        return session.rcpt("victim@dest.test")


def test_gateway_in_a_trusted_network_is_refused_at_start(world, machine, container):
    trusted = [{"cidr": [machine.cidr, machine.network]}]
    container.write_config(base_config(world, trusted_clients=trusted))
    container.start(ready=False)
    assert container.wait_exit() == os.EX_CONFIG
    said = container.log.tail()
    assert machine.gateway in said and machine.network in said and "allow_gateway" in said
    assert re.search(r"relayd\.yaml:\d+:\d+: trusted_clients\[0\]\.cidr", said)


def test_gateway_that_is_allowed_makes_every_proxied_client_a_trusted_one(world, machine, container):
    """What the refusal is for; whoever says allow_gateway has closed the way in by other means."""
    world.mx("dest.test")
    container.write_config(base_config(world, trusted_clients=[{"cidr": machine.network}],
                                       allow_gateway=True))
    container.start()
    assert stranger_asks(world, container).code == 250


def test_stranger_behind_a_proxy_is_refused_when_the_gateway_is_not_trusted(world, container):
    container.write_config(base_config(world))
    container.start()
    assert stranger_asks(world, container).code == 554


def test_gateway_in_a_network_that_must_authenticate_is_accepted(world, machine, container):
    container.write_config(base_config(
        world, trusted_clients=[{"cidr": machine.network, "require": ["auth"]},
                                {"users_file": "users"}],
        tls={"certificate_file": "fullchain.pem", "private_key_file": "privkey.pem"}))
    certify(world, container)
    container.tool("relayctl", "user", "add", "cn", "--file", "users", input="long password\n")
    checked = container.tool("relayd", "-c", "relayd.yaml", "--check")
    assert checked.returncode == 0
