"""Hostile clients against one node: rows of what is sent and what must be answered, and the books.

    bench = Bench(world, promise)
    bench.vector("DATA before MAIL", EHLO, (b"DATA\\r\\n", "503"))
    bench.settle()

After every vector the session is in step (RSET, NOOP and QUIT are answered once each, and nothing
else comes) or closed by design (the last thing expected is CLOSED), and the daemon lives. At the
end settle() holds the replies against what arrived: each `queued as ID` came exactly once, nothing
else came, nothing bare or NUL was sent on, every signature verifies, every log line is an event.
"""

import re

import dkim

from rig import dkimkeys, mail, smtp
from rig.node import merge

CLOSED = object()
EHLO = (b"EHLO client.test\r\n", "250")
MAIL = (b"MAIL FROM:<a@src.test>\r\n", "250")
RCPT = (b"RCPT TO:<b@dest.test>\r\n", "250")
DATA = (b"DATA\r\n", "354")
START = (EHLO, MAIL, RCPT)
MESSAGE = mail.message(body=b"first\r\n")
SENT = (MESSAGE + b".\r\n", "250 2.0.0 queued as ")

HIDDEN = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@dest.test>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n.\r\n"

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")
_ID = re.compile(rb"^Received: [^;]*?\s+id ([^\s;]+)", re.S)


def bare(data):
    """The first CR or LF that stands alone, or NUL, with its surroundings; None when clean."""
    found = _BARE.search(data)
    return data[max(0, found.start() - 20):found.end() + 20] if found else None


def queued_id(message):
    """The id in the newest Received field of a message that a node has sent."""
    found = _ID.match(message[message.index(b"Received: "):])
    assert found, message[:300]
    return found.group(1).decode()


class Bench:
    """A node whose mail from src.test is signed, and an MX for dest.test that takes everything."""

    def __init__(self, world, promise, config=None, tls=False, address=None, kind="ed25519"):
        self.world, self.promise = world, promise
        self.mx = world.mx("dest.test")
        key = world.key("src.test", "cn", kind)
        base = {"dkim": [{"domains": ["src.test"], "key_file": str(key.path)}],
                "limits": {"sessions_per_client": 2000, "message_size": "4MiB"}, "log": {"level": "debug"}}
        if tls:
            certificate = world.ca.issue("smtp-cn.relay.test")
            base["tls"] = {"certificate_file": certificate.cert_file,
                           "private_key_file": certificate.key_file}
        self.node = world.node(address=address, config=merge(base, config or {}))
        self._pid = self.node.pid
        self.promised, self.dropped = [], 0

    # -- one vector

    def client(self, tls=False, **options):
        session = self.node.client(**options)
        if tls:
            session.ehlo()
            assert session.starttls().code == 220
        return session

    def note(self, reply):
        """Every reply goes through here: what it promises is written down."""
        if reply.code == 250 and "queued as" in reply.text:
            self.promised.append(reply.queued_id)
        return reply

    def play(self, session, name, steps):
        """Steps (bytes, expected ...): an expected text begins the reply, `|` separates choices."""
        sent = b""
        for data, *expected in steps:
            sent += data
            try:
                session.send(data)
            except OSError:
                assert CLOSED in expected, f"{name}: closed while {data[:80]!r} was sent"
            for want in expected:
                if want is CLOSED:
                    assert session.closed(), name
                    return False
                try:
                    reply = self.note(session.reply())
                except smtp.Closed as e:
                    raise AssertionError(f"{name}: closed ({e}), expected {want} to {sent[-200:]!r}")
                assert any(str(reply).startswith(w) for w in want.split("|")), (
                    f"{name}: {reply}, expected {want} to {sent[-200:]!r}")
        return True

    def in_step(self, session, name):
        """RSET, NOOP and QUIT have one answer each, and nothing comes before, between or behind."""
        for command, code in (("RSET", 250), ("NOOP", 250), ("QUIT", 221)):
            reply = session.cmd(command)
            assert reply.code == code and "queued" not in reply.text, f"{name}: {command}: {reply}"
        assert session.closed(), name

    def vector(self, name, *steps, tls=False, **options):
        """Play it; then the session must be in step, unless it ended as the last step says."""
        with self.client(tls, **options) as session:
            if self.play(session, name, flat(steps)):
                self.in_step(session, name)
        self.promise.case()
        assert self.node.running(), f"{name}: relayd is gone"

    # -- the end

    def settle(self, rcpts=("b@dest.test",), sender="a@src.test", all_signed=True):
        """Hold what was promised against what arrived; returns the messages by id.

        all_signed: mail from src.test without a signature must be in the log with the reason.
        """
        assert self.node.pid == self._pid and self.node.running()
        mails = self.mx.wait_mail(len(self.promised)) if self.promised else self.mx.mails
        self.node.wait_empty()
        mails = list(self.mx.mails)
        ids = [queued_id(m.data) for m in mails]
        assert sorted(ids) == sorted(self.promised), "what arrived is not what was promised"
        for m in mails:
            assert rcpts is None or set(m.rcpts) <= set(rcpts), f"{m} {m.rcpts}"
            assert sender is None or m.sender == sender, m
            assert not bare(m.raw), f"sent on: {bare(m.raw)}"
        self.assert_signed(mails, all_signed)
        self.assert_log()
        return dict(zip(ids, mails))

    def assert_signed(self, mails, all_signed):
        """E08: signed and valid, or said to be unsigned in the log."""
        unsigned = " ".join(e["text"] for e in self.node.log.all(event="unsigned"))
        for m in mails:
            try:
                signatures = dkimkeys.verify(m.data, self.world.dns)
            except dkim.MessageFormatError:  # a header with a line that is no field: no verifier reads it
                assert b"DKIM-Signature" not in m.data, m.data[:1500]
                signatures = []
            bad = [s for s in signatures if not s.valid]
            assert not bad, f"{bad}: {m.data[:1500]}"
            head = m.data.partition(b"\r\n\r\n")[0]
            wanted = re.search(rb"^From:[^\r]*@src\.test", head, re.M) is not None
            assert signatures or not (wanted and all_signed) or queued_id(m.data) in unsigned, m.data[:1500]

    def assert_log(self):
        """Each line is one event of ours, whatever clients have said."""
        for line in self.node.log.lines():
            assert re.match(r"time=\S+ level=\w+ event=\w+ node=cn ", line), f"no event: {line!r}"
            odd = [c for c in line if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029"]
            assert not odd, f"control characters {odd} in {line!r}"


def flat(steps):
    """Rows may hold rows: a step is a tuple whose first item is bytes."""
    for step in steps:
        if step and isinstance(step[0], bytes):
            yield step
        else:
            yield from flat(step)

