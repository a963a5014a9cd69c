#!/usr/bin/python3
"""Read a delivery report with Python's email package and print what it says, one fact a line.

usage: read_dsn.py FILE

  max-line N            longest line, without CRLF
  bare-newlines N       CR or LF that is not CRLF
  defects N             what the parser found wrong, in all parts
  type T, report-type T
  header NAME: VALUE    of the report
  part N TYPE ENCODING
  text LINE             of the first part, decoded
  message NAME: VALUE   fields of the report as a whole
  rcpt N NAME: VALUE    fields of the Nth recipient
  original NAME: VALUE  header fields of what is returned
  original-body LINE
"""

import email
import email.policy
import pathlib
import re
import sys


def unfolded(value):
    return re.sub(r"\r?\n(?=[ \t])", "", str(value)).strip()


def show_fields(label, message):
    for name, value in message.items():
        print(f"{label} {name}: {unfolded(value)}")


def show_original(part):
    kind = part.get_content_type()
    if kind in ("message/rfc822", "message/global"):
        payload = part.get_payload()
        inner = payload[0] if isinstance(payload, list) else email.message_from_string(payload)
        show_fields("original", inner)
        for line in (inner.get_payload(decode=True) or b"").decode("utf-8", "replace").splitlines():
            print(f"original-body {line}")
    else:
        text = part.get_payload(decode=True)
        if text is None:
            text = str(part.get_payload()[0]).encode("utf-8", "surrogateescape")
        show_fields("original", email.message_from_bytes(text, policy=email.policy.SMTPUTF8))


def status_groups(part):
    """The groups of fields: the parser knows message/delivery-status; the other type is its twin."""
    payload = part.get_payload()
    if isinstance(payload, list) and part.get_content_type() == "message/delivery-status":
        return [group for group in payload if group.items()]
    raw = part.get_payload(decode=True) if not isinstance(payload, list) else payload[0].as_bytes()
    groups = raw.replace(b"\r\n", b"\n").strip().split(b"\n\n")
    return [email.message_from_bytes(group + b"\n\n", policy=email.policy.SMTPUTF8) for group in groups]


def main(path):
    raw = pathlib.Path(path).read_bytes()
    lines = raw.split(b"\r\n")
    print("max-line", max(len(line) for line in lines))
    print("bare-newlines", sum(line.count(b"\r") + line.count(b"\n") for line in lines))
    message = email.message_from_bytes(raw, policy=email.policy.SMTPUTF8)
    print("defects", sum(len(part.defects) for part in message.walk()))
    print("type", message.get_content_type())
    print("report-type", message.get_param("report-type"))
    show_fields("header", message)
    parts = message.get_payload()
    if not isinstance(parts, list):
        print("no parts")
        return 1
    for number, part in enumerate(parts):
        encoding = part.get("Content-Transfer-Encoding", "7bit")
        print("part", number, part.get_content_type(), encoding)
    for line in parts[0].get_content().splitlines():
        print("text", line)
    groups = status_groups(parts[1])
    show_fields("message", groups[0])
    for number, group in enumerate(groups[1:]):
        show_fields(f"rcpt {number}", group)
    show_original(parts[2])
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1]))
