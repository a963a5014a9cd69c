"""A table of misbehaving hosts, all at once against one node: each row its own domain and host.

    ROWS = [
        Row("greeting-421", DEFERRED, phase="greeting").at("greeting", "421 4.3.2 busy"),
        Row("dot-two-replies", DELIVERED).at("dot", Raw(b"250 ok\r\n250 ok\r\n", 250)),
    ]
    stage = Stage(world, promise)
    stage.run(ROWS)

Each row gets one message; whatever the host does, the node must come to the outcome of the row,
tell the sender once or not at all, deliver once or not at all, keep its log clean, and lose no
descriptor; meanwhile mail for a good host flows. All rows that fail are told together.
"""

import os
import re

from rig import mail
from rig.node import merge, sanitized
from rig.proc import rss_kib
from rig.wait import DEFAULT, PATIENCE, until

DELIVERED, DEFERRED, FAILED = "delivered", "deferred", "failed"
ANY = -1

# Long enough for a busy machine, whose hosts are Python.
DEADLINE_S = 2.0 * PATIENCE
SHORT = {**{what: f"{DEADLINE_S * 1000:.0f}ms" for what in ("connect", "greeting", "ehlo", "starttls", "auth", "mail",
                                        "rcpt", "data", "final_dot", "quit")},
         "block": f"{DEADLINE_S * 1000:.0f}ms"}
CONFIG = {"queue": {"retry": {"intervals": ["1h"]}}, "timeouts": SHORT,
          "shaping": {"default": {"max_rate": "1000/s"}}}


class Row:
    """One vector. fields: of the attempt line, None for "whatever"; see check()."""

    def __init__(self, name, outcome, rcpts=("b",), params="", message=None, next_mx=None,
                 options=None, mails=None, sessions=None, also=None, rcpt_fates=None, **fields):
        """rcpt_fates: {local part: outcome} where they differ; next_mx: True: a second host gets
        the mail when this one does not; mails: how often the host may take it (default: once when
        delivered, else never; ANY); sessions: how many connections; also: a further check of
        (stage, row); message: what is sent."""
        self.name, self.outcome, self.fields = name, outcome, fields
        self.rcpts, self.params, self.next_mx = rcpts, params, next_mx
        self.message, self.also = message, also
        self.mails, self.n_sessions = mails, sessions
        self.fates = rcpt_fates or {}
        self.options = options or {}
        self.answers = []
        self.start = True
        self.mx = self.second = self.ident = self.line = None

    def at(self, stage, reply, **options):
        self.answers.append((stage, reply, options))
        return self

    @property
    def domain(self):
        return f"{self.name}.test"

    def fate(self, rcpt):
        return self.fates.get(rcpt, self.outcome)


def forbidden(text):
    """The first octet of a log that a terminal or another program might act on."""
    return re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", text)


