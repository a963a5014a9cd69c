"""A client that sends exactly what a test says, and shows exactly what was answered."""

import base64
import collections
import re
import socket
import ssl

from rig.wait import PATIENCE


class Reply(collections.namedtuple("Reply", "code lines")):
    """One SMTP reply. text is all of it, lines joined by a newline, codes left out."""

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def queued_id(self):
        """The id in '250 2.0.0 queued as ID'."""
        match = re.fullmatch(r"2\.0\.0 queued as (\S+)", self.text)
        assert self.code == 250 and match, f"not accepted: {self}"
        return match.group(1)

    def __str__(self):
        return f"{self.code} {self.text}"


class Closed(Exception):
    """The server closed the connection instead of answering."""


def insecure_context(certificate=None):
    """A TLS client context that trusts every server; certificate: rig.certs.Certificate to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    return context


class Client:
    def __init__(self, address, port=25, source=None, timeout=30, implicit_tls=None, greet=True,
                 first=b""):
        """first: bytes sent before the greeting is read (early talkers, PROXY headers)."""
        self.socket = socket.create_connection(
            (address, port), timeout * PATIENCE, source_address=(source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = b""
        self.tls = None
        if first:
            self.send(first)
        if implicit_tls:
            self.wrap(implicit_tls)
        self.greeting = self.reply() if greet else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def wrap(self, context):
        self.socket = context.wrap_socket(self.socket, server_hostname="relay.test")
        self.tls = self.socket.version()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def _line(self):
        while b"\n" not in self._input:
            try:
                more = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLError) as e:
                raise Closed(str(e)) from e
            if not more:
                raise Closed("end of stream" + (f" after {self._input!r}" if self._input else ""))
            self._input += more
        line, self._input = self._input.split(b"\n", 1)
        assert line.endswith(b"\r"), f"a reply line without CR: {line!r}"
        return line[:-1].decode("utf-8", "replace")

    def reply(self):
        lines = []
        while True:
            line = self._line()
            assert re.match(r"[2-5]\d\d([ -]|$)", line), f"not a reply line: {line!r}"
            lines.append(line[4:])
            if line[3:4] != "-":
                return Reply(int(line[:3]), lines)

    def cmd(self, line):
        self.send((line if isinstance(line, bytes) else line.encode()) + b"\r\n")
        return self.reply()

    def ehlo(self, name="client.test"):
        """Keywords of the EHLO answer: {KEYWORD: parameters}."""
        reply = self.cmd(f"EHLO {name}")
        assert reply.code == 250, str(reply)
        return {line.split(" ")[0].upper(): line.partition(" ")[2] for line in reply.lines[1:]}

    def starttls(self, context=None):
        reply = self.cmd("STARTTLS")
        if reply.code == 220:
            self.wrap(context or insecure_context())
        return reply

    def auth_plain(self, user, password):
        token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return self.cmd(f"AUTH PLAIN {token}")

    def mail(self, sender, params=""):
        return self.cmd(f"MAIL FROM:<{sender}>{' ' + params if params else ''}")

    def rcpt(self, rcpt, params=""):
        return self.cmd(f"RCPT TO:<{rcpt}>{' ' + params if params else ''}")

    def data(self, message):
        """DATA, the message (bytes with CRLF) dot-stuffed, and the final dot; the last reply."""
        reply = self.cmd("DATA")
        if reply.code != 354:
            return reply
        stuffed = re.sub(rb"(^|\r\n)\.", rb"\1..", message)
        self.send(stuffed + (b"" if stuffed.endswith(b"\r\n") else b"\r\n") + b".\r\n")
        return self.reply()

    def quit(self):
        try:
            return self.cmd("QUIT")
        except (Closed, OSError):
            return None  # the server may close first; nothing depends on it
        finally:
            self.close()

    def closed(self):
        """True when the server has closed; fails when it says something or keeps it open."""
        try:
            line = self._line()
        except Closed:
            return True
        raise AssertionError(f"expected the end of the session, got {line!r}")

    def submit(self, sender, rcpts, message, params=""):
        """One transaction in which everything is accepted; the id of the queued message."""
        reply = self.mail(sender, params)
        assert reply.code == 250, str(reply)
        for rcpt in [rcpts] if isinstance(rcpts, str) else rcpts:
            address, rcpt_params = rcpt if isinstance(rcpt, tuple) else (rcpt, "")
            reply = self.rcpt(address, rcpt_params)
            assert reply.code == 250, f"{address}: {reply}"
        return self.data(message).queued_id


def submit(address, port, sender, rcpts, message, params="", source=None):
    """Connect, send one message, QUIT; the id of the queued message."""
    with Client(address, port, source=source) as client:
        client.ehlo()
        ident = client.submit(sender, rcpts, message, params)
        client.quit()
        return ident
