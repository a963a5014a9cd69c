"""Configurations that are broken, hostile, or just odd: one judgement, one place, no harm."""

import base64
import os
import random
import re

import pytest
import yaml

from rig import mail
from rig.node import ROOT, SANITIZER_EXIT, binary, sanitized
from rig.proc import rss_kib, run
from rig.promise import size
from rig.wait import until

pytestmark = pytest.mark.torture

PLACE = re.compile(r"^(relayctl: )?(\S+?):(\d+):(\d+): .+$", re.M)


def broken_files(good):
    """[(what, bytes)]: a hundred ways to spoil a good file, each an error."""
    text = yaml.safe_dump(good, sort_keys=False)
    found = []

    def add(what, content):
        found.append((what, content if isinstance(content, bytes) else content.encode()))

    laughs = "a0: &a0 [lol]\n" + "".join(
        f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 10) + "]\n" for i in range(1, 30))
    add("billion laughs", laughs)
    add("billion laughs behind a good file", text + laughs)
    add("merge key", text + "x: &x {a: 1}\ny: {<<: *x}\n")
    add("alias to nothing", text + "limits: *gone\n")
    add("alias of itself", text + "limits: &l [*l]\n")
    for size_ in (1000, size(10000, 100000)):
        add(f"{size_} brackets", text + "limits: " + "[" * size_ + "\n")
        add(f"{size_} braces", text + "limits: " + "{a: " * size_ + "\n")
        add(f"{size_} levels", text + "".join(" " * i + "a:\n" for i in range(min(size_, 2000))))
        add(f"{size_} unknown keys", text + "".join(f"k{i}: 1\n" for i in range(size_)))
        add(f"{size_} equal keys", text + "user: root\n" * size_)
        add(f"key of {size_}", text + "k" * size_ + ": 1\n")
        add(f"value of {size_}", text + "dkim_failure: " + "v" * size_ + "\n")
        add(f"{size_} questions", text + "? " * size_ + "\n")
    for name, octets in {"NUL": b"\0", "NULs": b"\0" * 5000, "DEL": b"\x7f", "ESC": b"\x1b[2J",
                         "bad UTF-8": b"\xff\xfe", "overlong": b"\xc0\x80", "surrogate":
                         b"\xed\xa0\x80", "BEL": b"\a", "half a character": b"\xe2\x82"}.items():
        add(name, text.encode() + b"dkim_failure: " + octets + b"\n")
        add(name + " in the middle", text.encode()[:200] + octets + text.encode()[200:])
    add("UTF-16", text.encode("utf-16"))
    add("UTF-32", text.encode("utf-32-le"))
    for line in ("&x", "*x", "!!binary aGVsbG8=", "!ruby/object:Gem {}", "!!python/name:os.system",
                 "%YAML 9.9", "--- --- ---", "...\nuser: root", "---\nuser: root", "\tuser: root",
                 "@user", "`user`", "user: 'root", 'user: "root', "user: [root", "user: {root",
                 "- user", "user: |", "? [user]\n: root", "user: >-", "'user': 'no such'", "? user",
                 "42: 42", "null: null", "~: x", "true: yes", "[]: []", "{}: {}", ": x", "x"):
        add(f"line {line!r}", text + line + "\n")
    for path, value in [
            (("limits", "sessions"), v) for v in (
                0, -1, 1.5, "1e3", "0x10", "many", None, [], {}, True, "1_000", "99999999999999",
                "18446744073709551616", " ", "１００")] + [
            (("limits", "message_size"), v) for v in ("50", "50MB2", "-1MiB", "1e9KiB", "99999TiB",
                                                      "MiB", "1 MiB")] + [
            (("queue", "retry", "intervals"), v) for v in ("5m", ["5"], ["-5m"], ["5m", "x"],
                                                           [["5m"]], ["999999999d"], [{}])] + [
            (("node", "hostname"), v) for v in ("-x.test", "x..test", "a" * 64 + ".test",
                                                "x." * 130, "x y", "", "x\r\ny.test", [])] + [
            (("transport_map",), v) for v in ("direct", [[]], [{}], [{"default": True}],
                                              [{"default": True, "route": "mars"}], {"a": 1},
                                              [{"domains": ["*.*"], "route": "direct"}],
                                              [{"domains": ["a..b"], "route": "direct"}])] + [
            (("trusted_clients",), v) for v in ([{"cidr": "0177.0.0.1/8"}], [{"cidr": "1.2.3/8"}],
                                                [{"cidr": "::ffff:1.2.3.4/200"}], [{}], "all",
                                                [{"cidr": []}, {"host": "-"}])]:
        document = yaml.safe_load(text)
        at = document
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = value
        add(f"{'.'.join(path)} = {value!r}", yaml.safe_dump(document, sort_keys=False,
                                                             allow_unicode=True))
    return found


