"""What keeps relayd from starting, and how it says so: one clear line and an exit of sysexits(3)."""

import os
import pathlib
import re
import socket
import subprocess

import pytest

from rig import mail, smtp
from rig.node import binary, sanitized
from rig.preload import library
from rig.proc import run
from rig.wait import until

USAGE, NO_USER, CANT_CREATE, IO, TEMPFAIL, CONFIG = 64, 67, 73, 74, 75, 78
SOURCE = pathlib.Path(__file__).parents[2]

# The n-th thread cannot be had.
NO_THREAD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
int pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    static int n;
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    return ++n == atoi(getenv("NO_THREAD")) ? EAGAIN : real(ret, attr, run, arg);
}
"""


def exit_of(node):
    """Start a node that must not come up: (exit code, everything it said)."""
    node.start(ready=False)
    code = node.wait_exit()
    return code, "\n".join(node.log.lines())


def test_bad_configuration_exits_78_with_every_problem(world):
    node = world.node(start=False, config={"limits": {"sessions": "many"}, "colour": "red"})
    code, said = exit_of(node)
    assert code == CONFIG
    assert "limits.sessions" in said and "colour" in said


def test_port_in_use_names_the_address(world):
    node = world.node(start=False)
    with socket.create_server((node.address, node.port)):
        code, said = exit_of(node)
    assert code == TEMPFAIL and f"{node.address}:{node.port}" in said
    node.start()


def test_second_instance_on_the_same_queue_is_refused_and_the_first_undisturbed(world):
    mx = world.mx("dest.test")
    first = world.node("one")
    second = world.node("two", start=False, config={
        "queue": {"path": first.config["queue"]["path"]}})
    code, said = exit_of(second)
    assert code == TEMPFAIL, said
    assert first.config["queue"]["path"] in said
    first.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()


def test_queue_directory_that_cannot_be_made_exits_73(world):
    (world.dir / "file").write_text("")
    node = world.node(start=False, config={"queue": {"path": str(world.dir / "file" / "queue")}})
    code, said = exit_of(node)
    assert code == CANT_CREATE and "queue" in said


def test_threads_that_cannot_be_had_exit_75(world):
    if sanitized():
        pytest.skip("a sanitizer wants to be the first library")
    thread = library(world, "thread", NO_THREAD)
    node = world.node(start=False)
    names = set()
    for n in range(1, 20):
        node.env = {"LD_PRELOAD": str(thread), "NO_THREAD": str(n)}
        code = node.try_start()
        if code is None:
            break
        said = node.log.lines()[-1]
        assert code == TEMPFAIL and said.startswith("relayd: "), f"{n}: {code}, {said}"
        names.add(re.search("no thread ([a-z-]+)", said)[1])
    assert code is None and names == {"store-writer", "store-reader", "relayd-log", "worker-"}


@pytest.mark.parametrize("damage", ["magic", "zero", "truncated"])
def test_damaged_queue_is_never_replaced_by_a_fresh_one(world, damage):
    mx = world.mx("dest.test")
    mx.answer("rcpt", "451 4.3.0 later")
    node = world.node(config={"queue": {"retry": {"intervals": ["1h"]}}})
    node.submit("a@src.test", "b@dest.test", mail.message())
    node.log.wait(event="attempt", outcome="deferred")
    node.stop()
    data = os.path.join(node.config["queue"]["path"], "data.mdb")
    assert os.path.exists(data), os.listdir(node.config["queue"]["path"])
    whole = open(data, "rb").read()
    broken = {"magic": b"\xde\xad" * 4096 + whole[8192:], "zero": b"", "truncated": whole[:4096]}
    with open(data, "wb") as f:
        f.write(broken[damage])
    code, said = exit_of(node)
    assert code == IO and "queue" in said, said
    with open(data, "wb") as f:
        f.write(whole)
    node.start()
    assert [w["rcpt"] for w in node.queue()] == ["b@dest.test"]


def test_bad_options_exit_64():
    for arguments in (["--nonsense"], ["-c"], ["--drain", "soon", "-c", "/nonexistent"]):
        assert run(binary("relayd"), *arguments, check=False).returncode == USAGE, arguments


def test_the_manual_names_every_exit_code_and_no_other():
    page = (SOURCE / "etc/man/relayd.8").read_text().split(".Sh EXIT STATUS")[1].split(".Sh")[0]
    code = "".join((SOURCE / "relayd" / name).read_text()
                   for name in ("main.c", "start.c", "stop.c"))
    names = set(re.findall(r"\bEX_[A-Z]+", code))
    assert len(names) > 5
    told = {int(number) for number in re.findall(r"^\.It (\d+)$", page, re.M)}
    assert told == {getattr(os, name) for name in names}


def test_missing_user_has_its_exit_code(world):
    node = world.node(start=False, config={"user": "nosuchuser"})
    code, said = exit_of(node)
    assert code == NO_USER and "nosuchuser" in said


def test_help_and_version():
    for program in ("relayd", "relayctl"):
        for option in ("--help", "--version"):
            done = run(binary(program), option)
            assert done.stdout.strip(), (program, option)


def test_what_check_accepts_a_start_accepts(world):
    node = world.node(start=False)
    node.write_config()
    assert run(binary("relayd"), "-c", node.config_file, "--check").returncode == 0
    node.start()


def test_disk_that_runs_full_refuses_mail_and_recovers(world):
    """A file system of 48 MB: 452 4.3.1, deliveries go on, and it heals by itself."""
    disk = world.dir / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], check=True)
    try:
        mx = world.mx("dest.test")
        mx.answer("rcpt", "451 4.3.0 later")
        node = world.node(config={
            "queue": {"path": str(disk / "queue"), "min_free": "4MiB", "max_size": "1GiB",
                      "retry": {"intervals": ["1h"]}}})
        body = ("x" * 76 + "\r\n") * 13000  # a megabyte
        accepted, refused = [], None
        with node.client() as session:
            session.ehlo()
            for i in range(80):
                session.mail("a@src.test", "SIZE=1100000")
                reply = session.rcpt(f"u{i}@dest.test")
                if reply.code == 250:
                    reply = session.data(mail.message(body=body))
                if reply.code == 250:
                    accepted.append(reply.queued_id)
                    continue
                refused = reply
                break
        assert accepted and refused is not None, "the disk never ran full"
        assert refused.code == 452 and refused.text.startswith("4.3.1"), str(refused)
        mx.behave()
        node.ctl("queue", "retry", "--domain", "dest.test")
        mx.wait_mail(len(accepted), timeout=60)
        node.wait_empty()
        node.submit("a@src.test", "again@dest.test", mail.message(body=body))
        mx.wait_mail(rcpt="again@dest.test")
        node.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_few_descriptors_pause_accepting_without_spinning(world):
    mx = world.mx("dest.test")
    node = world.node(start=False)
    node.wrapper = ["prlimit", "--nofile=256:256"]
    node.start()
    held = []
    try:
        for _ in range(300):
            session = socket.create_connection((node.address, node.port), 5)
            session.settimeout(0.2)
            held.append(session)
    finally:
        for session in held:
            session.close()

    def served():
        """False while those that have gone still hold every place."""
        try:
            return node.submit("a@src.test", "b@dest.test", mail.message())
        except (smtp.Closed, OSError):
            return None

    until(served, what="room for another client")
    assert mx.wait_mail()
