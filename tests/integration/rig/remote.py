"""A scripted SMTP server: behaves well until a test tells it how to misbehave.

    mx = world.remote()
    mx.answer("rcpt", "452 4.5.3 too many", times=1, match="y@")
    mx.answer("dot", CLOSE)

Stages: greeting, ehlo, helo, starttls, auth, mail, rcpt, data, dot, rset, noop, quit. An answer is
a reply text (lines joined by a newline), one of the constants below, Raw bytes, or a function of
the session that returns one of these (or None, when it has done everything itself).
"""

import base64
import re
import select
import socket
import ssl
import struct
import threading

from rig.wait import DEFAULT, until

CLOSE = object()    # close the connection properly
RESET = object()    # close it with RST
SILENCE = object()  # never answer; the connection stays open


class Raw:
    """Exactly these bytes, or pieces of them one after another, `every` seconds apart.

    code: what the reply means to this server: 250 at "dot" is a message taken, at "mail" a
    transaction begun. then: CLOSE, RESET or SILENCE behind the last piece.
    """

    def __init__(self, pieces, code=0, every=0.0, then=None):
        self.pieces, self.code, self.every, self.then = pieces, code, every, then

    def __call__(self, session):
        pieces = [self.pieces] if isinstance(self.pieces, bytes) else self.pieces
        for i, piece in enumerate(pieces() if callable(pieces) else pieces):
            if i > 0 and self.every and session.remote._stopping.wait(self.every):
                raise _End
            session.send(piece)
            session.n_sent += len(piece)
        return self.code if self.then is None else self.then


def octets(data):
    """One by one."""
    return [data[i:i + 1] for i in range(len(data))]


class Mail:
    """One transaction that was answered 2xx at the dot."""

    def __init__(self, sender, params):
        self.sender, self.params = sender, params
        self.rcpts, self.rcpt_params = [], {}
        self.data = b""        # as sent, dots unstuffed, CRLF
        self.raw = b""         # as sent, dots stuffed
        self.tls = None        # (version, cipher) or None
        self.auth = None       # user name
        self.helo = self.peer = self.connection = None

    def __repr__(self):
        return f"Mail({self.sender} -> {self.rcpts}, {len(self.data)} bytes)"


class Session:
    """One connection to the remote, in a thread of its own."""

    def __init__(self, remote, sock, peer, number):
        self.remote, self.socket, self.peer, self.number = remote, sock, peer, number
        self.commands = []  # every command line
        self.helo = self.tls = self.auth = self.mail = self.offered = None
        self.n_sent = 0     # octets of Raw answers
        self.ended = False  # the connection is closed, by whomever
        self._input = b""

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def readline(self):
        """One line without its CRLF; None at the end of the stream. A bare LF is kept in it."""
        while b"\r\n" not in self._input:
            more = self.socket.recv(1 << 16)
            if not more:
                return None
            self._input += more
        line, self._input = self._input.split(b"\r\n", 1)
        return line

    def read_data(self):
        """A message up to CRLF.CRLF, still dot-stuffed; None when the stream ends before."""
        if self._input.startswith(b".\r\n"):
            self._input = self._input[3:]
            return b""
        scanned = 0
        while True:
            end = self._input.find(b"\r\n.\r\n", max(0, scanned - 5))
            if end >= 0:
                data, self._input = self._input[:end + 2], self._input[end + 5:]
                return data
            scanned = len(self._input)
            more = self.socket.recv(1 << 18)
            if not more:
                return None
            self._input += more

    def finish(self, how):
        if how is RESET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self.socket.close()


class _End(Exception):
    pass


