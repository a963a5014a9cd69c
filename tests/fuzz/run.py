#!/usr/bin/python3
"""Run the libFuzzer targets on their corpora; a crash, a hang or a leak is a failure.

    tests/fuzz/run.py build/fuzz/fuzz [--seconds N | --executions N] [--jobs N] [-k PATTERN]
                      [--junit FILE]
    tests/fuzz/run.py build/fuzz/fuzz --gather
    tests/fuzz/run.py build/coverage/fuzz --coverage [--found]

--seconds runs each target for so long (60 when nothing is said). --executions divides a total among
the targets: their rates are measured first, each gets FLOOR, and the rest is divided so that
every target gets the same time. --gather chooses the committed corpora anew, of them and of what was
found. --coverage tells the lines of each file of ours that the committed corpora reach (--found: those
that were found, too). The committed corpus of fuzz_NAME is tests/fuzz/<layer>/corpus/NAME
(read only); what is found goes to build/fuzz/corpus/NAME, and inputs that crash to
build/fuzz/crashes.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUZZ = ROOT / "tests" / "fuzz"
RSS_MIB = 1024
INPUT_TIMEOUT = 10          # seconds for one input
FLOOR = 400_000             # executions that a target gets in any case (a quarter of its share
                            # when the total is small, and what a slow one makes in a slice)
MEASURE_SECONDS = 5         # to learn a target's rate
SLICE_SECONDS = 300         # a longer share is cut, so that both cores stay busy until the end
CORPUS_FILES, CORPUS_BYTES = 199, 250_000   # of a committed corpus
CORPUS_INPUT = 4096                         # bytes of one file of it
LENGTHS = {"smtpd_dialogue": 600, "smtpc_dialogue": 600}   # bytes of an input; libFuzzer's 4096 else
CORES = ("smtpd", "smtpc", "smtpd_dialogue", "smtpc_dialogue")
PROMISES = {
    False: "C12 any bytes into any parser: no crash, hang, leak or undefined behaviour",
    True: "C13 any bytes and dialogues into both SMTP cores: the same, and never out of step",
}


class Target:
    def __init__(self, path):
        self.path = path
        self.name = path.name.removeprefix("fuzz_")
        self.seeds = sorted(FUZZ.glob(f"*/corpus/{self.name}"))
        self.dictionaries = sorted(FUZZ.glob(f"*/{self.name}.dict"))
        self.found = path.parent.parent / "corpus" / self.name
        self.crashes = path.parent.parent / "crashes"
        self.executions, self.seconds, self.wrong = 0, 0.0, ""

    def fuzz(self, *limits):
        """Run it within libFuzzer's limits; adds to its counts, False when something is wrong."""
        self.found.mkdir(parents=True, exist_ok=True)
        self.crashes.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        done = subprocess.run(
            [self.path, self.found, *self.seeds, *(f"-dict={d}" for d in self.dictionaries),
             *([f"-max_len={LENGTHS[self.name]}"] if self.name in LENGTHS else []), *limits,
             f"-artifact_prefix={self.crashes}/{self.name}-", f"-rss_limit_mb={RSS_MIB}",
             f"-timeout={INPUT_TIMEOUT}", "-print_final_stats=1"],
            capture_output=True, errors="replace",
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1",
                 "UBSAN_OPTIONS": "print_stacktrace=1"})
        executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        took, n = time.monotonic() - begun, int(executed.group(1)) if executed else 0
        self.seconds += took
        self.executions += n
        if done.returncode != 0:
            self.wrong = done.stderr[-6000:]
        return n / took

    def merge(self, to, *options):
        """libFuzzer's choice of the inputs that reach something new, into `to`."""
        found = [self.found] if self.found.exists() else []
        length = LENGTHS.get(self.name, CORPUS_INPUT)
        subprocess.run([self.path, "-merge=1", f"-max_len={length}", *options, to, *self.seeds,
                        *found], check=True, capture_output=True)

    def gather(self):
        """Replace the committed corpus: crashes that became tests stay, the rest is chosen anew."""
        home = self.seeds[0] if self.seeds else next(FUZZ.glob(f"*/fuzz_{self.name}.c")) \
            .parent / "corpus" / self.name
        with tempfile.TemporaryDirectory() as text:
            chosen = pathlib.Path(text)
            self.merge(chosen, "-use_counters=0", "-use_value_profile=0")
            files = sorted(chosen.iterdir(), key=lambda f: f.stat().st_size)
            # Inputs that somebody gave a name stay; libFuzzer names its own by their SHA-1.
            named = [f for s in self.seeds for f in s.iterdir()
                     if not re.fullmatch("[0-9a-f]{40}", f.name)]
            size, kept = sum(f.stat().st_size for f in named), []
            for file in files[:CORPUS_FILES - len(named)]:
                size += file.stat().st_size
                if size > CORPUS_BYTES:
                    break
                kept.append(file)
            home.mkdir(parents=True, exist_ok=True)
            for old in home.iterdir():
                if old not in named:
                    old.unlink()
            for file in kept:
                shutil.copy(file, home)
            print(f"{self.name:20} {len(named):4} named, {len(kept):4} of {len(files):4} found")


