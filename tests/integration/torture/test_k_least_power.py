"""Least power: what relayd gives up at its start, what is left to somebody who gets into the process,
and where secrets are while it runs and afterwards.
"""

import base64
import errno
import os
import pathlib
import platform
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import urllib.error
import urllib.request

import pytest

from rig import dkimkeys, mail, smtp
from rig.node import ROOT, binary, sanitized
from rig.preload import library
from rig.proc import run
from rig.wait import until

pytestmark = pytest.mark.torture

USER = "nobody"
# A reload may bind a new listener below port 1024; nothing else of root's power is kept.
MAY_KEEP = 1 << 10  # CAP_NET_BIND_SERVICE
UID = pwd.getpwnam(USER).pw_uid
HELPER = pathlib.Path(__file__).with_name("intruder.c")

unsanitized = pytest.mark.skipif(
    sanitized(), reason="a sanitizer needs the system calls and files that are denied, and keeps "
    "what was freed")


def landlock():
    """The kernel's version of Landlock; 0 without it."""
    asked = subprocess.run(
        ["/usr/bin/python3", "-c", "import ctypes; "
         "print(max(0, ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)))"],
        capture_output=True, text=True, check=True)
    return int(asked.stdout)


needs_landlock = pytest.mark.skipif(not landlock(), reason="this kernel has no Landlock")


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def unprivileged(world, user=USER, **config):
    """A node (not started) that runs as nobody and listens on port 25. As on a real machine its
    configuration, its queue and its socket have nothing but the root in common."""
    node = world.node(start=False, port=25, config={"user": user, **config})
    os.chmod(node.dir, 0o755)
    for path in (world.dir / "lib" / "relayd", world.dir / "run" / "relayd"):
        path.mkdir(parents=True)
        path.parent.chmod(0o755)
        os.chown(path, pwd.getpwnam(user).pw_uid, -1)
    node.write_config({"queue": {"path": str(world.dir / "lib" / "relayd")},
                       "control": {"socket": str(world.dir / "run" / "relayd" / "control.sock")}})
    return node


def refusal(node):
    """What a reload by relayctl says about why it was refused."""
    node.write_config()
    done = node.ctl("reload", check=False)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


# -- identity


def test_k10_every_thread_runs_as_the_user_and_can_never_come_back(world, promise):
    promise("K10", "started as root, every thread is its user's, for good and without capabilities")
    world.mx("dest.test")
    node = unprivileged(world).start()
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.wait_empty()
    for thread in os.listdir(f"/proc/{node.pid}/task"):
        fields = status(f"{node.pid}/task/{thread}")
        assert set(fields["Uid"].split()) == {str(UID)}, fields["Uid"]
        assert set(fields["Gid"].split()) != {"0"}
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(fields[name], 16) & ~MAY_KEEP == 0, f"{name} {fields[name]}"
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == ("0" if sanitized() else "2")
        assert "0" not in fields["Groups"].split()
        promise.case()


def test_k10_ready_says_what_is_in_force(world, promise):
    promise("K10", "the log says which filter and which version of Landlock are in force")
    ready = unprivileged(world).start().log.wait(event="ready")
    assert ready["seccomp"] == ("no" if sanitized() else "yes")
    assert int(ready["landlock"]) == (0 if sanitized() else landlock())
    promise.case()


def test_k10_root_stays_root_only_when_told_and_says_so(world, promise):
    promise("K10", "only `user: root` stays root, with a warning")
    node = world.node()
    assert status(node.pid)["Uid"].split()[0] == "0"
    node.log.wait(event="root")
    promise.case()


def test_k10_queue_and_socket_belong_to_the_user_alone(world, promise):
    promise("K10", "the queue is its user's alone, the control socket has mode 0660")
    node = unprivileged(world).start()
    queue = node.config["queue"]["path"]
    for name in os.listdir(queue):
        info = os.stat(os.path.join(queue, name))
        assert info.st_uid == UID and not stat.S_IMODE(info.st_mode) & 0o007, name
        promise.case()
    info = os.stat(node.config["control"]["socket"])
    assert info.st_uid == UID and stat.S_IMODE(info.st_mode) == 0o660


