"""A resolver that answers as a function says, over UDP and TCP: for what no zone file can hold."""

import socket
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

UDP_BYTES = 1232


class OddDns:
    """answer(name, type) -> [(owner, type, rdata text), ...], None for NXDOMAIN, or SILENCE."""

    SILENCE = object()

    def __init__(self, address, answer, port=53):
        self.server = f"{address}:{port}"
        self.answer, self.asked = answer, []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, port))
        self._tcp = socket.create_server((address, port))
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def stop(self):
        for s in (self._udp, self._tcp):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected, but its reader wakes up all the same
            s.close()

    def logs(self):
        return []

    def _reply(self, wire):
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        found = self.answer(name, kind)
        if found is self.SILENCE:
            return None
        reply = dns.message.make_response(query, recursion_available=True)
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for owner, rtype, text in found or []:
            reply.answer.append(dns.rrset.from_text(owner + ".", 60, "IN", rtype, text))
        return reply

    def _serve_udp(self):
        while True:
            try:
                wire, peer = self._udp.recvfrom(65535)
            except OSError:
                return
            if not wire:
                return  # stop()
            reply = self._reply(wire)
            if reply is None:
                continue
            out = reply.to_wire(max_size=65535)
            if len(out) > UDP_BYTES:
                reply.answer.clear()
                reply.flags |= dns.flags.TC
                out = reply.to_wire()
            try:
                self._udp.sendto(out, peer)
            except OSError:
                return

    def _serve_tcp(self):
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=[connection], daemon=True).start()

    def _serve_connection(self, connection):
        with connection, connection.makefile("rb") as stream:
            while len(size := stream.read(2)) == 2:
                reply = self._reply(stream.read(struct.unpack("!H", size)[0]))
                if reply is None:
                    return
                out = reply.to_wire(max_size=65535)
                connection.sendall(struct.pack("!H", len(out)) + out)
