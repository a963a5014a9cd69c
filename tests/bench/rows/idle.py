"""What an idle client connection costs: it has said EHLO (under TLS, after the handshake), then no
more."""

import functools
import pathlib
import re

from rows import contenders, ends
from rows.measure import memory_kib, median, tree
from rows.report import Line

CONNECTIONS = 10000
POSTFIX_CONNECTIONS = 200  # each is a process of its own
GOAL_KIB = {"plain": 5, "tls": 32}


# What a socket and its place in an epoll set are in the kernel; buffers hold nothing while idle.
CACHES = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq", "ep_head")


def kernel_kib():
    """Memory of the kernel for open TCP sockets: its objects, and pages of buffers."""
    objects = 0
    for line in pathlib.Path("/proc/slabinfo").read_text().splitlines():
        fields = line.split()
        if fields[0] in CACHES:
            objects += int(fields[1]) * int(fields[3])
    pages = int(re.search(r"^TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(),
                          re.M).group(1))
    return objects / 1024 + pages * 4


def cost(contender, connections, tls):
    """(own KiB, kernel's KiB) for each connection; the kernel's without the client's end."""
    target = f"{contender.address}:{contender.port}"
    options = ["-t"] if tls else []
    # What the first ones need once and for all is not theirs.
    first = ends.Program("idle", "-n", min(100, connections), *options, target)
    first.line()
    first.stop()
    before, kernel_before = memory_kib(tree(contender.pids()[0])), kernel_kib()
    clients = ends.Program("idle", "-n", connections, *options, target)
    assert clients.line() == f"open {connections}"
    after, kernel_after = memory_kib(tree(contender.pids()[0])), kernel_kib()
    clients.stop()
    return (after - before) / connections, (kernel_after - kernel_before) / connections / 2


def relayd(context, kind):
    """One fresh node; the cost of an idle connection."""
    world = context.world
    config = {"limits": {"sessions": 2 * CONNECTIONS, "sessions_per_client": 2 * CONNECTIONS}}
    if kind == "tls":
        certificate = world.ca.issue("smtp-cn.relay.test")
        config["tls"] = {"certificate_file": certificate.cert_file,
                         "private_key_file": certificate.key_file}
    contender = contenders.Relayd(world, config=config).start()
    try:
        return cost(contender, context.scaled(CONNECTIONS), kind == "tls")
    finally:
        contender.stop()


def postfix(context):
    contender = contenders.Postfix(context.world, (context.world.take(), 2500),
                                   sessions=POSTFIX_CONNECTIONS).start()
    try:
        return cost(contender, POSTFIX_CONNECTIONS, False)
    finally:
        contender.stop()


def idle(context, kind):
    seen = [relayd(context, kind) for _ in range(context.runs)]
    own, kernel = median([s[0] for s in seen]), median([s[1] for s in seen])
    context.say(f"{kind}: {own:.2f} KiB, kernel {kernel:.1f} KiB")
    line = Line(f"idle-{kind}", f"{own:.2f} KiB (+ kernel {kernel:.1f})",
                goal=f"<= {GOAL_KIB[kind]} KiB", met=own <= GOAL_KIB[kind],
                details={"connections": context.scaled(CONNECTIONS), "runs": seen})
    if kind == "plain":
        theirs, _ = postfix(context)
        line.peer, line.ratio = f"Postfix {theirs:,.0f} KiB", own / theirs
    return [line]


ROWS = {f"idle-{kind}": functools.partial(idle, kind=kind) for kind in GOAL_KIB}