def judged(node, content):
    """relayd --check of a file beside the node's own: (exit code, what it said)."""
    file = node.dir / "candidate.yaml"
    file.write_bytes(content)
    done = run(binary("relayd"), "-c", file, "--check", check=False, timeout=20)
    return done.returncode, done.stdout + done.stderr


def test_j02_broken_files_are_refused_with_their_place_and_change_nothing(world, promise):
    promise("J02", "broken and hostile files: refused with file, line and reason; the old one stays")
    mx = world.mx("dest.test")
    node = world.node(config={"transport_map": [
        {"domains": ["never.test"], "reject": "550 5.1.2 the old map"},
        {"default": True, "route": "direct"}]})
    files, before = broken_files(node.config), rss_kib(node.pid)
    assert len(files) >= 100
    for i, (what, content) in enumerate(files):
        code, said = judged(node, content)
        assert code == 78, f"{what}: exit {code}: {said[:500]}"
        assert PLACE.search(said), f"{what}: no place in {said[:300]!r}"
        assert "candidate.yaml" in said and len(said) < 200000, f"{what}: {len(said)} octets said"
        assert not re.search(r"[\0-\x08\x0b-\x1f\x7f]", said), f"{what}: control characters"
        if i % size(6, 1) == 0:
            node.config_file.write_bytes(content)
            done = node.ctl("reload", check=False)
            assert done.returncode in (65, 78), f"{what}: reload: {done}"
            assert PLACE.search(done.stderr), f"{what}: no place in {done.stderr[:300]!r}"
        promise.case()
    huge = node.dir / "candidate.yaml"
    for start in (b"a: [\n", b""):
        huge.write_bytes(start)
        os.truncate(huge, 100 << 20)  # NULs
        assert run(binary("relayd"), "-c", huge, "--check", check=False).returncode == 78
        promise.case()
    with open(huge, "wb") as f:
        f.write((b"# " + b"x" * 97 + b"\n") * (1 << 20))
    assert run(binary("relayd"), "-c", huge, "--check", check=False).returncode == 78
    huge.replace(node.config_file)
    assert node.ctl("reload", check=False).returncode in (65, 78)
    promise.case()
    # The old map is in force, and nothing of the hundred files has stayed in memory.
    with node.client() as session:
        session.ehlo()
        session.mail("a@src.test")
        assert "the old map" in str(session.rcpt("x@never.test"))
        session.cmd("RSET")
        session.submit("a@src.test", "b@dest.test", mail.message())
    mx.wait_mail()
    grown = rss_kib(node.pid) - before
    assert sanitized() or grown < 64 * 1024, f"{grown} KiB"


