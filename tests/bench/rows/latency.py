"""One message at a time: how long from the client to the destination."""

import subprocess

from rows import contenders, ends, svg
from rows.measure import median, quantile
from rows.report import Line

MESSAGES = {"relayd": 4000, "Postfix": 1000}


def once(contender, target, messages):
    """[(us from connect(), us from the client's final dot)] to the destination's final dot."""
    contender.start()
    try:
        for count in (messages // 10 + 1, messages):
            done = subprocess.run(
                [ends.program("latency"), "-m", str(count),
                 f"{contender.address}:{contender.port}", "%s:%d" % target],
                capture_output=True, text=True, timeout=ends.PATIENCE_S)
            assert done.returncode == 0, done.stderr
    finally:
        contender.stop()
    return [tuple(map(float, text.split())) for text in done.stdout.splitlines()]


def figures(runs, column):
    """Median of the runs' medians and 99th percentiles, in milliseconds."""
    return {"median_ms": median([quantile([s[column] for s in run], 0.5) for run in runs]) / 1e3,
            "p99_ms": median([quantile([s[column] for s in run], 0.99) for run in runs]) / 1e3}


def shown(f):
    return f"{f['median_ms']:.2f} ms, p99 {f['p99_ms']:.2f}"


def latency(context):
    """relayd beside Postfix; "sent" is said in two ways, and both are judged."""
    target = (context.world.take(), 2500)
    runs = {}
    makers = [contenders.Relayd, contenders.Postfix]
    for run in range(context.runs):
        for make in makers[::(-1) ** run]:
            contender = make(context.world, target)
            samples = once(contender, target, context.scaled(MESSAGES[contender.name], 100))
            runs.setdefault(contender.name, []).append(samples)
            context.say(f"{contender.name}: {shown(figures([samples], 0))}")
    lines = []
    for column, name in ((0, "latency (from connect)"), (1, "latency (from the dot)")):
        ours, theirs = figures(runs["relayd"], column), figures(runs["Postfix"], column)
        ratio = ours["median_ms"] / theirs["median_ms"]
        met = ours["median_ms"] <= 1.5 and ours["p99_ms"] <= 6 and ratio <= 0.2
        lines.append(Line(name, shown(ours), "Postfix " + shown(theirs), ratio, "",
                          "<= 1.5 ms, p99 <= 6 ms, <= 0.2x", met,
                          {"relayd": ours, "Postfix": theirs}))
    if context.plot_dir:
        draw(context, runs)
    return lines


def draw(context, runs):
    """The share of messages delivered within so many milliseconds."""
    curves = {}
    for name, samples in runs.items():
        values = sorted(s[0] / 1e3 for run in samples for s in run)
        curves[name] = [(values[min(len(values) - 1, i * len(values) // 500)], i / 5)
                        for i in range(501)]
    context.say(svg.write(context.plot_dir / "bench-latency.svg", curves,
                          "One message at a time: from connect() to delivered",
                          "milliseconds", "% of messages", log_x=True))


ROWS = {"latency": latency}