def files(pid):
    """What its descriptors lead to."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass  # closed while we looked
    return sorted(found)


def n_files(pid):
    return len(files(pid))


class Stage:
    def __init__(self, world, promise, config=None):
        self.world, self.promise = world, promise
        with world.dns:
            self.sender_mx = world.mx("src.test")
            self.good = world.mx("good.test")
        self.node = world.node(config=merge(CONFIG, config or {}))
        self.pid = self.node.pid
        self.n_files = n_files(self.pid) + 1  # one may be a question to DNS
        self._good("warm-up")
        self.rss = rss_kib(self.pid)

    def _good(self, ident):
        self.node.submit("a@src.test", "b@good.test", mail.message(ident=ident))
        found = f"<{ident}@src.test>".encode()
        until(lambda: any(found in m.data for m in list(self.good.mails)), DEFAULT,
              f"good mail ({ident}) beside the others")

    def run(self, rows, timeout=DEFAULT):
        assert len({r.name for r in rows}) == len(rows), "two rows of one name"
        with self.world.dns:
            for row in rows:
                self._set_up(row)
        for row in rows:
            self._submit(row)
        self._good(f"beside-{rows[0].name}")
        wrong = []
        for row in rows:
            try:
                self._check(row, timeout)
                self.promise.case()
            except AssertionError as e:
                wrong.append(f"{row.name}: {e}")
        wrong += self._check_all(rows)
        assert not wrong, f"{len(wrong)} of {len(rows)} rows\n" + "\n".join(wrong)

    # -- before

    def _set_up(self, row):
        row.mx = self.world.remote(f"mx.{row.domain}", start=row.start, **row.options)
        for stage, reply, options in row.answers:
            row.mx.answer(stage, reply, **options)
        self.world.dns.mx(row.domain, (10, row.mx.hostname))
        if row.next_mx:
            row.second = self.world.remote(f"mx2.{row.domain}")
            self.world.dns.mx(row.domain, (20, row.second.hostname))

    def _submit(self, row):
        data = row.message or mail.message(ident=row.name)
        with self.node.client() as client:
            client.ehlo()
            row.ident = client.submit(f"{row.name}@src.test",
                                      [r if "@" in r else f"{r}@{row.domain}" for r in row.rcpts],
                                      data, row.params)

    # -- after

    def _check(self, row, timeout):
        for rcpt in row.rcpts:
            address = rcpt if "@" in rcpt else f"{rcpt}@{row.domain}"
            line = self.node.log.wait(event="attempt", msg=row.ident, rcpt=address,
                                      timeout=timeout)
            row.line = line
            said = {k: line.get(k) for k in ("outcome", "phase", "code", "enh", "text")}
            assert line["outcome"] == row.fate(rcpt), f"{rcpt}: {said}"
            for field, value in row.fields.items():
                assert line.get(field) == value, f"{field}={value} expected: {said}"
        self._check_hosts(row)
        if row.also:
            row.also(self, row)

    def _check_hosts(self, row):
        delivered = [r for r in row.rcpts if row.fate(r) == DELIVERED]
        got = sum(len(h.mails) for h in (row.mx, row.second) if h)
        if row.mails == ANY:
            pass
        elif row.mails is not None:
            assert len(row.mx.mails) == row.mails, f"{len(row.mx.mails)} messages at the host"
        else:
            assert got == (1 if delivered else 0), f"{got} messages at the hosts"
        if row.next_mx:
            assert len(row.second.mails) == 1, "the next host was not tried"
        if row.n_sessions is not None:
            assert len(row.mx.sessions) == row.n_sessions, f"{len(row.mx.sessions)} sessions"
        for rcpt in delivered if row.mails is None else []:
            address = rcpt if "@" in rcpt else f"{rcpt}@{row.domain}"
            n = sum(len(h.received_for(address)) for h in (row.mx, row.second) if h)
            assert n == 1, f"{rcpt} was delivered {n} times"

    def reports(self, row):
        return self.sender_mx.received_for(f"{row.name}@src.test")

    def waiting(self, row):
        return {r["rcpt"] for r in self.node.queue("--domain", row.domain)}

    def _check_all(self, rows):
        wrong = []
        for row in rows:
            failed = any(row.fate(r) == FAILED for r in row.rcpts)
            try:
                if failed:
                    until(lambda row=row: self.reports(row), DEFAULT, "a report to the sender")
                assert len(self.reports(row)) == int(failed), f"{len(self.reports(row))} reports"
                expected = {f"{r}@{row.domain}" for r in row.rcpts if row.fate(r) == DEFERRED}
                # The outcome is told a little before it is committed.
                until(lambda row=row, expected=expected: self.waiting(row) == expected, DEFAULT,
                      f"the queue to hold {expected}, not {self.waiting(row)}")
                for rcpt in row.rcpts:
                    n = len(self.node.log.all(event="attempt", msg=row.ident,
                                              rcpt=f"{rcpt}@{row.domain}"))
                    assert n <= 1, f"{n} attempts for {rcpt}"
            except AssertionError as e:
                wrong.append(f"{row.name}: {e}")
        for check in (self.check_log, self.check_files, lambda: self._good(f"end-{rows[0].name}")):
            try:
                check()
            except AssertionError as e:
                wrong.append(str(e))
        return wrong

    def check_log(self):
        bad = forbidden(self.node.log_file.read_bytes())
        assert not bad, f"the log holds {bad.group(0)!r}"

    def check_files(self):
        """Once nobody keeps a connection open, nothing is left of it."""
        for part in self.world._parts:
            if hasattr(part, "sessions"):
                part.hang_up()
        try:
            until(lambda: n_files(self.pid) <= self.n_files, DEFAULT, "descriptors to be closed")
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.n_files} were open, now {files(self.pid)}") from e

    def check_memory(self, kib):
        """What stays in use after hostile talk; a sanitizer's figures mean nothing."""
        if not sanitized():
            grown = rss_kib(self.pid) - self.rss
            assert grown <= kib, f"memory grew by {grown} KiB"