class Generator:
    """Configurations made of options that are right most of the time."""

    def __init__(self, world, node, seed):
        self.rng, self.node = random.Random(seed), node
        self.cert = world.ca.issue("smtp-cn.relay.test")
        self.other = world.ca.issue("other.test")
        self.key = str(world.key("src.test", "cn").path)
        self.secret = node.file("secret", "a password of some length\n")
        self.open = node.file("open", "0123456789abcdef\n", mode=0o644)
        self.empty = node.file("empty", "")
        self.domains = node.file("domains", "a.test\n*.b.test\n# c\n")
        self.bad_domains = node.file("bad-domains", "a.test\nb..test\n")
        self.rules = node.file("rules.yaml", "rules: [{name: x, class: nosuch}]\n")
        node.add_user("shop", "password")

    def one(self, good, *others):
        """The first, or now and then one of the others (some of these are good too)."""
        return good if not others or self.rng.random() < 0.7 else self.rng.choice(others)

    def file(self, good):
        return self.one(good, self.open, self.empty, "missing", "/dev/null", ".")

    def options(self):
        secret = self.file(self.secret)
        yield {"tls": {"certificate_file": self.one(self.cert.cert_file, self.cert.cert_file,
                                                    self.other.cert_file, self.key, "missing"),
                       "private_key_file": self.file(self.cert.key_file),
                       **self.one({}, {"min_version": "1.3"}, {"min_version": "1.1"},
                                  {"min_version": "2"})}}
        yield {"hops": {"us": {"address": self.one("us.test", "us.test:587", "[::1]:25", "us test"),
                               "auth": {"username": "u", "password_file": secret},
                               "tls": self.one("verify", "off", "opportunistic", "require"),
                               **self.one({}, {"ca_file": self.cert.cert_file},
                                          {"ca_file": self.secret}, {"fingerprint": "SHA256:ab"},
                                          {"certificate_file": self.cert.cert_file})}}}
        yield {"dkim": [{"domains": self.one(["src.test"], ["*.src.test"], []),
                         "key_file": self.file(self.key)}]}
        yield {"srs": {"domain": self.one("fwd.test", "fwd"), "secret_file": secret}}
        yield {"trusted_clients": [self.one({"cidr": "127.0.0.0/8"}, {"host": "office.test"},
                                            {"users_file": str(self.node.dir / "users")},
                                            {"users_file": secret}, {"cidr": "127.0.0.0/33"},
                                            {"client_certificate": "SHA256:" + "ab" * 32})]}
        yield {"http": {"address": self.one(f"{self.node.address}:8025", "0.0.0.0:8025",
                                            "127.0.0.1"),
                        **self.one({}, {"token_file": secret})}}
        yield {"transport_map": [self.one({"domains_file": self.one(self.domains, self.bad_domains),
                                           "route": "direct"},
                                          {"domains": ["no"], "route": self.one("direct", "us")},
                                          {"mx": ["*.x.test"], "route": "direct", "fallback": ["us"]},
                                          {"mx_country": ["US"], "route": "direct"}),
                                 {"default": True, "route": "direct"}]}
        yield {"geoip": {"database": self.file(self.secret)}}
        replies = str(ROOT / "etc" / "replies.yaml")
        yield {"classify": {"rules_file": self.one(replies, self.rules, "missing", self.secret)}}
        yield {"limits": {"sessions": self.one(1, 100, 0, 10 ** 7),
                          "memory": self.one("1MiB", "32MiB", "0")}}
        yield {"queue": {"retry": {"intervals": self.one(["1s"], [], ["5d"]),
                                   "jitter": self.one("0%", "20%", "200%")},
                         "max_size": self.one("1GiB", "1KiB", "64MiB"),
                         "min_free": self.one("0", "1MiB", "64MiB")}}
        yield {"log": {"format": self.one("logfmt", "json"),
                       "target": self.one("stderr", "log.txt", "missing/log.txt", "/dev/full")}}
        yield {"direct": {"source": {"v4": self.one(self.node.address, "::1", "203.0.113.5")},
                          "tls": self.one("opportunistic", "verify"),
                          "ca_file": self.one(self.cert.cert_file, "missing")}}
        yield {"user": self.one("root", "root", "nobody", "nosuchuser")}
        yield {"learning": {"ttl": self.one("6h", "0s", "x"), "max_ttl": self.one("7d", "1s")}}
        yield {"include": [self.one("missing/*.yaml", "rules.yaml", "../x.yaml")]}

    def make(self, base):
        options = list(self.options())
        chosen = self.rng.sample(options, self.rng.randrange(1, 4))
        config = dict(base)
        for option in chosen:
            for key, value in option.items():
                config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
        return config


