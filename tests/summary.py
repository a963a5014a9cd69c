#!/usr/bin/python3
"""What the JUnit files of a run say: failed tests, promises with --promises, and the last line.

    tests/summary.py DIRECTORY [--broken N] [--promises]

N is how many stages could not run at all. Exits with 1 when anything failed or nothing ran.
"""

import argparse
import collections
import glob
import pathlib
import sys
import xml.etree.ElementTree as xml


def cases(directory):
    """(stage, testcase) for everything that ran or failed."""
    for path in sorted(glob.glob(f"{directory}/*.xml")):
        for case in xml.parse(path).getroot().iter("testcase"):
            if case.find("skipped") is None and case.get("status") != "notrun":
                yield pathlib.Path(path).stem, case


def bad(case):
    return (case.find("failure") is not None or case.find("error") is not None
            or case.get("status") == "fail")


def promises(directory):
    """{promise: [cases, failures]}, in the order of their ids."""
    table = collections.defaultdict(lambda: [0, 0])
    for _, case in cases(directory):
        said = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "promise" in said:
            table[said["promise"]][0] += int(said["cases"])
            table[said["promise"]][1] += bad(case)
    return dict(sorted(table.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--broken", type=int, default=0)
    parser.add_argument("--promises", action="store_true")
    options = parser.parse_args()
    passed, failed = 0, options.broken
    for stage, case in cases(options.directory):
        if bad(case):
            failed += 1
            print(f"FAILED {stage}: {case.get('name')}")
        else:
            passed += 1
    if options.promises:
        print(f"{'promise':90} {'cases':>12} {'failures':>8}")
        for name, (n, failures) in promises(options.directory).items():
            print(f"{name[:90]:90} {n:>12,} {failures:>8}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
