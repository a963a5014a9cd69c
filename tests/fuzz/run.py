#!/usr/bin/python3
"""Run every libFuzzer target for a while on its corpus; a crash or a hang is a failure.

    tests/fuzz/run.py build/fuzz/fuzz [--seconds N] [--jobs N] [-k PATTERN] [--junit FILE]

The committed corpus of fuzz_NAME is tests/fuzz/<layer>/corpus/NAME (read only); what is found goes
to build/fuzz/corpus/NAME, and inputs that crash to build/fuzz/crashes.
"""

import argparse
import concurrent.futures
import glob
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RSS_MIB = 1024


def run(target, seconds):
    """(name, seconds taken, "" or what went wrong, executions)."""
    name = target.name.removeprefix("fuzz_")
    found = target.parent.parent / "corpus" / name
    crashes = target.parent.parent / "crashes"
    found.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    seeds = glob.glob(str(ROOT / "tests" / "fuzz" / "*" / "corpus" / name))
    dictionary = glob.glob(str(ROOT / "tests" / "fuzz" / "*" / f"{name}.dict"))
    begun = time.monotonic()
    done = subprocess.run(
        [target, found, *seeds, *(f"-dict={d}" for d in dictionary), f"-max_total_time={seconds}",
         f"-artifact_prefix={crashes}/{name}-", f"-rss_limit_mb={RSS_MIB}", "-timeout=10",
         "-print_final_stats=1"], capture_output=True, errors="replace",
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"})
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    return (target.name, time.monotonic() - begun,
            "" if done.returncode == 0 else done.stderr[-6000:],
            int(executed.group(1)) if executed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("-k", dest="pattern", default="")
    parser.add_argument("--junit")
    options = parser.parse_args()
    targets = [p for p in sorted(options.directory.glob("fuzz_*"))
               if os.access(p, os.X_OK) and re.search(options.pattern, p.name)]
    if not targets:
        sys.exit(f"no fuzz targets in {options.directory}")
    suite, failed = xml.Element("testsuite", name="fuzz"), 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, took, wrong, n in pool.map(lambda t: run(t, options.seconds), targets):
            print(f"{'FAILED' if wrong else 'ok':6} {name:30} {n:>12,} executions in {took:.0f} s")
            case = xml.SubElement(suite, "testcase", classname="fuzz", name=name, time=f"{took:.1f}")
            if wrong:
                failed += 1
                print(wrong)
                xml.SubElement(case, "failure").text = \
                    re.sub(r"[^\t\n\x20-\x7e]", "?", wrong)
    if options.junit:
        xml.ElementTree(suite).write(options.junit)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
