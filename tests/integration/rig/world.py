"""Everything one test needs, on addresses and in a directory of its own."""

import pathlib
import shutil
import tempfile

from rig.certs import Authority
from rig.dkimkeys import Key
from rig.dns import Dns
from rig.net import Block
from rig.node import Node, merge
from rig.postfix import OpenDkim, Postfix
from rig.remote import Remote


class World:
    def __init__(self):
        # Short: the path of a unix socket has at most 107 bytes.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="rd-"))
        self.dir.chmod(0o755)
        self.net = Block()
        self._parts, self._nodes = [], []
        self._dns = self._authority = None

    def take(self):
        return self.net.take()

    @property
    def dns(self):
        """The name server, started at first use."""
        if not self._dns:
            self._dns = self.keep(Dns(self.dir / "dns", self.take()).start())
        return self._dns

    @property
    def ca(self):
        if not self._authority:
            self._authority = Authority(self.dir / "ca")
        return self._authority

    def keep(self, part):
        """A further part of this world: its stop() is called at the end, its logs() are shown."""
        self._parts.append(part)
        return part

    def remote(self, hostname="mx.test", address=None, port=25, start=True, **options):
        """A scripted server; hostname gets its A record."""
        address = address or self.take()
        remote = self.keep(Remote(address, port, hostname, **options))
        if not self.dns.find(hostname, "A"):
            self.dns.a(hostname, address)
        return remote.start() if start else remote

    def mx(self, domain, hostname=None, **options):
        """A scripted server that is the only MX of a domain."""
        remote = self.remote(hostname or "mx." + domain, **options)
        self.dns.mx(domain, remote.hostname)
        return remote

    def postfix(self, hostname, **options):
        """A Postfix that is configured by its as_...() and with_...() methods, then started."""
        directory = self.dir / f"postfix{len(self._parts)}"
        return self.keep(Postfix(directory, self.take(), hostname, **options))

    def verifier(self):
        """opendkim as a verifying milter that asks this world's DNS."""
        return self.keep(OpenDkim(self.dir / "opendkim", self.take(), self.dns).start())

    def key(self, domain, selector, kind="rsa"):
        """A DKIM key whose record is published."""
        path = self.dir / "keys" / f"{selector}.{domain}.{kind}.pem"
        return Key(path, kind).publish(self.dns, domain, selector)

    def node(self, name="cn", config=None, start=True, address=None, port=2525):
        """A relayd node. config is merged over a small working configuration:

        a listener on an address of its own, all of loopback trusted, everything sent directly,
        from that same address.
        """
        address = address or self.take()
        directory = self.dir / name
        base = {
            "node": {"name": name, "hostname": f"smtp-{name}.relay.test"},
            "user": "root",
            "listeners": [{"address": f"{address}:{port}"}],
            "trusted_clients": [{"cidr": "127.0.0.0/8"}],
            "queue": {"path": str(directory / "queue"), "max_size": "1GiB", "min_free": "64MiB"},
            "resolver": {"servers": [self.dns.server], "timeout": "2s"},
            "direct": {"allow_private": True, "source": {"v4": address}},
            "transport_map": [{"default": True, "route": "direct"}],
            "control": {"socket": str(directory / "control.sock")},
        }
        node = Node(directory, merge(base, config or {}), address, port)
        self._nodes.append(node)
        return node.start() if start else node

    def hop(self, node, ca=True, auth=None, **options):
        """The hops: entry by which another node reaches `node`. auth: (user, password file)."""
        entry = {"address": f"{node.address}:{node.port}", **options}
        if ca:
            entry["ca_file"] = self.ca.file
        if auth:
            entry["auth"] = {"username": auth[0], "password_file": auth[1]}
        return entry

    def logs(self):
        return [p for part in [*self._nodes, *self._parts] for p in part.logs()]

    def close(self, keep=False):
        """Stop everything; the first failure (an unclean daemon) is raised at the end."""
        failure = None
        for part in [*self._nodes, *reversed(self._parts)]:
            try:
                getattr(part, "close", part.stop)()
            except Exception as e:  # the rest must be stopped all the same
                failure = failure or e
        self.net.release()
        if failure:
            raise failure
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)
