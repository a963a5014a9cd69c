"""A resolver that answers as a function says, over UDP and TCP: for what no zone file can hold."""

import dataclasses
import heapq
import itertools
import socket
import struct
import threading
import time
import typing

import dns.message
import dns.rcode
import dns.rrset

UDP_BYTES = 1232


@dataclasses.dataclass
class Reply:
    """An answer that is odd in more than its records."""

    records: list = ()
    rcode: str = "NOERROR"
    ttl: int = 60
    delay: float = 0.0                       # seconds
    change: typing.Callable = None           # octets of the answer -> what is sent instead
    before: typing.Callable = None           # octets of the answer -> datagrams sent before it
    truncate: bool = False                   # over UDP: TC and no records
    tcp: typing.Callable = None              # (connection, octets with length): sends by itself


class OddDns:
    """answer(name, type) -> [(owner, type, rdata text), ...], None for NXDOMAIN, SILENCE, or a
    Reply."""

    SILENCE = object()

    def __init__(self, address, answer, port=53, delay=0.0):
        """delay: seconds that each answer takes; a thread sends them in their order."""
        self.server, self.address, self.port = f"{address}:{port}", address, port
        self.answer, self.asked, self.delay = answer, [], delay
        self._large = {}  # question -> (Reply, octets): slow to make, asked over UDP and TCP
        self.in_flight = self.in_flight_max = 0
        self._later, self._wake, self._count = [], threading.Condition(), itertools.count()
        self._udp = self._tcp = None
        self._stopped = False
        threading.Thread(target=self._send_later, daemon=True).start()
        self.start()

    def start(self):
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._udp.bind((self.address, self.port))
        self._tcp = socket.create_server((self.address, self.port))
        for serve, sock in ((self._serve_udp, self._udp), (self._serve_tcp, self._tcp)):
            threading.Thread(target=serve, args=[sock], daemon=True).start()

    def down(self):
        """Nobody listens, until start()."""
        for s in (self._udp, self._tcp):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected, but its reader wakes up all the same
            s.close()

    def stop(self):
        self.down()
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def logs(self):
        return []

    # -- answers

    def _reply(self, wire):
        """(Reply, octets of the answer), or (None, None) for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if (name, kind) in self._large:
            found, out = self._large[name, kind]
            return found, wire[:2] + out[2:]
        found = self.answer(name, kind)
        if found is self.SILENCE:
            return None, None
        if found is None:
            found = Reply(rcode="NXDOMAIN")
        elif not isinstance(found, Reply):
            found = Reply(found)
        reply = dns.message.make_response(query, recursion_available=True)
        reply.set_rcode(dns.rcode.from_text(found.rcode))
        for (owner, rtype), group in itertools.groupby(found.records, lambda r: r[:2]):
            reply.answer.append(dns.rrset.from_text_list(owner + ".", found.ttl, "IN", rtype,
                                                         [text for _, _, text in group]))
        out = reply.to_wire(max_size=65535)
        if len(found.records) > 50:
            self._large[name, kind] = found, out
        return found, out

    def _serve_udp(self, udp):
        while True:
            try:
                wire, peer = udp.recvfrom(65535)
            except OSError:
                return
            if not wire:
                return  # down()
            self.in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self.in_flight)
            found, out = self._reply(wire)
            if out is None:
                self.in_flight -= 1
                continue
            datagrams = self._datagrams(found, out)
            delay = found.delay or self.delay
            if delay:
                with self._wake:
                    heapq.heappush(self._later, (time.monotonic() + delay, next(self._count),
                                                 udp, peer, datagrams))
                    self._wake.notify()
            else:
                self._send(udp, peer, datagrams)

    @staticmethod
    def _datagrams(found, out):
        if found.truncate or len(out) > UDP_BYTES:  # header with TC, question
            end = 12
            while out[end]:
                end += 1 + out[end]
            out = out[:2] + bytes([out[2] | 2]) + out[3:6] + bytes(6) + out[12:end + 5]
        before = found.before(out) if found.before else []
        return [*before, found.change(out) if found.change else out]

    def _send(self, udp, peer, datagrams):
        self.in_flight -= 1
        for datagram in datagrams:
            try:
                udp.sendto(datagram, peer)
            except OSError:
                return

    def _send_later(self):
        while True:
            with self._wake:
                if self._stopped:
                    return
                now = time.monotonic()
                if not self._later or self._later[0][0] > now:
                    self._wake.wait(self._later[0][0] - now if self._later else None)
                    continue
                _, _, udp, peer, datagrams = heapq.heappop(self._later)
            self._send(udp, peer, datagrams)

    def _serve_tcp(self, tcp):
        while True:
            try:
                connection, _ = tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=[connection], daemon=True).start()

    def _serve_connection(self, connection):
        with connection, connection.makefile("rb") as stream:
            try:
                while len(size := stream.read(2)) == 2:
                    found, out = self._reply(stream.read(struct.unpack("!H", size)[0]))
                    if out is None:
                        return
                    if found.change:
                        out = found.change(out)
                    out = struct.pack("!H", len(out)) + out
                    if found.tcp:
                        found.tcp(connection, out)
                    else:
                        connection.sendall(out)
            except OSError:
                pass  # the peer has had enough
