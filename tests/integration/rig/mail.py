"""Making test messages and looking at delivered ones. Messages are bytes with CRLF."""

import email
import email.policy
import itertools
import re

_serial = itertools.count(1)


def message(sender="a@src.test", to="b@dest.test", subject=None, body="Hello.\r\n", headers=(),
            ident=None):
    """A small complete message; ident ends up in Message-ID and Subject."""
    ident = ident or f"m{next(_serial)}"
    lines = [f"From: {sender}", f"To: {to}", f"Subject: {subject or 'test ' + ident}",
             "Date: Fri, 20 Nov 2026 10:00:00 +0000", f"Message-ID: <{ident}@src.test>", *headers]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + (body if isinstance(body, bytes) else body.encode())


def crlf(data):
    """Any line ends as CRLF (mailboxes on disk hold LF)."""
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def fields(data):
    """The header fields as (name, value) with folding kept, in order."""
    head = crlf(data).split(b"\r\n\r\n", 1)[0] + b"\r\n"
    found = re.findall(rb"^([!-9;-~]+):[ \t]?((?:.*\r\n)(?:[ \t].*\r\n)*)", head, re.M)
    return [(n.decode(), v.decode("utf-8", "surrogateescape").rstrip("\r\n")) for n, v in found]


def received(data):
    """The Received fields from the top, unfolded."""
    return [re.sub(r"\s+", " ", v).strip() for n, v in fields(data) if n.lower() == "received"]


def parse(data):
    return email.message_from_bytes(data, policy=email.policy.default)


def report(data):
    """A delivery report (RFC 3464) taken apart.

    Returns an object with: message (the whole), text (first part, decoded), status (the fields of
    the message block), recipients (list of field blocks), returned (bytes of the third part) and
    returned_type.
    """
    message_ = parse(data)
    assert message_.get_content_type() == "multipart/report", message_.get_content_type()
    assert message_.get_param("report-type") == "delivery-status"
    parts = list(message_.iter_parts())
    assert 2 <= len(parts) <= 3, [p.get_content_type() for p in parts]
    status = parts[1]
    assert status.get_content_type() in ("message/delivery-status",
                                         "message/global-delivery-status")
    blocks = status.get_payload()
    if isinstance(blocks, str):
        blocks = [email.message_from_string(b, policy=email.policy.default)
                  for b in blocks.strip().split("\n\n")]
    blocks = [b for b in blocks if b.keys()]

    class Report:
        pass

    report_ = Report()
    report_.message = message_
    if parts[0].get_content_type().startswith("multipart/"):
        report_.text = "\n".join(p.get_content() for p in parts[0].walk()
                                 if p.get_content_maintype() == "text")
    else:
        report_.text = parts[0].get_content()
    report_.status, report_.recipients = blocks[0], blocks[1:]
    report_.returned_type = parts[2].get_content_type() if len(parts) > 2 else None
    report_.returned = None
    if len(parts) > 2:
        payload = parts[2].get_payload()
        if isinstance(payload, list):
            report_.returned = payload[0].as_bytes()
        else:
            report_.returned = parts[2].get_payload(decode=True)
    return report_