def test_j03_what_check_says_a_start_does(world, promise):
    promise("J03", "--check and a start judge every configuration alike")
    node = world.node(start=False)
    seed = random.randrange(1 << 30)
    generator, base, verdicts = Generator(world, node, seed), dict(node.config), {True: 0, False: 0}
    for i in range(size(25, 600)):
        node.config = generator.make(base)
        # Of its own for each: whose it is belongs to the machine, not to the configuration.
        node.config["queue"] = {**node.config["queue"], "path": str(node.dir / f"queue{i}")}
        where = f"seed {seed} case {i}: {node.config}"
        done = run(binary("relayd"), "-c", node.write_config(), "--check", check=False)
        assert done.returncode in (0, 78), f"{where}: {done}"
        node.log.mark()
        lines = len(node.log.lines())
        node.start(ready=False)
        until(lambda: node._notify.count("READY=1") or not node.running(), what="a verdict",
              every=0.002)
        started = node.running() and node._notify.count("READY=1") > 0
        if started:
            node.send_signal(15)
        code = node.wait_exit()
        assert code != SANITIZER_EXIT
        said = "\n".join(node.log.lines()[lines:])
        assert started == (done.returncode == 0), \
            f"{where}: check {done.returncode} {done.stderr}, start {code} {said[-600:]}"
        assert started or code in (78, 67), f"{where}: exit {code}: {said[-300:]}"
        verdicts[started] += 1
        promise.case()
    assert min(verdicts.values()) >= size(3, 100), f"one-sided: {verdicts}"


def test_j05_secrets_are_never_told(world, promise):
    promise("J05", "no secret is ever logged, shown by relayctl, or left in a core")
    words = {"hop": "Hop-Pass-Word-4711", "user": "User-Pass-Word-4712",
             "srs": "Srs-Secret-Word-4713-0123456789", "token": "Http-Token-Word-4714"}
    certificate = world.ca.issue("smtp-cn.relay.test", "hop.test")
    hop = world.remote("hop.test", certificate=certificate, auth={"cn": words["hop"]})
    world.mx("dest.test")
    key = world.key("src.test", "cn")
    node = world.node(start=False)
    users = node.add_user("shop", words["user"])
    node.write_config({
        "log": {"level": "debug"},
        "tls": {"certificate_file": certificate.cert_file,
                "private_key_file": certificate.key_file},
        "trusted_clients": [{"cidr": "127.0.0.0/8"}, {"users_file": users}],
        "dkim": [{"domains": ["src.test"], "key_file": str(key.path)}],
        "srs": {"domain": "fwd.test", "secret_file": node.file("srs", words["srs"] + "\n")},
        "http": {"address": f"{node.address}:8025",
                 "token_file": node.file("token", words["token"] + "\n")},
        "local_domains": ["home.test"],
        "hops": {"out": {"address": f"hop.test:{hop.port}", "ca_file": world.ca.file, "auth": {
            "username": "cn", "password_file": node.file("hop", words["hop"] + "\n")}}},
        "transport_map": [{"domains": ["dest.test"], "route": "direct"},
                          {"default": True, "route": "out"}]})
    node.start()
    said = []
    for rcpt in ("a@dest.test", "b@elsewhere.test"):
        node.submit("x@stranger.test", rcpt, mail.message())
    hop.wait_mail()
    hop.auth = {"cn": "changed"}
    node.submit("x@src.test", "c@elsewhere.test", mail.message())
    for password in (words["user"], words["user"] + "x"):
        with node.client() as session:
            session.ehlo()
            session.starttls()
            session.ehlo()
            session.auth_plain("shop", password)
            session.cmd("AUTH LOGIN " + base64.b64encode(b"shop").decode())
    for verb in (["status"], ["routes"], ["explain", "b@elsewhere.test"], ["queue", "list"],
                 ["check", "--diff", str(node.config_file)], ["reload"]):
        for more in ([], ["--json"]):
            done = node.ctl(*more, *verb, check=False)
            said.append(done.stdout + done.stderr)
    os.chmod(node.dir / "hop", 0o644)
    done = node.ctl("reload", check=False)
    said.append(done.stdout + done.stderr)
    limits = open(f"/proc/{node.pid}/limits").read()
    assert re.search(r"Max core file size\s+0\s+0\s", limits)
    node.stop()
    said += node.log.lines()
    pem = [line for line in open(key.path).read().splitlines() if len(line) == 64]
    pem += [line for line in open(certificate.key_file).read().splitlines() if len(line) == 64]
    needles = [form for word in words.values() for form in (
        word, base64.b64encode(word.encode()).decode(), word.encode().hex(),
        base64.b64encode(f"\0shop\0{word}".encode()).decode())] + pem
    text = "\n".join(said)
    for needle in needles:
        assert needle not in text, needle
        promise.case()
