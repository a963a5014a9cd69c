"""The lines of the table, build/bench.json, and what is known of the machine."""

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import time

from rig.node import BUILD
from rig.proc import run

BUSY_QUIET = 0.05

HEAD = ("row", "ours", "peer", "ratio", "ceiling", "goal", "met")


@dataclasses.dataclass
class Line:
    """One line of the table: texts as they are shown, and all figures behind them."""

    row: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    ceiling: str = ""  # the same load without a relay, in this run
    goal: str = ""     # "" when nothing is promised
    met: bool | None = None
    details: dict = dataclasses.field(default_factory=dict)
    text: list = dataclasses.field(default_factory=list)  # shown below the table

    def cells(self):
        ratio = "" if self.ratio is None else f"{self.ratio:.{2 if self.ratio >= 0.1 else 3}f}x"
        met = {True: "yes", False: "NO", None: ""}[self.met]
        return (self.row, self.ours, self.peer, ratio, self.ceiling, self.goal, met)


def table(lines):
    """The lines as text, columns as wide as they need."""
    cells = [HEAD, *(line.cells() for line in lines if not line.text)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    shown = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
             for row in cells]
    below = [f"{line.row + ':' if i == 0 else '':10} {text}"
             for line in lines for i, text in enumerate(line.text)]
    return "\n".join([shown[0], "-" * (sum(widths) + 2 * len(widths) - 2), *shown[1:], *below])


def _first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    text = (done.stdout + done.stderr).strip()
    return text.splitlines()[0] if text else "?"


def machine(directory):
    """What the figures depend on beside the programs."""
    model = re.search(r"^model name\s*: (.*)$", open("/proc/cpuinfo").read(), re.M)
    return {"cpus": len(os.sched_getaffinity(0)), "cpu": model.group(1) if model else "?",
            "kernel": platform.release(),
            "queues_on": run("findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", directory).stdout.strip(),
            "relayd": str(BUILD), "postfix": _first_line("postconf", "-d", "mail_version"),
            "openssl": _first_line("openssl", "version")}


class Disturbance:
    """What others did to the figures: how busy the machine was before, and time that the hypervisor
    took away meanwhile."""

    def __init__(self):
        before = self._read()
        time.sleep(1)
        self._before = self._read()
        spent = [now - then for now, then in zip(self._before, before)]
        self.busy = 1 - (spent[3] + spent[4]) / max(1, sum(spent))  # idle, and waiting for a disk
        if self.busy > BUSY_QUIET:
            print(f"the machine is {self.busy:.0%} busy with something else: expect noise",
                  file=sys.stderr)

    @staticmethod
    def _read():
        with open("/proc/stat") as f:
            return [int(v) for v in f.readline().split()[1:9]]

    def figures(self):
        spent = [now - before for now, before in zip(self._read(), self._before)]
        return {"busy_before": self.busy, "stolen": spent[7] / max(1, sum(spent))}


def write(path, lines, facts):
    """build/bench.json."""
    report = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts,
              "rows": [dataclasses.asdict(line) for line in lines]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
