"""A real authoritative server (nsd) on an address of its own.

It serves the root zone, so that every name that a test has not defined is NXDOMAIN, and "broken"
zones without data, whose names are SERVFAIL. Each change is reloaded and seen in an answer before
the call returns.
"""

import pathlib
import signal
import time

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from rig.proc import Process
from rig.wait import until


def _quoted(text):
    """TXT data as strings of at most 255 octets."""
    chunks = [text[i:i + 250] for i in range(0, len(text), 250)] or [""]
    return " ".join('"' + c.replace("\\", "\\\\").replace('"', '\\"') + '"' for c in chunks)


class Dns:
    def __init__(self, directory, address, port=53, broken=("broken.test",), ttl=1):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.address, self.port, self.ttl = address, port, ttl
        self.broken = broken
        self._records = []  # (name, type, rdata text, plain value)
        self._serial, self._process, self._batch = 0, None, 0

    @property
    def server(self):
        return f"{self.address}:{self.port}"

    # -- changing the zone

    def __enter__(self):
        """with dns: many changes, one reload."""
        self._batch += 1
        return self

    def __exit__(self, *_):
        self._batch -= 1
        self._publish()

    def add(self, name, kind, rdata, value=None):
        self._records.append((name.lower().rstrip("."), kind, rdata, value or rdata))
        self._publish()

    def remove(self, name, kind=None):
        name = name.lower().rstrip(".")
        self._records = [r for r in self._records if r[0] != name or kind not in (None, r[1])]
        self._publish()

    def mx(self, domain, *hosts):
        """MX hosts with preferences 10, 20, ... or as (preference, host) pairs."""
        with self:
            for i, host in enumerate(hosts):
                preference, host = host if isinstance(host, tuple) else (10 * (i + 1), host)
                self.add(domain, "MX", f"{preference} {host.rstrip('.')}.")

    def null_mx(self, domain):
        self.add(domain, "MX", "0 .")

    def a(self, name, *addresses):
        with self:
            for address in addresses:
                self.add(name, "AAAA" if ":" in address else "A", address)

    def txt(self, name, text):
        self.add(name, "TXT", _quoted(text), text)

    def cname(self, name, target):
        self.add(name, "CNAME", target.rstrip(".") + ".")

    def site(self, domain, host, *addresses):
        """A domain whose only MX is host at these addresses."""
        with self:
            self.mx(domain, host)
            self.a(host, *addresses)

    def find(self, name, kind):
        """What the zone says, without asking the server."""
        name = name.lower().rstrip(".")
        return [r[3] for r in self._records if r[0] == name and r[1] == kind]

    # -- the server

    def _zone(self):
        lines = [f"$TTL {self.ttl}",
                 f". IN SOA ns.test. root.test. {self._serial} 3600 600 86400 {self.ttl}",
                 ". IN NS ns.test.", "ns.test. IN A 127.0.0.1"]
        lines += [f"{name}. IN {kind} {rdata}" for name, kind, rdata, _ in self._records]
        lines += [f"{zone}. IN NS ns.test." for zone in self.broken]
        return "\n".join(lines) + "\n"

    def _publish(self):
        if self._batch or not self._process:
            return
        self._serial += 1
        # Seen before the zone is there: a reload that is still under way may take it up by itself,
        # and then the signal changes nothing more.
        before = self._servers(self._process.pid)
        # Written aside and moved: nsd never reads half a zone.
        new = self.dir / "root.zone.new"
        new.write_text(self._zone())
        new.rename(self.dir / "root.zone")
        signalled = 0.0

        def served():
            nonlocal signalled
            # Now and then nsd reads the zone and serves the old one on: it is told again.
            if time.monotonic() - signalled > 3:
                self._process.signal(signal.SIGHUP)
                signalled = time.monotonic()
            # The server with the old zone may answer a little longer beside the new one: wait
            # until it has gone.
            return self._served_serial() == self._serial and self._replaced(before)

        until(served, 20,
              f"nsd at {self.server} to serve serial {self._serial} (see {self.dir}/nsd.log)",
              every=0.005)

    def _replaced(self, before):
        now = self._servers(self._process.pid)
        return len(now) == 1 and not now & before

    def _servers(self, pid):
        """The processes that answer: those at the ends of nsd's process tree."""
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return set()  # it ended while we looked
        return {s for c in children for s in self._servers(int(c))} if children else {pid}

    def _served_serial(self):
        if not self._process.running():
            raise AssertionError((self.dir / "nsd.log").read_text())
        query = dns.message.make_query(".", dns.rdatatype.SOA)
        try:
            answer = dns.query.udp(query, self.address, port=self.port, timeout=0.5)
        except (dns.exception.DNSException, OSError):
            return None
        return answer.answer[0][0].serial if answer.answer else None

    def start(self):
        zones = "".join(f'zone:\n  name: "{z}."\n  zonefile: "{z}.zone"\n' for z in self.broken)
        (self.dir / "nsd.conf").write_text(f"""server:
  ip-address: {self.address}@{self.port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{self.dir}"
  database: ""
  pidfile: "{self.dir}/nsd.pid"
  xfrdfile: "{self.dir}/xfrd.state"
  xfrdir: "{self.dir}"
  zonelistfile: "{self.dir}/zone.list"
  verbosity: 1
  rrl-ratelimit: 0
  hide-version: yes
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
{zones}""")
        self._serial += 1
        (self.dir / "root.zone").write_text(self._zone())
        self._process = Process(["/usr/sbin/nsd", "-d", "-c", self.dir / "nsd.conf"],
                                self.dir / "nsd.log")
        until(lambda: self._served_serial() == self._serial, 20, f"nsd at {self.server}")
        return self

    def stop(self):
        if self._process:
            process, self._process = self._process, None
            process.terminate()

    def logs(self):
        return [self.dir / "nsd.log"]