def test_k10_the_process_cannot_be_traced_and_dumps_no_core(world, promise):
    promise("K10", "no debugger of its user reads the process, and no core file is written")
    node = unprivileged(world).start()
    limits = open(f"/proc/{node.pid}/limits").read()
    assert re.search(r"Max core file size\s+0\s+0", limits)
    assert re.search(r"Max open files\s+\d{4,}", limits)
    # A process that is not dumpable shows its /proc entries as root's.
    assert os.stat(f"/proc/{node.pid}/mem").st_uid == 0
    promise.case()


def test_k10_reload_works_after_privileges_were_dropped(world, promise):
    promise("K10", "a reload does its work with what is left")
    node = unprivileged(world).start()
    hop = world.remote("hop.test")
    node.reload({"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
                 "transport_map": [{"default": True, "route": "out"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail()
    promise.case()


# -- an intruder in the process


@pytest.fixture
def invaded(world):
    """invaded(user): a node (not started) in which a message can make attempts (intruder.c)."""
    intruder = library(world, "intruder", HELPER)
    elsewhere = world.dir / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    (elsewhere / "secret").write_text("for anybody\n")
    (elsewhere / "secret").chmod(0o666)

    def prepare(user):
        node = unprivileged(world, user, queue={"retry": {"intervals": ["1h"]}})
        node.file("users", "")
        node.env = {"LD_PRELOAD": str(intruder), "INTRUDER_CONFIG": str(node.dir),
                    "INTRUDER_QUEUE": node.config["queue"]["path"],
                    "INTRUDER_ELSEWHERE": str(elsewhere)}
        return node
    return prepare


WORKS = {"read-config", "new-in-queue"}
NO_CALL = {"raw-socket", "packet-socket", "signal-init", "fork", "become-root", "be-traced",
           "dump-core", "type-into-terminal", "chown", "symlink-in-queue"}


@unsanitized
@needs_landlock
@pytest.mark.parametrize("user", ["root", USER])
def test_k10_code_in_the_process_reaches_queue_and_configuration_and_nothing_else(
        world, invaded, promise, user):
    promise("K10", "code in the process, root or not, writes to the queue's directory alone, reads "
            "the configuration's and the system's, starts and signals nobody")
    world.mx("dest.test")
    node = invaded(user).start()
    node.submit("a@src.test", "b@dest.test", mail.message(body="INTRUDER-TRIES"))
    node.wait_empty()
    tried = dict(re.findall(r"intruder: (\S+) (\d+)", "\n".join(node.log.lines())))
    assert len(tried) == 25, tried
    for name, got in tried.items():
        may = {0} if name in WORKS else {errno.ENOSYS} if name in NO_CALL \
            else {errno.EACCES, errno.EPERM}
        assert int(got) in may, f"{name}: {errno.errorcode.get(int(got), got)}"
        promise.case()
    assert node.running()


EXECVE = {"x86_64": 59, "aarch64": 221}.get(platform.machine())
PTRACE = {"x86_64": 101, "aarch64": 117}.get(platform.machine())


@unsanitized
@pytest.mark.parametrize("call", [EXECVE, PTRACE])
def test_k10_call_of_an_intruder_ends_the_process_and_blames_the_message(
        world, invaded, promise, call):
    promise("K10", "execve and the like end the daemon, which says so and blames what was in hand")
    mx = world.mx("dest.test")
    node = invaded(USER).start()
    node.submit("a@src.test", "b@dest.test", mail.message(body=f"INTRUDER-CALL-{call}"))
    assert node.wait_exit() == -signal.SIGSYS
    assert f"relayd: system call {call} is refused" in node.log.lines()
    node.env = {}
    node.start()
    node.log.wait(event="alert", alert="poison")
    mx.wait_mail()
    node.wait_empty()
    promise.case()


# -- what a reload may still read


@unsanitized
@needs_landlock
def test_k10_reload_that_names_a_file_elsewhere_is_told_to_restart(world, promise):
    promise("K10", "a file outside the trees of the start refuses the reload, which says: restart")
    node = unprivileged(world).start()
    elsewhere = world.dir / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    certificate = world.ca.issue("smtp-cn.relay.test")
    names = {}
    for name, source in (("cert.pem", certificate.cert_file), ("key.pem", certificate.key_file)):
        names[name] = str(shutil.copy(source, elsewhere / name))
        os.chown(names[name], UID, -1)
        os.chmod(names[name], 0o600)
    (elsewhere / "domains").write_text("dest.test\n")
    (elsewhere / "more.yaml").write_text("local_domains: [ours.test]\n")
    cases = [
        {"tls": {"certificate_file": names["cert.pem"], "private_key_file": names["key.pem"]}},
        {"transport_map": [{"domains_file": str(elsewhere / "domains"), "route": "direct"},
                           {"default": True, "route": "direct"}]},
        {"include": [str(elsewhere / "more.yaml")]},
        {"include": [str(elsewhere / "*.yaml")]},
        {"direct": {"ca_file": names["cert.pem"]}},
    ]
    good = node.config
    for case in cases:
        node.config = {**good, **case}
        said = refusal(node)
        assert str(elsewhere) in said and "restart relayd" in said, said
        promise.case()
    node.config = {**good, **cases[0]}
    node.restart()
    node.log.wait(event="ready")
    with node.client() as session:
        session.ehlo()
        assert session.starttls().code == 220
    # From now on the directory is one of those that were named.
    node.reload({"transport_map": [{"domains_file": str(elsewhere / "domains"), "route": "direct"},
                                   {"default": True, "route": "direct"}]})
    assert node.ctl("reload").returncode == 0


@needs_landlock
def test_k10_reload_reads_new_files_beside_the_configuration(world, promise):
    promise("K10", "a reload may name new files in the configuration's directory, also renewed ones "
            "behind links")
    live, archive = world.dir / "live", world.dir / "archive"
    for path in (live, archive):
        path.mkdir()
        path.chmod(0o755)

    def issue(number):
        """As certbot does it: new files in one directory, links to them in another."""
        certificate = world.ca.issue(f"number{number}.relay.test")
        for name, source in (("cert", certificate.cert_file), ("key", certificate.key_file)):
            target = archive / f"{name}{number}.pem"
            shutil.copy(source, target)
            os.chown(target, UID, -1)
            target.chmod(0o600)
            (live / "new").unlink(missing_ok=True)
            (live / "new").symlink_to(target)
            os.replace(live / "new", live / f"{name}.pem")
        return certificate

    issue(1)
    node = unprivileged(world, tls={"certificate_file": str(live / "cert.pem"),
                                    "private_key_file": str(live / "key.pem")}).start()
    renewed = issue(2)
    with open(renewed.cert_file) as f:
        expected = smtp.ssl.PEM_cert_to_DER_cert(f.read().split("-----END CERTIFICATE-----")[0] +
                                                 "-----END CERTIFICATE-----\n")
    node.reload()

    def shown():
        with node.client() as session:
            session.ehlo()
            session.starttls()
            return session.socket.getpeercert(binary_form=True)

    until(lambda: shown() == expected, what="the renewed certificate")
    node.file("new/domains", "dest.test\n", mode=0o644)
    os.chmod(node.dir / "new", 0o755)
    node.file("new/more.yaml", "local_domains: [ours.test]\n", mode=0o644)
    node.write_config({"include": ["new/*.yaml"], "transport_map": [
        {"domains_file": "new/domains", "route": "direct"}, {"default": True, "route": "direct"}]})
    assert node.ctl("reload").returncode == 0
    promise.case(2)


@needs_landlock
def test_k10_rotated_log_is_opened_anew_and_another_directory_needs_a_restart(world, promise):
    promise("K10", "a rotated log file is opened anew; one in another directory takes a restart")
    logs, others = world.dir / "logs", world.dir / "others"
    for path in (logs, others):
        path.mkdir()
        os.chown(path, UID, -1)
    log = logs / "relayd.log"
    node = unprivileged(world, log={"target": str(log)}).start()
    log.rename(logs / "relayd.log.1")
    node.reload()
    until(lambda: log.exists() and "event=reloaded" in log.read_text(), what="the new log file")
    if not sanitized():
        node.reload({"log": {"target": str(others / "relayd.log")}})
        until(lambda: "event=log_target" in log.read_text(), what="the log to stay")
        assert "restart relayd" in log.read_text() and not list(others.iterdir())
    promise.case(2)


# -- secrets


def memory(pid):
    """Every readable byte of the process, mapping by mapping."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            span, mode, *rest = line.split()
            if "r" not in mode or (rest[3:] and rest[3].startswith("[v")):
                continue
            start, end = (int(at, 16) for at in span.split("-"))
            mem.seek(start)
            at = start
            while at < end:
                try:
                    chunk = mem.read(min(end - at, 1 << 24))
                except OSError:  # behind the end of a mapped file
                    break
                if not chunk:
                    break
                yield chunk
                at += len(chunk)


def found(pid, texts):
    """Which of the texts are in the memory of the process."""
    texts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return {text.decode() for chunk in memory(pid) for text in texts if text in chunk}


def wait_gone(pid, texts):
    left = list(texts)

    def gone():
        left[:] = found(pid, texts)
        return not left
    try:
        until(gone, 5)
    except AssertionError:
        raise AssertionError(f"still in memory: {left[:5]}, {len(left)} of {len(texts)}") from None


def b64(text):
    return base64.b64encode(text.encode()).decode()


def plain(user, password):
    return b64(f"\0{user}\0{password}")


def pem_lines(path):
    """The lines of a key file that say something of the key."""
    return [line for line in pathlib.Path(path).read_text().splitlines()
            if "-----" not in line and len(line) > 20]


def marker(name):
    return f"{name}-{secrets.token_hex(12)}"


@unsanitized
def test_j05_passwords_of_clients_leave_no_trace_in_memory(world, promise):
    promise("J05", "passwords that clients log in with are nowhere in memory once judged")
    node = world.node(start=False, config={"trusted_clients": [{"users_file": "users"}]})
    certificate = world.ca.issue("smtp-cn.relay.test")
    node.write_config({"tls": {"certificate_file": certificate.cert_file,
                               "private_key_file": certificate.key_file}})
    good, wrong, login, parts = (marker(name) for name in ("good", "wrong", "login", "parts"))
    for user, password in (("shop", good), ("desk", login), ("slow", parts)):
        node.add_user(user, password)
    node.start()

    def session():
        client = node.client()
        client.ehlo()
        client.starttls()
        client.ehlo()
        return client

    with session() as client:
        assert client.auth_plain("shop", wrong).code == 535
        assert client.auth_plain("shop", good).code == 235
        assert client.mail("a@src.test").code == 250
    with session() as client:
        assert client.cmd("AUTH LOGIN").code == 334
        assert client.cmd(b64("desk")).code == 334
        assert client.cmd(b64(login)).code == 235
    with session() as client:
        line = f"AUTH PLAIN {plain('slow', parts)}\r\n"
        for at in range(0, len(line), 8):  # a TLS record each
            client.send(line[at:at + 8])
        assert client.reply().code == 235
        assert client.cmd("QUIT").code == 221
    texts = [good, wrong, login, parts, plain("shop", good), plain("shop", wrong), b64(login),
             plain("slow", parts)]
    wait_gone(node.pid, texts)
    promise.case(len(texts))


@unsanitized
def test_j05_key_files_leave_their_keys_in_memory_and_not_their_text(world, promise):
    promise("J05", "of key files the parsed keys stay in memory, their text does not")
    mx = world.mx("dest.test", certificate=world.ca.issue("mx.dest.test"))
    dkim = world.key("src.test", "cn")
    edwards = dkimkeys.Key(world.dir / "keys" / "ed.pem", "ed25519").publish(
        world.dns, "src.test", "ed")
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(config={
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "dkim": [{"domains": ["src.test"], "selector": "cn", "key_file": str(dkim.path)},
                 {"domains": ["src.test"], "selector": "ed", "key_file": str(edwards.path)}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    with node.client() as session:
        session.ehlo()
        session.starttls()
        session.ehlo()
    node.reload()
    texts = [line for path in (dkim.path, edwards.path, certificate.key_file)
             for line in pem_lines(path)]
    assert len(texts) > 20
    wait_gone(node.pid, texts)
    promise.case(len(texts))


@unsanitized
def test_j05_replaced_secrets_are_gone_after_the_reload(world, promise):
    promise("J05", "of passwords, tokens and SRS secrets that were replaced nothing stays in memory; "
            "what relayd sends a hop is not kept beside the password")
    old = {name: marker(name) for name in ("hop", "token", "srs")}
    new = {name: marker(name) for name in old}
    hop = world.remote("hop.test", certificate=world.ca.issue("hop.test"),
                       auth={"cn": old["hop"]})
    node = world.node(start=False, config={
        "hops": {"out": {"address": "hop.test:25", "tls": "verify", "ca_file": str(world.ca.file),
                         "auth": {"username": "cn", "password_file": "hop.secret"}}},
        "transport_map": [{"default": True, "route": "out"}],
        "srs": {"domain": "fwd.test", "secret_file": "srs.secret"}})
    node.write_config({"http": {"address": f"{node.address}:8025", "token_file": "token.secret"}})
    for name, text in old.items():
        node.file(f"{name}.secret", text + "\n")
    node.start()

    def ask(token):
        request = urllib.request.Request(f"http://{node.config['http']['address']}/v1/status",
                                         headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code

    node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail()
    assert ask(old["token"]) == 200
    assert ask("wrong-" + new["token"]) == 401
    # In force: the settings hold them (SECURITY.md), and nothing else does.
    sent = plain("cn", old["hop"])
    wait_gone(node.pid, [sent, "wrong-" + new["token"]])
    assert found(node.pid, [old["hop"], old["token"]]) == {old["hop"], old["token"]}
    hop.auth = {"cn": new["hop"]}
    for name, text in new.items():
        node.file(f"{name}.secret", text + "\n")
    node.reload()
    node.submit("a@src.test", "b@dest.test", mail.message())
    hop.wait_mail(2)
    assert ask(old["token"]) == 401 and ask(new["token"]) == 200
    texts = [*old.values(), sent, plain("cn", new["hop"])]
    wait_gone(node.pid, texts)
    promise.case(len(texts))


# Option: the configuration that names this file.
SECRETS = {
    "tls.private_key_file": lambda name: {"tls": {"private_key_file": name}},
    "hops.private_key_file": lambda name: {"hops": {"out": {"private_key_file": name}}},
    "dkim.key_file": lambda name: {"dkim": [{"domains": ["src.test"], "key_file": name}]},
    "hops.password_file": lambda name: {"hops": {"out": {"auth": {"password_file": name}}}},
    "srs.secret_file": lambda name: {"srs": {"secret_file": name}},
    "http.token_file": lambda name: {"http": {"token_file": name}},
    "trusted_clients.users_file": lambda name: {"trusted_clients": [{"users_file": name}]},
}


@pytest.mark.parametrize("option", SECRETS)
def test_j05_secrets_that_others_can_read_are_refused(world, promise, option):
    promise("J05", "a secret file that others can read or write is refused, start and reload alike")
    certificate = world.ca.issue("smtp-cn.relay.test")
    node = world.node(start=False, config={
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "hops": {"out": {"address": "hop.test:25", "tls": "require",
                         "certificate_file": certificate.cert_file,
                         "private_key_file": certificate.key_file,
                         "auth": {"username": "cn", "password_file": "password"}}},
        "srs": {"domain": "fwd.test", "secret_file": "srs"}})
    node.write_config({"http": {"address": f"{node.address}:8025", "token_file": "token"}})
    for name in ("password", "srs", "token"):
        node.file(name, marker(name) + "\n")
    content = {"tls.private_key_file": certificate.key_file,
               "hops.private_key_file": certificate.key_file,
               "dkim.key_file": world.key("src.test", "cn").path}.get(option)
    text = pathlib.Path(content).read_text() if content else marker("secret") + "\n"
    if option == "trusted_clients.users_file":
        text = pathlib.Path(node.add_user("shop", "password", "made")).read_text()
    named = pathlib.Path(node.file("the-secret", text))
    node.write_config(SECRETS[option](str(named)))

    def judged(mode):
        named.chmod(mode)
        return run(binary("relayd"), "-c", node.config_file, "--check", check=False)

    for mode in (0o600, 0o400, 0o640, 0o660):
        done = judged(mode)
        assert done.returncode == 0, f"{mode:o}: {done.stdout}{done.stderr}"
        promise.case()
    for mode in (0o604, 0o602, 0o644, 0o666, 0o606):
        done = judged(mode)
        assert done.returncode == 78, f"{mode:o} was taken"
        assert str(named) in done.stderr and "others can" in done.stderr, done.stderr
        assert text.strip() not in done.stderr
        promise.case()


def test_j05_reload_refuses_a_secret_that_others_can_read_and_goes_on(world, promise):
    promise("J05", "a reload refuses such a file too, and the old configuration stays")
    mx = world.mx("dest.test")
    key = world.key("src.test", "cn")
    node = world.node(config={"dkim": [{"domains": ["src.test"], "key_file": str(key.path)}]})
    key.path.chmod(0o644)
    said = refusal(node)
    assert str(key.path) in said and "others can read it" in said
    node.submit("a@src.test", "b@dest.test", mail.message())
    dkimkeys.assert_signed(mx.wait_mail().data, world.dns, ("src.test", "cn"))
    promise.case()


def test_j05_secret_that_the_user_cannot_read_is_an_error_with_the_chown_line(world, promise):
    promise("J05", "a secret that the user cannot read is an error that prints the chown line")
    node = unprivileged(world)
    node.add_user("shop", "password")
    certificate = world.ca.issue("smtp-cn.relay.test")
    os.chmod(certificate.key_file, 0o640)
    os.chown(certificate.key_file, UID, 0)
    node.write_config({
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "trusted_clients": [{"users_file": "users"}]})
    node.start(ready=False)
    assert node.wait_exit() == 78
    said = "\n".join(node.log.lines())
    assert re.search(rf"chown {USER}\S* \S*users", said), said
    os.chown(node.dir / "users", UID, -1)
    node.start()
    promise.case()


# -- the programs and how they are shipped


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True,
                          check=True).stdout


@unsanitized
@pytest.mark.parametrize("name", ["relayd", "relayctl"])
def test_k10_programs_are_built_hardened(promise, name):
    promise("K10", "PIE, full RELRO, no executable stack, stack protector, FORTIFY, CET")
    path = binary(name)
    header, segments, dynamic = readelf("-h", path), readelf("-l", path), readelf("-d", path)
    symbols = readelf("--dyn-syms", path)
    stack = re.search(r"GNU_STACK.*", segments).group(0)
    checks = {
        "position independent": "DYN" in header and re.search(r"FLAGS_1.*\bPIE\b", dynamic),
        "bound at the start": re.search(r"\bBIND_NOW\b|FLAGS_1.*\bNOW\b", dynamic),
        "read-only relocations": "GNU_RELRO" in segments,
        "no executable stack": " RW " in stack and "E" not in stack.split()[-2],
        "no segment writable and executable": not re.search(r"LOAD.* RWE ", segments),
        "no relocations in code": "TEXTREL" not in dynamic,
        "no search path of its own": not re.search(r"RPATH|RUNPATH", dynamic),
        "stack protector": "__stack_chk_fail" in symbols,
        "FORTIFY": len(set(re.findall(r"__(\w+)_chk\b", symbols)) - {"stack"}) >= 3,
    }
    if platform.machine() == "x86_64":
        # Not the note of the whole file: Debian's crt1.o has none.
        checks["CET: functions begin with endbr64"] = \
            path.read_bytes().count(b"\xf3\x0f\x1e\xfa") > 100
    for what, holds in checks.items():
        assert holds, f"{path}: {what}"
        promise.case()


UNIT = ROOT / "etc" / "relayd.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")
def test_k10_unit_is_exposed_less_than_2_0(promise):
    promise("K10", "systemd-analyze security gives etc/relayd.service less than 2.0")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                           "--threshold=19", str(UNIT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
    level = float(re.search(r"exposure level for relayd.service: ([\d.]+)", done.stdout).group(1))
    assert level < 2.0
    promise.case()


def test_k10_unit_leaves_the_daemon_what_it_needs(promise):
    promise("K10", "the unit allows low ports, the queue, and what relayd shuts itself in with")
    settings = [line.split("=", 1) for line in UNIT.read_text().splitlines()
                if "=" in line and not line.startswith("#")]
    calls = " ".join(value for name, value in settings if name == "SystemCallFilter"
                     and not value.startswith("~")).split()
    for call in ("capset", "seccomp", "landlock_create_ruleset", "landlock_add_rule",
                 "landlock_restrict_self"):
        assert call in calls, call
        promise.case()
    settings = dict(settings)
    assert settings["User"] != "root" and settings["StateDirectory"] == "relayd"
    assert settings["AmbientCapabilities"] == settings["CapabilityBoundingSet"] \
        == "CAP_NET_BIND_SERVICE"
    # The rules for replies are compiled by PCRE2's JIT; pages of code are made for that.
    assert "MemoryDenyWriteExecute" not in settings
