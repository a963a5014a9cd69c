"""The programs of tests/bench that measure one part by itself."""

import functools
import re
import subprocess

from rows import ends
from rows.report import Line

NAMES = ("dkim", "route", "classify", "store", "conn", "data")


def program(context, name):
    """Its lines, one after another, and the numbers in them by their words."""
    path = ends.program(name)
    arguments = context.replies if name == "classify" else []
    done = subprocess.run([path, *arguments], capture_output=True, text=True, cwd=path.parent,
                          timeout=ends.PATIENCE_S)
    shown = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        shown.append(f"exited {done.returncode} {done.stderr[-300:]}".rstrip())
    figures = {m.group(1): float(m.group(2)) for m in
               (re.fullmatch(r"(\w+) ([\d.]+)", line) for line in shown) if m}
    return [Line(name, "", text=shown, met=None if done.returncode == 0 else False,
                 details={"figures": figures} if figures else {})]


ROWS = {name: functools.partial(program, name=name) for name in NAMES}
