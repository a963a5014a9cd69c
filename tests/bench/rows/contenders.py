"""Who is measured: relayd, Postfix, Postfix with opendkim, Exim, a pass-through, and nobody.

A contender has a name, address and port once started, pids() of all its processes, and stop(). Each
has the settings that suit it best for this work, a queue on the same disk, and a fresh directory.
`messages` is how many messages a run of it has: enough for some seconds.
"""

import pathlib
import pwd
import shutil
import sys
import tempfile

from rig.net import wait_listening
from rig.node import ROOT
from rig.postfix import OpenDkim, Postfix as PostfixInstance
from rig.proc import Process

from rows.ends import Program, slowed
from rows.measure import tree

HOP_CONNECTIONS = 20
EXIM = ROOT / "build" / "peers" / "exim" / "usr"


class Nobody:
    """No relay: the source speaks to the sink. What the machine and the generators can do at most."""

    # The source's last reply is the sink's own: nothing is under way behind it.
    name, messages, direct = "no relay", 30000, True

    def __init__(self, world, target, **_):
        self.address, self.port = target

    def start(self):
        return self

    def pids(self):
        return []

    def stop(self):
        pass


class PassThrough(Nobody):
    """Octets copied both ways, nothing kept."""

    name = "pass-through"

    def __init__(self, world, target, **_):
        self._world, self._target = world, target

    def start(self):
        self.address, self.port = self._world.take(), 2500
        self._program = Program("proxy", f"{self.address}:{self.port}", "%s:%d" % self._target)
        wait_listening(self.address, self.port, what="bench_proxy")
        return self

    def pids(self):
        return [self._program.pid]

    def stop(self):
        self._program.stop()


class Relayd:
    """relayd; config is merged over what all rows have."""

    name, messages, direct = "relayd", 30000, False

    def __init__(self, world, target=None, key=None, slow=None, config=None, node="cn", **_):
        self._world, self._target, self._key, self._slow = world, target, key, slow
        self._config, self._name = config or {}, node
        if key:
            self.name = f"relayd {key.kind}"

    def _configuration(self):
        config = {"queue": {"max_size": "16GiB", "min_free": "64MiB"},
                  "log": {"level": "info", "target": "relayd.log"}}
        if self._target:
            config["hops"] = {"sink": {"address": "%s:%d" % self._target, "tls": "off",
                                       "max_connections": HOP_CONNECTIONS,
                                       "max_messages_per_connection": 1000}}
            config["transport_map"] = [{"default": True, "route": "sink"}]
        if self._key:
            config["dkim"] = [{"domains": ["src.test"], "key_file": str(self._key.path)}]
        return {**config, **self._config}

    def start(self):
        shutil.rmtree(self._world.dir / self._name, ignore_errors=True)
        self.node = self._world.node(self._name, self._configuration(), start=False)
        if self._slow:
            self.node.env["LD_PRELOAD"] = str(self._slow)
        self.node.start()
        if self._slow:
            slowed(self.node.pid)
        self.address, self.port = self.node.address, self.node.port
        return self

    def pids(self):
        return [self.node.pid]

    def stop(self):
        self.node.stop()


class Postfix:
    """Postfix with what its own tuning guide says for a relay to one fast host."""

    name, messages, direct = "Postfix", 4000, False

    def __init__(self, world, target, key=None, slow=None, sessions=20, **_):
        self._world, self._target, self._key, self._slow = world, target, key, slow
        self._sessions, self._milter = sessions, None
        if key:
            self.name, self.messages = "Postfix+opendkim", 2000

    def _options(self):
        options = {
            "default_process_limit": max(100, self._sessions + 20),
            "initial_destination_concurrency": HOP_CONNECTIONS,
            "smtp_destination_concurrency_limit": HOP_CONNECTIONS,
            "default_destination_concurrency_limit": HOP_CONNECTIONS,
            "qmgr_message_active_limit": "40000", "qmgr_message_recipient_limit": "40000",
            # Handing connections through scache(8) costs more than a new one on this machine:
            # without it Postfix is up to a quarter faster.
            "in_flow_delay": "0", "smtp_connection_cache_on_demand": "no",
            "hash_queue_depth": "2", "hash_queue_names": "incoming deferred defer active",
            "max_use": "1000", "smtpd_client_connection_rate_limit": "0",
            "smtpd_client_message_rate_limit": "0", "queue_run_delay": "300s",
            "minimal_backoff_time": "3600s", "maximal_backoff_time": "7200s",
            "smtpd_client_event_limit_exceptions": "127.0.0.0/8",
            "receive_override_options": "no_header_body_checks,no_address_mappings"}
        if self._slow:
            options["import_environment"] = \
                f"MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C LD_PRELOAD={self._slow}"
        return options

    def start(self):
        instance = PostfixInstance(tempfile.mkdtemp(dir=self._world.dir), self._world.take(),
                                   "pf.test")
        instance.as_client("[%s]:%d" % self._target)
        instance.options.update(self._options())
        if self._key:
            self._milter = OpenDkim(tempfile.mkdtemp(dir=self._world.dir), self._world.take(), None,
                                    sign=("src.test", "cn", str(self._key.path))).start()
            instance.with_milter(self._milter.milter)
        self._instance = instance.start()
        self.address, self.port = instance.address, instance.port
        self._master = int((instance.queue / "pid" / "master.pid").read_text())
        if self._slow:
            for pid in tree(self._master)[1:]:
                slowed(pid)
        return self

    def pids(self):
        return [self._master, *([self._milter.pid] if self._milter else [])]

    def stop(self):
        self._instance.stop()
        if self._milter:
            self._milter.stop()
        shutil.rmtree(self._instance.dir, ignore_errors=True)


