#!/usr/bin/python3
"""Verify signed messages with dkimpy: an implementation that shares nothing with ours.

usage: verify_dkim.py DIRECTORY

The directory holds *.eml (signed messages), `keys` (lines "NAME VALUE", the TXT records), and for
each message NAME.eml a file NAME.count with the number of signatures it must carry. Every signature
of every message has to verify. Prints each failure; exits 1 when there was one.
"""

import pathlib
import sys

import dkim


def main(directory):
    records = {}
    for line in (directory / "keys").read_text().splitlines():
        name, _, value = line.partition(" ")
        records[name] = value.encode()

    def lookup(name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        return records.get(name.rstrip("."))

    failures, verified = [], 0
    for path in sorted(directory.glob("*.eml")):
        message = path.read_bytes()
        want = int(path.with_suffix(".count").read_text())
        for index in range(want):
            try:
                good = dkim.DKIM(message).verify(idx=index, dnsfunc=lookup)
            except Exception as error:  # a verifier that gives up is a failure, too
                good = repr(error)
            if good is not True:
                failures.append(f"{path.name}: signature {index}: {good}")
            verified += 1
    for failure in failures:
        print(failure)
    print(f"{verified} signatures, {len(failures)} failures")
    return 1 if failures or verified == 0 else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
