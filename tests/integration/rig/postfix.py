"""A private Postfix: the client that hands mail to relayd, or the destination that takes it.

Each instance has directories, addresses and a log of its own; the machine's own Postfix is not
touched. What a destination answers at each stage is decided by the test, through a policy service
that runs in the test process: `mx.access("rcpt", "451 4.3.0 later", times=1)`.
"""

import os
import pathlib
import re
import shutil
import socket
import socketserver
import threading

from rig.mail import crlf, fields
from rig.net import wait_listening
from rig.proc import Process, run
from rig.wait import DEFAULT, until

DAEMONS = "/usr/lib/postfix/sbin"

SERVICES = """\
smtp inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

# Where a policy answer applies: the stage's name here, and Postfix's name for the request state.
STATES = {"connect": "CONNECT", "ehlo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA",
          "dot": "END-OF-MESSAGE"}


class Policy:
    """The policy service (Postfix SMTPD_POLICY_README) that carries out what a test asked for."""

    def __init__(self, address):
        self._rules, self._lock = [], threading.Lock()
        self.seen = []  # every request's attributes, in order
        policy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                request = {}
                for raw in self.rfile:
                    line = raw.decode("utf-8", "replace").rstrip("\n")
                    if line:
                        key, _, value = line.partition("=")
                        request[key] = value
                        continue
                    self.wfile.write(f"action={policy._decide(request)}\n\n".encode())
                    request = {}

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server((address, 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def rule(self, stage, answer, times, match):
        with self._lock:
            self._rules.append([STATES[stage], answer, times, match])

    def clear(self):
        with self._lock:
            self._rules.clear()

    def _decide(self, request):
        with self._lock:
            self.seen.append(request)
            for rule in self._rules:
                state, answer, times, match = rule
                subject = " ".join((request.get("recipient", ""), request.get("sender", ""),
                                    request.get("client_address", "")))
                states = (state, "HELO") if state == "EHLO" else (state,)
                if request.get("protocol_state") not in states or times == 0:
                    continue
                if match and not re.search(match, subject):
                    continue
                if times is not None:
                    rule[2] -= 1
                return answer
        return "DUNNO"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def _delivered_to(mail):
    match = re.search(rb"^Delivered-To: (.*)\r\n", mail, re.M)
    return match.group(1).decode("utf-8", "replace").lower()


class Postfix:
    """One instance. options go to main.cf as they are; services are extra master.cf lines."""

    def __init__(self, directory, address, hostname, options=None, services=()):
        self.dir = pathlib.Path(directory)
        self.address, self.port, self.hostname = address, 25, hostname
        self.options, self.services = dict(options or {}), list(services)
        self.config, self.log_file = self.dir / "etc", self.dir / "maillog"
        self.queue, self.data = self.dir / "spool", self.dir / "data"
        self.policy, self._running = None, False

    # -- configuration

    def listen(self, port):
        """Also accept mail at this port of the address (implicit TLS at 465)."""
        wrapped = " -o smtpd_tls_wrappermode=yes" if port == 465 else ""
        self.services.append(f"{self.address}:{port} inet n - n - - smtpd{wrapped}")
        return self

    def as_destination(self, *domains, maildir=True):
        """Takes all mail for these domains (every local part) into one mailbox a recipient."""
        boxes = self.dir / "mail"
        # Mailboxes belong to nobody, as virtual(8) insists on an unprivileged owner. All share
        # one, and Postfix writes each recipient into Delivered-To.
        boxes.mkdir(parents=True, exist_ok=True)
        boxes.chmod(0o777)
        self.boxes, self._maildir, self._read = boxes, maildir, {}
        self.policy = Policy(self.address)
        check = f"check_policy_service inet:{self.address}:{self.policy.port}"
        self.options.update(
            mydestination="", virtual_mailbox_domains=" ".join(domains),
            virtual_mailbox_base=str(boxes), virtual_mailbox_limit="0",
            virtual_mailbox_maps="static:all/" if maildir else "static:all",
            virtual_minimum_uid="1",
            virtual_uid_maps="static:65534", virtual_gid_maps="static:65534",
            smtpd_delay_reject="no", smtpd_policy_service_default_action="451 4.3.5 policy gone",
            smtpd_client_restrictions=check, smtpd_helo_restrictions=check,
            smtpd_sender_restrictions=check,
            smtpd_relay_restrictions="reject_unauth_destination",
            smtpd_recipient_restrictions=check, smtpd_data_restrictions=check,
            smtpd_end_of_data_restrictions=check)
        return self

    def as_client(self, relayhost="", transport=None):
        """Takes mail from the test and hands all of it to relayhost, or by the transport map."""
        self.options.update(
            mydestination="", relayhost=relayhost, mynetworks="127.0.0.0/8",
            smtpd_relay_restrictions="permit_mynetworks,reject",
            smtp_bind_address=self.address, smtp_host_lookup="native",
            disable_dns_lookups="yes", smtp_dns_support_level="disabled")
        if transport:
            (self.dir).mkdir(parents=True, exist_ok=True)
            (self.dir / "transport").write_text(
                "".join(f"{k} {v}\n" for k, v in transport.items()))
            self.options["transport_maps"] = f"texthash:{self.dir}/transport"
        return self

    def with_tls(self, certificate, level="may"):
        """Offers STARTTLS with a certificate of rig.certs."""
        self.options.update(smtpd_tls_cert_file=certificate.cert_file,
                            smtpd_tls_key_file=certificate.key_file,
                            smtpd_tls_security_level=level, smtpd_tls_loglevel="1",
                            smtpd_tls_received_header="yes")
        return self

    def sends_with_tls(self, level, ca_file):
        self.options.update(smtp_tls_security_level=level, smtp_tls_CAfile=ca_file,
                            smtp_tls_loglevel="1")
        return self

    def with_milter(self, address):
        """A milter at host:port; mail is deferred when it is not there."""
        host, _, port = address.rpartition(":")
        self.options.update(smtpd_milters=f"inet:{host}:{port}", milter_default_action="tempfail",
                            milter_protocol="6")
        return self

    def _write(self):
        for directory in (self.config, self.queue, self.data):
            directory.mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o755)
        shutil.chown(self.data, "postfix", "root")
        options = {
            "compatibility_level": "3.6", "queue_directory": self.queue,
            "data_directory": self.data, "daemon_directory": DAEMONS,
            "maillog_file": self.log_file, "maillog_file_prefixes": self.dir,
            "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4",
            "myhostname": self.hostname, "mydomain": self.hostname.partition(".")[2],
            "mynetworks": "", "alias_maps": "", "alias_database": "", "biff": "no",
            "local_recipient_maps": "", "message_size_limit": str(100 << 20),
            "mailbox_size_limit": "0", "default_process_limit": "60",
            "smtpd_client_connection_count_limit": "0", "smtpd_peername_lookup": "no",
            "smtpd_error_sleep_time": "0", "smtpd_forbid_bare_newline": "no",
            "smtpd_tls_session_cache_database": "", "bounce_queue_lifetime": "1d",
            "minimal_backoff_time": "2s", "maximal_backoff_time": "4s", "queue_run_delay": "2s",
            "in_flow_delay": "0", "debugger_command": "", "smtp_tls_security_level": "none",
            **self.options}
        (self.config / "main.cf").write_text(
            "".join(f"{k} = {v}\n" for k, v in options.items()))
        services = SERVICES.replace("smtp inet", f"{self.address}:{self.port} inet")
        (self.config / "master.cf").write_text(
            services + "".join(s + "\n" for s in self.services))

    # -- life

    def start(self):
        self._write()
        run("postfix", "-c", self.config, "start", env={"MAIL_CONFIG": str(self.config)})
        self._running = True
        wait_listening(self.address, self.port, what=f"Postfix {self.hostname}")
        return self

    def stop(self):
        """Stop for now; start() brings it back with its queue and mailboxes."""
        if self._running:
            self._running = False
            run("postfix", "-c", self.config, "stop")

    def close(self):
        self.stop()
        if self.policy:
            self.policy.stop()

    def reload(self):
        self._write()
        run("postfix", "-c", self.config, "reload")

    def flush(self):
        run("postqueue", "-c", self.config, "-f")

    def queued(self):
        """Queue ids that Postfix still holds."""
        out = run("postqueue", "-c", self.config, "-j").stdout
        return [line for line in out.splitlines() if line]

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def logs(self):
        return [self.log_file]

    def wait_log(self, pattern, timeout=DEFAULT):
        return until(lambda: re.search(pattern, self.log()), timeout,
                     f"/{pattern}/ in {self.log_file}")

    # -- the destination's side

    def access(self, stage, answer, times=None, match=None):
        """Answer like this at a stage (connect, ehlo, mail, rcpt, data, dot).

        answer is "451 4.3.0 text" or any action of Postfix access(5); match is a pattern searched
        in "recipient sender client"; times limits how often.
        """
        self.policy.rule(stage, answer, times, match)

    def everything(self):
        """Every delivered message as (recipient, bytes with CRLF), in the order of arrival."""
        if not self._maildir:
            path = self.boxes / "all"
            parts = re.split(rb"^From .*\n", path.read_bytes() if path.exists() else b"",
                             flags=re.M)[1:]
            # mboxrd quoting and the separating empty line are the mailbox's, not the message's.
            mails = [crlf(re.sub(rb"(?m)^>(>*From )", rb"\1", p[:-1])) for p in parts]
            return [(_delivered_to(m), m) for m in mails]
        new = self.boxes / "all" / "new"
        for entry in os.scandir(new) if new.exists() else ():
            if entry.name not in self._read:
                mail = crlf(pathlib.Path(entry.path).read_bytes())
                self._read[entry.name] = (entry.stat().st_mtime_ns, _delivered_to(mail), mail)
        return [(rcpt, mail) for _, rcpt, mail in sorted(self._read.values())]

    def mailbox(self, rcpt):
        """The messages delivered to one recipient, as bytes with CRLF."""
        return [mail for to, mail in self.everything() if to == rcpt.lower()]

    def wait_mail(self, rcpt, count=1, timeout=DEFAULT):
        """The first message of a recipient; with count=N the list of at least N."""
        def found():
            mails = self.mailbox(rcpt)
            return mails if len(mails) >= count else None

        mails = until(found, timeout, f"{count} message(s) for {rcpt} at {self.hostname} "
                      f"({self.log_file})")
        return mails[0] if count == 1 else mails


class OpenDkim:
    """opendkim as a milter: verifying, or signing for the benchmark."""

    def __init__(self, directory, address, dns, sign=None, options=None):
        """sign: (domain, selector, key file) makes it a signer."""
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        with socket.socket() as s:
            s.bind((address, 0))
            self.port = s.getsockname()[1]
        self.address, self._dns, self._sign = address, dns, sign
        self._options = dict(options or {})

    @property
    def milter(self):
        return f"{self.address}:{self.port}"

    def start(self):
        options = {"Socket": f"inet:{self.port}@{self.address}", "Mode": "v", "Background": "no",
                   "UserID": "root", "Syslog": "no", "AlwaysAddARHeader": "yes",
                   "AuthservID": "verifier.test", "UMask": "002"}
        if self._dns:
            # libunbound refuses loopback servers and answers for .test itself unless told not to.
            (self.dir / "unbound.conf").write_text(
                'server:\n  do-not-query-localhost: no\n  local-zone: "test." nodefault\n'
                f'forward-zone:\n  name: "."\n  forward-addr: {self._dns.address}\n')
            options.update(ResolverConfiguration=self.dir / "unbound.conf")
        if self._sign:
            domain, selector, key = self._sign
            options.update(Mode="s", Domain=domain, Selector=selector, KeyFile=key,
                           InternalHosts="0.0.0.0/0", Canonicalization="relaxed/relaxed",
                           RequireSafeKeys="no")
        options.update(self._options)
        config = self.dir / "opendkim.conf"
        config.write_text("".join(f"{k} {v}\n" for k, v in options.items()))
        self._process = Process(["/usr/sbin/opendkim", "-f", "-x", config],
                                self.dir / "opendkim.log")
        self.pid = self._process.pid
        wait_listening(self.address, self.port, what="opendkim")
        return self

    def stop(self):
        self._process.terminate()

    close = stop

    def logs(self):
        return [self.dir / "opendkim.log"]


def authentication_results(message):
    """[(result, domain, selector)] of the dkim= parts that the verifying milter wrote."""
    found = []
    for name, value in fields(message):
        if name.lower() != "authentication-results" or "verifier.test" not in value:
            continue
        for part in re.split(r"(?=\bdkim=)", value)[1:]:
            properties = dict(re.findall(r"header\.([ds])=([^\s;]+)", part))
            result = re.match(r"dkim=(\w+)", part).group(1)
            found.append((result, properties.get("d"), properties.get("s")))
    return found


def own_processes(master_pid):
    """Every process of an instance, for CPU and memory figures."""
    pids = [master_pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    parent = int(f.read().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            if parent == master_pid:
                pids.append(int(entry))
    return pids