EXIM_CONFIG = """\
spool_directory = {dir}/spool
log_file_path = {dir}/log/%slog
pid_file_path = {dir}/exim.pid
primary_hostname = exim.test
local_interfaces = {address}
daemon_smtp_ports = {port}
never_users =
host_lookup =
rfc1413_hosts =
smtp_accept_max = 200
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtp_connect_backlog = 1000
message_logs = false
write_rejectlog = false
log_selector = -host_lookup_failed
keep_environment =
acl_smtp_rcpt = all
acl_smtp_data = all
begin acl
all:
  accept
begin routers
all:
  driver = manualroute
  route_list = * {target} byname
  transport = out
  self = send
begin transports
out:
  driver = smtp
  port = {target_port}
  hosts_avoid_tls = *
  hosts_try_dane =
  connection_max_messages = 500
{dkim}begin retry
* * F,1h,15m
"""


class Exim:
    """Debian's Exim, unpacked and not installed (it cannot be beside Postfix).

    It insists on its paths and its user: in a mount namespace of its own, overlays put its files
    into /usr, and its configuration and user into /etc.
    """

    name, messages, direct = "Exim", 600, False

    def __init__(self, world, target, key=None, **_):
        self._world, self._target, self._key = world, target, key
        if key:
            self.name = "Exim+DKIM"

    _usable = None

    @classmethod
    def usable(cls, world):
        """True when it is there and starts: a kernel without overlays, or a library, may be in the
        way. Then there is one peer less, and a word about it."""
        if cls._usable is None:
            cls._usable = (EXIM / "sbin" / "exim4").exists()
            if cls._usable:
                probe = cls(world, (world.take(), 2500))
                try:
                    probe.start()
                except AssertionError:
                    cls._usable = False
                probe.stop()
            if not cls._usable:
                print("   no Exim here (scripts/setup --bench): one peer less", file=sys.stderr)
        return cls._usable

    def _etc(self):
        """/etc as Exim shall see it: its own file, and its user's line."""
        etc = self._dir / "etc"
        (etc / "exim4").mkdir(parents=True)
        used = {p.pw_uid for p in pwd.getpwall()}
        uid = next(i for i in range(999, 100, -1) if i not in used)
        for name, line in (("passwd", f"Debian-exim:x:{uid}:{uid}::/:/usr/sbin/nologin\n"),
                           ("group", f"Debian-exim:x:{uid}:\n")):
            (etc / name).write_text(pathlib.Path("/etc", name).read_text() + line)
        dkim = ""
        if self._key:
            readable = self._dir / "key.pem"
            shutil.copy(self._key.path, readable)
            shutil.chown(readable, uid, uid)
            dkim = (f"  dkim_domain = src.test\n  dkim_selector = cn\n"
                    f"  dkim_private_key = {readable}\n  dkim_canon = relaxed\n")
        (etc / "exim4" / "exim4.conf").write_text(EXIM_CONFIG.format(
            dir=self._dir, address=self.address, port=self.port, target=self._target[0],
            target_port=self._target[1], dkim=dkim))
        for name in ("spool", "log"):
            (self._dir / name).mkdir()
            shutil.chown(self._dir / name, uid, uid)
        return etc

    def start(self):
        self._dir = pathlib.Path(tempfile.mkdtemp(dir=self._world.dir))
        self._dir.chmod(0o755)
        self.address, self.port = self._world.take(), 2500
        script = ("mount --make-rprivate / && "
                  f"mount -t overlay overlay -o lowerdir={self._etc()}:/etc /etc && "
                  f"mount -t overlay overlay -o lowerdir={EXIM}:/usr /usr && "
                  "exec /usr/sbin/exim4 -bdf")
        self._process = Process(["unshare", "-m", "sh", "-c", script], self._dir / "out")
        wait_listening(self.address, self.port, what=f"Exim (see {self._dir}/out)")
        return self

    def pids(self):
        return [self._process.pid]

    def stop(self):
        """The daemon; deliveries under way end by themselves."""
        self._process.terminate()
        shutil.rmtree(self._dir, ignore_errors=True)
