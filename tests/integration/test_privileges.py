"""Started as root, relayd becomes its user before it touches mail, and keeps its secrets."""

import os
import pwd
import re
import stat

from rig import mail
from rig.node import sanitized

USER = "nobody"
# A reload may bind a new listener below port 1024; nothing else of root's power is kept.
MAY_KEEP = 1 << 10  # CAP_NET_BIND_SERVICE
UID = pwd.getpwnam(USER).pw_uid


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def unprivileged(world, **config):
    """A node that runs as nobody and listens on port 25."""
    node = world.node(start=False, port=25, config={"user": USER, **config})
    os.chmod(node.dir, 0o755)
    for path in (node.dir / "queue", node.dir / "run"):
        path.mkdir()
        os.chown(path, UID, -1)
    node.write_config({"control": {"socket": str(node.dir / "run" / "control.sock")}})
    return node


def test_every_thread_runs_as_the_user_and_can_never_come_back(world):
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
        assert "0" not in fields["Groups"].split()


def test_system_calls_are_filtered(world):
    node = unprivileged(world).start()
    assert status(node.pid)["Seccomp"] == ("0" if sanitized() else "2")


def test_queue_and_socket_belong_to_the_user_alone(world):
    node = unprivileged(world).start()
    queue = node.config["queue"]["path"]
    for name in os.listdir(queue):
        info = os.stat(os.path.join(queue, name))
        assert info.st_uid == UID and not stat.S_IMODE(info.st_mode) & 0o007, name
    info = os.stat(node.config["control"]["socket"])
    assert info.st_uid == UID and stat.S_IMODE(info.st_mode) == 0o660


def test_secret_that_the_user_cannot_read_is_an_error_with_the_chown_line(world):
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


def test_secrets_are_not_in_the_log_and_the_process_cannot_be_traced(world):
    node = unprivileged(world).start()
    # A process that is not dumpable shows its /proc entries as root's.
    assert os.stat(f"/proc/{node.pid}/mem").st_uid == 0
    limits = open(f"/proc/{node.pid}/limits").read()
    assert re.search(r"Max open files\s+\d{4,}", limits)


def test_root_stays_root_only_when_told_and_says_so(world):
    node = world.node()
    assert status(node.pid)["Uid"].split()[0] == "0"
    node.log.wait(event="root")


def test_reload_works_after_privileges_were_dropped(world):
    node = unprivileged(world).start()
    hop = world.remote("hop.test")
    node.reload({"hops": {"out": {"address": f"{hop.address}:25", "tls": "off"}},
                 "transport_map": [{"default": True, "route": "out"}]})
    node.submit("a@src.test", "b@dest.test", mail.message())
    assert hop.wait_mail()
