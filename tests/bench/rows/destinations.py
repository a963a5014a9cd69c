"""A hundred thousand destinations, one message each, and a name server whose answers take 50 ms.

Each domain has an MX of its own, so each is a site with look-ups and a connection of its own; the
addresses behind are eight, served by one bench_sink. What shall bound the rate is how many questions
and connections may be open at once: then the loop is idle for a good part of the time.
"""

import os
import time

from rows import contenders, ends
from rows.measure import Account, Thread, median
from rows.report import Line

DESTINATIONS = 100_000
DNS_MS = 50
IDLE_LEAST = 0.1  # of the loop's time


def once(context, destinations):
    """Figures of one run."""
    world = context.world
    dns, hosts = world.take(), [world.take() for _ in range(8)]
    server = ends.Program("dns", "-w", DNS_MS, f"{dns}:53", *hosts)
    sink = ends.BenchSink([(host, 25) for host in hosts], destinations)
    config = {"resolver": {"servers": [f"{dns}:53"]},
              "transport_map": [{"default": True, "route": "direct"}]}
    contender = contenders.Relayd(world, config=config).start()
    account = Account(contender.pids())
    try:
        os.sync()
        spent, begun = account.seconds(), time.monotonic()
        loop = Thread(contender.node.pid)
        accepted_s = ends.bench_source((contender.address, contender.port), destinations,
                                       destinations)
        took = sink.wait() - begun
        shares, spent = loop.shares(), account.seconds() - spent
        seen, asked = sink.stop(), server.stop()
    finally:
        account.close()
        contender.stop()
    return {"per_s": destinations / took, "cpu_us": spent / destinations * 1e6, **shares,
            "accepted_per_s": destinations / accepted_s, "queries": asked["queries"],
            "questions_max": asked["in_flight_max"], "connections_max": seen["connections_max"]}


def many(context):
    destinations = context.scaled(DESTINATIONS, 1000)
    runs = []
    for _ in range(context.runs):
        runs.append(once(context, destinations))
        context.say(" ".join(f"{name} {value:,.2f}" for name, value in runs[-1].items()))
    found = {name: median([r[name] for r in runs]) for name in runs[0]}
    return [Line("destinations", f"{found['per_s']:,.0f}/s {found['cpu_us']:,.0f} us",
                 f"at once: {found['questions_max']:,.0f} questions, "
                 f"{found['connections_max']:,.0f} connections", details=found),
            Line("destinations loop", f"idle {found['idle']:.0%}, ready {found['ready']:.0%}",
                 goal=f"idle >= {IDLE_LEAST:.0%}", met=found["idle"] >= IDLE_LEAST)]


ROWS = {"destinations": many}