class Remote:
    def __init__(self, address, port=25, hostname="mx.test", certificate=None, implicit=False,
                 extensions=("PIPELINING", "8BITMIME", "SIZE 104857600", "SMTPUTF8", "DSN",
                             "ENHANCEDSTATUSCODES"), auth=None, client_ca=None, script=None,
                 receive_buffer=None):
        """auth: {user: password} offers AUTH PLAIN LOGIN; script: a function of the session that
        replaces the protocol altogether; client_ca: asks for a client certificate;
        receive_buffer: octets that the kernel takes for us while nothing is read."""
        self.address, self.port, self.hostname = address, port, hostname
        self.extensions, self.auth, self.script = list(extensions), auth, script
        self.implicit, self._context = implicit, None
        self.receive_buffer = receive_buffer
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate.cert_file, certificate.key_file)
            if client_ca:
                self._context.load_verify_locations(client_ca)
                self._context.verify_mode = ssl.CERT_OPTIONAL
        self.mails, self.sessions = [], []
        self.on_mail = None  # called with each accepted Mail, in the session's thread
        self._answers, self._lock = [], threading.Lock()
        self._listener = None
        self._stopping = threading.Event()

    # -- life

    def start(self):
        self._stopping.clear()
        self._listener = socket.create_server((self.address, self.port), backlog=512,
                                              reuse_port=False)
        if self.receive_buffer:  # each accepted socket inherits it
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self):
        """Port closed, connections reset: the host is down until start()."""
        self._stopping.set()
        if self._listener:
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self):
        """Every connection ends; new ones are taken."""
        for session in list(self.sessions):
            try:
                session.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    close = stop

    def logs(self):
        return []

    # -- the test's side

    def answer(self, stage, reply, times=None, match=None):
        """From now on (or `times` times) answer this at a stage; match is searched in the command.

        The rule given last is tried first.
        """
        with self._lock:
            self._answers.insert(0, [stage, reply, times, match])

    def behave(self):
        with self._lock:
            self._answers.clear()

    def commands(self):
        return [c for s in list(self.sessions) for c in s.commands]

    def received_for(self, rcpt):
        return [m for m in list(self.mails) if rcpt in m.rcpts]

    def wait_mail(self, count=1, timeout=DEFAULT, rcpt=None):
        """The first accepted message; with count=N the list of at least N."""
        def found():
            mails = self.received_for(rcpt) if rcpt else list(self.mails)
            return mails if len(mails) >= count else None

        mails = until(found, timeout, f"{count} message(s) at {self.hostname}" +
                      (f" for {rcpt}" if rcpt else ""))
        return mails[0] if count == 1 else mails

    def wait_command(self, pattern, timeout=DEFAULT, count=1):
        def found():
            hits = [c for c in self.commands() if re.search(pattern, c, re.I)]
            return hits if len(hits) >= count else None

        return until(found, timeout, f"{count} command(s) /{pattern}/ at {self.hostname}")

    def wait_sessions(self, count, timeout=DEFAULT):
        return until(lambda: len(self.sessions) >= count and list(self.sessions), timeout,
                     f"{count} connection(s) to {self.hostname}")

    # -- the protocol

    def _accept(self, listener):
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            session = Session(self, sock, peer, len(self.sessions))
            self.sessions.append(session)
            threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    def _serve(self, session):
        try:
            session.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.implicit:
                self._handshake(session)
            if self.script:
                self.script(session)
            else:
                self._dialogue(session)
        except (_End, OSError):
            pass  # the peer has gone, or the script has ended the session
        finally:
            session.ended = True
            try:
                session.socket.close()
            except OSError:
                pass

    def _handshake(self, session):
        session.socket = self._context.wrap_socket(session.socket, server_side=True)
        session.tls = (session.socket.version(), session.socket.cipher()[0])

    def _choose(self, stage, text, default):
        with self._lock:
            for rule in self._answers:
                if rule[0] != stage or rule[2] == 0 or (rule[3] and not re.search(rule[3], text)):
                    continue
                if rule[2] is not None:
                    rule[2] -= 1
                return rule[1]
        return default

    def _say(self, session, stage, default, text=""):
        """Carry out the answer of this stage; returns its code, or 0 when nothing was said."""
        return self._carry_out(session, self._choose(stage, text, default))

    def _carry_out(self, session, reply):
        while callable(reply):
            reply = reply(session)
        if reply is None:
            return 0
        if isinstance(reply, int):
            return reply  # of Raw: it is said
        if reply is SILENCE:
            self._wait_for_the_end(session)
        if reply is CLOSE or reply is RESET:
            session.finish(reply)
            raise _End
        lines = reply.split("\n")
        code = lines[0][:3]
        texts = [lines[0][4:]] + lines[1:]
        out = [f"{code}{' ' if i == len(texts) - 1 else '-'}{t}" for i, t in enumerate(texts)]
        session.send("".join(line + "\r\n" for line in out))
        return int(code)

    def _wait_for_the_end(self, session):
        """Say nothing, read nothing, until the peer hangs up (or this host is stopped)."""
        poll = select.poll()
        poll.register(session.socket, select.POLLRDHUP)
        while not self._stopping.is_set() and not poll.poll(100):
            pass
        raise _End

    def _dialogue(self, session):
        if self._say(session, "greeting", f"220 {self.hostname} ready") >= 400:
            default = "503 5.5.1 go away"
        else:
            default = None
        while True:
            raw = session.readline()
            if raw is None:
                return
            line = raw.decode("utf-8", "surrogateescape")
            session.commands.append(line)
            verb = line.split(" ")[0].upper()
            if default and verb != "QUIT":
                session.send(default + "\r\n")
                continue
            handler = getattr(self, "_do_" + verb.lower(), None)
            if handler:
                handler(session, line)
            else:
                self._say(session, verb.lower(), "500 5.5.2 what?", line)

    def _do_ehlo(self, session, line):
        offers = list(self.extensions)
        if self._context and not session.tls:
            offers.append("STARTTLS")
        if self.auth and session.tls:
            offers.append("AUTH PLAIN LOGIN")
        code = self._say(session, "ehlo", "\n".join([f"250 {self.hostname}", *offers]), line)
        if code == 250:
            session.helo, session.mail = line[5:], None

    def _do_helo(self, session, line):
        if self._say(session, "helo", f"250 {self.hostname}", line) == 250:
            session.helo, session.mail = line[5:], None

    def _do_starttls(self, session, line):
        default = "220 2.0.0 go" if self._context else "502 5.5.1 no"
        if self._say(session, "starttls", default, line) == 220 and self._context:
            session._input = b""
            self._handshake(session)
            session.helo = None

    def _do_auth(self, session, line):
        words = line.split(" ")
        user = password = ""
        if words[1].upper() == "PLAIN":
            if len(words) < 3:
                session.send("334 \r\n")
                words.append(session.readline().decode())
            _, user, password = base64.b64decode(words[2]).decode().split("\0")
        else:
            if len(words) > 2:
                user = base64.b64decode(words[2]).decode()
            else:
                session.send("334 VXNlcm5hbWU6\r\n")
                user = base64.b64decode(session.readline()).decode()
            session.send("334 UGFzc3dvcmQ6\r\n")
            password = base64.b64decode(session.readline()).decode()
        good = (self.auth or {}).get(user) == password
        default = "235 2.7.0 welcome" if good else "535 5.7.8 wrong user or password"
        if self._say(session, "auth", default, line) == 235:
            session.auth = user

    @staticmethod
    def _path(line):
        match = re.match(r"[^<]*<((?:[^\"<>]|\"(?:[^\"\\]|\\.)*\")*)>\s*(.*)$", line)
        return (match.group(1), match.group(2)) if match else ("", "")

    def _do_mail(self, session, line):
        sender, params = self._path(line)
        if self._say(session, "mail", "250 2.1.0 ok", line) == 250:
            session.mail = Mail(sender, params)

    def _do_rcpt(self, session, line):
        rcpt, params = self._path(line)
        if session.mail is None:
            session.send("503 5.5.1 MAIL first\r\n")
        elif self._say(session, "rcpt", "250 2.1.5 ok", line) in (250, 251):
            session.mail.rcpts.append(rcpt)
            session.mail.rcpt_params[rcpt] = params

    def _do_data(self, session, line):
        if session.mail is None or not session.mail.rcpts:
            self._say(session, "data", "554 5.5.1 no valid recipients", line)
            return
        if self._say(session, "data", "354 go ahead", line) != 354:
            return
        raw = session.read_data()
        if raw is None:
            raise _End
        mail, session.mail = session.mail, None
        mail.raw = raw
        mail.data = re.sub(rb"(^|\r\n)\.", rb"\1", raw)
        mail.tls, mail.auth, mail.helo = session.tls, session.auth, session.helo
        mail.peer, mail.connection = session.peer, session.number
        session.offered = mail  # what a function that answers may look at
        reply = self._choose("dot", " ".join(mail.rcpts), "250 2.0.0 taken")
        if callable(reply) and not isinstance(reply, Raw):
            reply = reply(session)
        # Recorded before the 250 leaves: a peer that has read it may be asked about it at once.
        code = str(reply.code) if isinstance(reply, Raw) else reply
        if isinstance(code, str) and code.startswith("2"):
            self.mails.append(mail)
            if self.on_mail:
                self.on_mail(mail)
        self._carry_out(session, reply)

    def _do_rset(self, session, line):
        session.mail = None
        self._say(session, "rset", "250 2.0.0 ok", line)

    def _do_noop(self, session, line):
        self._say(session, "noop", "250 2.0.0 ok", line)

    def _do_quit(self, session, line):
        self._say(session, "quit", "221 2.0.0 bye", line)
        session.finish(CLOSE)
        raise _End
