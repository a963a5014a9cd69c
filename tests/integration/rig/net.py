"""Loopback addresses of its own for every test, so that tests run side by side.

All of 127.0.0.0/8 is local on Linux. A Block is one /24 of it, and another when that is used up;
while a process holds it, a socket bound to the first address keeps other test processes away.
"""

import random
import socket

from rig.wait import until

LOCK_PORT = 7  # nothing else on the machine binds the echo port of these addresses


class Block:
    def __init__(self):
        self._locks = []
        self._open()

    def _open(self):
        """Another /24 that no process holds."""
        for _ in range(1000):
            prefix = f"127.{random.randint(16, 250)}.{random.randint(0, 255)}"
            lock = socket.socket()
            try:
                lock.bind((prefix + ".1", LOCK_PORT))
            except OSError:
                lock.close()
                continue
            self._locks.append(lock)
            self.prefix, self._next = prefix, 2
            return
        raise RuntimeError("no free block of loopback addresses")

    def take(self):
        """Return an address that nobody else has."""
        if self._next == 255:
            self._open()
        address = f"{self.prefix}.{self._next}"
        self._next += 1
        return address

    def release(self):
        for lock in self._locks:
            lock.close()


def accepts(address, port):
    """True when something listens there."""
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex((address, port)) == 0


def wait_listening(address, port, timeout=20.0, what=""):
    until(lambda: accepts(address, port), timeout, f"{what or 'a server'} on {address}:{port}")