def shares(targets, total, jobs):
    """{target: executions}: a floor, then the same time for all."""
    rates = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for target, rate in zip(targets, pool.map(
                lambda t: t.fuzz(f"-max_total_time={MEASURE_SECONDS}"), targets)):
            rates[target] = max(rate, 1)
    left = max(0, total - sum(t.executions for t in targets))
    floor = {t: min(FLOOR, left // (4 * len(targets)), int(rates[t] * SLICE_SECONDS))
             for t in targets}
    rest, together = left - sum(floor.values()), sum(rates.values())
    planned = {t: floor[t] + int(rest * rates[t] / together) + 1 for t in targets}
    minutes = sum(n / rates[t] for t, n in planned.items()) / jobs / 60
    for target in targets:
        print(f"{target.name:20} {rates[target]:9,.0f}/s {planned[target]:12,}", flush=True)
    print(f"{total:,} executions of {len(targets)} targets: about {minutes:.0f} minutes on {jobs} "
          "cores", flush=True)
    return planned, rates


def slices(planned, rates):
    """[(target, executions)], the long ones first."""
    cut = []
    for target, n in planned.items():
        pieces = max(1, round(n / rates[target] / SLICE_SECONDS))
        cut += [(target, n // pieces + 1)] * pieces
    return sorted(cut, key=lambda s: -s[1] / rates[s[0]])


def run(targets, options):
    if options.executions:
        planned, rates = shares(targets, options.executions, options.jobs)
        work = [(t, f"-runs={n}") for t, n in slices(planned, rates)]
    else:
        work = [(t, f"-max_total_time={options.seconds}") for t in targets]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda w: w[0].wrong or w[0].fuzz(w[1]), work))
    suite = xml.Element("testsuite", name="fuzz")
    for target in targets:
        print(f"{'FAILED' if target.wrong else 'ok':6} {target.path.name:30} "
              f"{target.executions:>12,} executions in {target.seconds:.0f} s")
        case = xml.SubElement(suite, "testcase", classname="fuzz", name=target.path.name,
                              time=f"{target.seconds:.1f}")
        properties = xml.SubElement(case, "properties")
        xml.SubElement(properties, "property", name="promise",
                       value=PROMISES[target.name in CORES])
        xml.SubElement(properties, "property", name="cases", value=str(target.executions))
        if target.wrong:
            print(target.wrong)
            xml.SubElement(case, "failure").text = re.sub(r"[^\t\n\x20-\x7e]", "?", target.wrong)
    print(f"{sum(t.executions for t in targets):,} executions")
    if options.junit:
        xml.ElementTree(suite).write(options.junit)
    return any(t.wrong for t in targets)


def coverage(targets, everything):
    """Lines of our code that the committed corpora (or everything found too) reach, by file."""
    if not shutil.which("llvm-cov"):
        sys.exit("no llvm-cov: scripts/setup --coverage")
    if "coverage" not in str(targets[0].path):
        sys.exit("the targets of build/coverage, please: scripts/build coverage")
    with tempfile.TemporaryDirectory() as text:
        place = pathlib.Path(text)
        for target in targets:
            found = ROOT / "build" / "fuzz" / "corpus" / target.name
            found = [found] if everything and found.exists() else []
            subprocess.run([target.path, "-runs=0", *target.seeds, *found], check=True,
                           capture_output=True,
                           env={**os.environ, "LLVM_PROFILE_FILE": f"{place}/{target.name}.raw"})
        subprocess.run(["llvm-profdata", "merge", "-sparse", "-o", place / "all",
                        *place.glob("*.raw")], check=True)
        objects = [f"-object={t.path}" for t in targets]
        done = subprocess.run(["llvm-cov", "export", "-summary-only", f"-instr-profile={place}/all",
                               *objects], check=True, capture_output=True)
    files = json.loads(done.stdout)["data"][0]["files"]
    rows = []
    for file in files:
        path = pathlib.Path(file["filename"])
        lines = file["summary"]["lines"]
        if path.is_relative_to(ROOT / "tests") or path.suffix != ".c":
            continue
        rows.append((str(path.relative_to(ROOT)), lines["covered"], lines["count"]))
    for name, covered, count in sorted(rows):
        print(f"{name:40} {covered:6} of {count:6} lines {100 * covered / count:6.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--executions", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--gather", action="store_true")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--found", action="store_true", help="--coverage: of what was found, too")
    parser.add_argument("-k", dest="pattern", default="")
    parser.add_argument("--junit")
    options = parser.parse_args()
    targets = [Target(p.resolve()) for p in sorted(options.directory.glob("fuzz_*"))
               if os.access(p, os.X_OK) and re.search(options.pattern, p.name)]
    if not targets:
        sys.exit(f"no fuzz targets in {options.directory}")
    if options.gather:
        for target in targets:
            target.gather()
    elif options.coverage:
        coverage(targets, options.found)
    else:
        sys.exit(run(targets, options))


if __name__ == "__main__":
    main()
