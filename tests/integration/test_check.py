"""relayd --check, and relayctl check alike: every mistake of a file at once, where it is and what was expected."""

import os
import re
import textwrap
import time

import pytest

from rig.node import binary
from rig.proc import run
from rig.wait import PATIENCE

GOOD = """\
node: {name: cn, hostname: smtp-cn.mydomain.test}
user: root
listeners: [{address: 127.0.0.1:2525}]
trusted_clients: [{cidr: 127.0.0.0/8}]
queue: {path: queue}
control: {socket: control.sock}
transport_map: [{default: true, route: direct}]
"""

PLACE = re.compile(r"^(?P<file>\S+?):(?P<line>\d+):(?P<column>\d+): "
                   r"(?:(?P<path>[a-z][a-z0-9_.\[\]-]*): )?(?P<text>.+)$")


@pytest.fixture
def check(tmp_path):
    """check(yaml) -> (exit code, [(file, line, column, path, text)], all output). Both programs
    give the same judgement, unless only relayd is asked."""
    def places(output):
        found = map(PLACE.match, output.splitlines())
        return [(m["file"], int(m["line"]), int(m["column"]), m["path"] or "", m["text"])
                for m in found if m]

    def run_it(text, name="relayd.yaml", both=True):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        done = run(binary("relayd"), "-c", file, "--check", check=False)
        output = done.stdout + done.stderr
        if both:
            other = run(binary("relayctl"), "-c", file, "check", check=False)
            said = other.stdout + other.stderr
            assert (other.returncode, places(said)) == (done.returncode, places(output)), said
        return done.returncode, places(output), output

    run_it.dir = tmp_path
    return run_it


def test_good_file_is_accepted_silently(check):
    code, problems, output = check(GOOD)
    assert code == 0 and not problems, output


def test_json_is_yaml(check):
    code, _, output = check(
        '{"node": {"name": "cn", "hostname": "smtp-cn.mydomain.test"}, "user": "root",\n'
        ' "listeners": [{"address": "127.0.0.1:2525"}], "queue": {"path": "queue"},\n'
        ' "trusted_clients": [{"cidr": "127.0.0.0/8"}],\n'
        ' "transport_map": [{"default": true, "route": "direct"}]}\n')
    assert code == 0, output


# (what, replacement of lines of GOOD or lines added, line, part of the path, part of the text)
BAD = [
    ("unknown key", GOOD + "quueue: {}\n", 8, "quueue", "queue"),
    ("misspelt key gets a suggestion", GOOD.replace("hostname:", "hostnam:"), 1, "node.hostnam",
     "hostname"),
    ("missing key", GOOD.replace(", hostname: smtp-cn.mydomain.test", ""), 1, "node", "hostname"),
    ("duplicate key", GOOD + "user: nobody\n", 8, "", "user"),
    ("bad node name", GOOD.replace("name: cn", "name: C N"), 1, "node.name", ""),
    ("wrong type", GOOD.replace("[{cidr: 127.0.0.0/8}]", "everybody"), 4, "trusted_clients", ""),
    ("bad network", GOOD.replace("127.0.0.0/8", "127.0.0.0/33"), 4, "trusted_clients[0].cidr", ""),
    ("host bits set or nonsense", GOOD.replace("127.0.0.0/8", "300.0.0.0/8"), 4,
     "trusted_clients[0].cidr", ""),
    ("bad port", GOOD.replace("127.0.0.1:2525", "127.0.0.1:70000"), 3, "listeners[0].address", ""),
    ("bad duration", GOOD + "timeouts: {connect: 30}\n", 8, "timeouts.connect", "30s"),
    ("combined duration", GOOD + "timeouts: {connect: 1m30s}\n", 8, "timeouts.connect", ""),
    ("bad size", GOOD + "limits: {message_size: 50 megabytes}\n", 8, "limits.message_size", "MiB"),
    ("bad rate", GOOD + "shaping: {default: {max_rate: 100}}\n", 8, "shaping.default.max_rate",
     "60/min"),
    ("negative number", GOOD + "limits: {sessions: -1}\n", 8, "limits.sessions", ""),
    ("unknown word", GOOD + "dkim_failure: ignore\n", 8, "dkim_failure", "tempfail"),
    ("unknown route", GOOD.replace("route: direct", "route: mars"), 7, "transport_map[0].route",
     "mars"),
    ("unknown fallback", GOOD.replace("route: direct", "route: direct, fallback: [mars]"), 7,
     "transport_map[0].fallback", "mars"),
    ("rule without an action", GOOD.replace("{default: true, route: direct}",
                                            "{domains: [a.test]}"), 7, "transport_map[0]", ""),
    ("bad reject text", GOOD.replace("route: direct", "reject: go away"), 7,
     "transport_map[0].reject", ""),
    ("missing domains file", GOOD.replace("{default: true, route: direct}",
                                          "{domains_file: missing.txt, route: direct}"), 7,
     "transport_map[0].domains_file", "missing.txt"),
    ("missing DKIM key", GOOD + "dkim: [{domains: [a.test], key_file: missing.pem}]\n", 8,
     "dkim[0].key_file", "missing.pem"),
    ("missing certificate", GOOD + "tls: {certificate_file: no.pem, private_key_file: no.key}\n",
     8, "tls.", "no."),
    ("anchor", GOOD + "hops: &x {}\n", 8, "", "anchor"),
    ("alias", GOOD.replace("user: root", "user: &u root") + "dkim_failure: *u\n", 2, "", ""),
    ("tag", GOOD.replace("user: root", "user: !!str root"), 2, "", "tag"),
    ("bad language", GOOD + "notices: {language: [en, tlh]}\n", 8, "notices.language", "zh"),
    ("bad pin", GOOD + "hops: {us: {address: a.test, fingerprint: SHA256:xyz}}\n", 8,
     "hops.us.fingerprint", ""),
    ("hop called direct", GOOD + "hops: {direct: {address: a.test}}\n", 8, "hops", ""),
    ("http beyond loopback without a token", GOOD + "http: {address: 0.0.0.0:8025}\n", 8, "http",
     "token_file"),
    ("not YAML", GOOD + "a: [b\n", None, None, ""),
    ("tab", GOOD + "limits:\n\tsessions: 1\n", 9, None, ""),
]


@pytest.mark.parametrize("text, line, path, words", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_mistake_is_reported_with_its_place(check, text, line, path, words):
    code, problems, output = check(text)
    assert code == 78, output
    assert problems, f"no FILE:LINE:COLUMN: in {output}"
    assert any((line is None or p[1] == line) and (not path or p[3].startswith(path)) and
               words.lower() in (p[3] + " " + p[4]).lower() for p in problems), output


def test_all_mistakes_are_reported_at_once_in_order(check):
    code, problems, output = check("""\
        node: {name: cn, hostname: smtp-cn.mydomain.test, colour: red}
        listeners: [{address: nonsense, tls: sometimes}]
        trusted_clients: [{cidr: 1.2.3.4.5}]
        limits: {sessions: many}
        transport_map: [{default: true, route: mars}]
        """)
    assert code == 78
    lines = [p[1] for p in problems]
    assert set(lines) >= {1, 2, 3, 4, 5}, output
    assert lines == sorted(lines)
    assert len([p for p in problems if p[1] == 2]) >= 2, "both mistakes of line 2"


def test_included_files_are_named_in_their_mistakes(check):
    (check.dir / "routes.d").mkdir()
    (check.dir / "routes.d" / "a.yaml").write_text("limits:\n  sessions: many\n")
    code, problems, output = check(GOOD + "include: [routes.d/*.yaml]\n")
    assert code == 78
    assert any(p[0].endswith("routes.d/a.yaml") and p[1] == 2 for p in problems), output


HOP_SECRET = "hops: {us: {address: a.test, auth: {username: u, password_file: secret}}}\n"


def test_password_file_that_others_can_read_is_refused(check):
    secret = check.dir / "secret"
    secret.write_text("0123456789abcdef\n")
    secret.chmod(0o644)
    code, problems, output = check(GOOD + HOP_SECRET)
    assert code == 78 and any("password_file" in p[3] for p in problems), output
    secret.chmod(0o640)  # the group may
    assert check(GOOD + HOP_SECRET)[0] == 0


def test_users_file_that_others_can_read_is_refused(check):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=smtp-cn.mydomain.test", "-keyout", check.dir / "key.pem",
        "-out", check.dir / "cert.pem")
    (check.dir / "key.pem").chmod(0o600)
    run(binary("relayctl"), "user", "add", "shop", "--file", check.dir / "users", input="secret\n")
    text = GOOD.replace("{cidr: 127.0.0.0/8}", "{users_file: users}") + \
        "tls: {certificate_file: cert.pem, private_key_file: key.pem}\n"
    assert check(text)[0] == 0
    (check.dir / "users").chmod(0o644)
    code, problems, output = check(text)
    assert code == 78 and any("users_file" in p[3] for p in problems), output
    (check.dir / "users").chmod(0o600)
    (check.dir / "users").write_text("shop with no hash\n")
    code, problems, output = check(text)
    assert code == 78 and any("users_file" in p[3] for p in problems), output


@pytest.mark.parametrize("file,option,path", [
    ("a.pem", "dkim: [{domains: [a.test], key_file: a.pem}]\n", "dkim.key_file"),
    ("cert.pem", "tls: {certificate_file: cert.pem, private_key_file: cert.pem}\n", "tls"),
    ("ca.pem", "direct: {tls: verify, ca_file: ca.pem}\n", "direct.ca_file"),
    ("countries", "geoip: {database: countries}\n", "geoip.database"),
    ("rules.yaml", "classify: {rules_file: rules.yaml}\n", ""),
    ("log", "log: {target: log/relayd.log}\n", "log.target"),
], ids=["key", "certificate", "ca", "geoip", "rules", "log"])
def test_file_that_is_not_what_it_should_be_is_a_mistake(check, file, option, path):
    (check.dir / file).write_text("nothing of the kind\n")
    (check.dir / file).chmod(0o600)
    code, problems, output = check(GOOD + option)
    assert code == 78 and any(path in p[3] for p in problems), output


def test_domain_names_are_never_taken_for_booleans(check):
    code, _, output = check(GOOD.replace("transport_map: [",
                                         "transport_map: [{domains: [no, no.test], route: direct}, "))
    assert code == 0, output


@pytest.mark.parametrize("hostile", [
    b"\0" * 100, b"\xff\xfe\x00", b"a: " + b"[" * 50000, b"- " * 50000, b"", b"---\n---\n",
    b"a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]\n", b"? {a: b}\n: c\n", b"x" * 1000000,
], ids=["nul", "utf16", "deep", "deep-list", "empty", "documents", "laughs", "complex-key", "long"])
def test_hostile_files_are_refused_in_order(check, hostile):
    code, _, output = check(hostile)
    assert code == 78 and output.strip(), (code, output[:500])


def test_missing_file_is_an_error_that_names_it(check):
    done = run(binary("relayd"), "-c", check.dir / "nothere.yaml", "--check", check=False)
    assert done.returncode in (66, 78) and "nothere.yaml" in done.stdout + done.stderr


def test_million_domains_load_within_two_seconds(check):
    with open(check.dir / "big.txt", "w") as f:
        f.writelines(f"domain-{i}.example\n" for i in range(1_000_000))
    text = GOOD.replace("transport_map: [",
                        "transport_map: [{domains_file: big.txt, route: direct}, ")
    begun = time.monotonic()
    code, _, output = check(text, both=False)
    took = time.monotonic() - begun
    assert code == 0, output
    assert took < 4 * PATIENCE * (os.getloadavg()[0] / 2 + 1), f"{took:.1f} s"


def test_examples_of_the_documentation_pass(check):
    """The smallest useful files, with the keys they name."""
    for name in ("us.secret", "users"):
        (check.dir / name).write_text("" if name == "users" else "password\n")
        (check.dir / name).chmod(0o600)
    run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out",
        check.dir / "mydomain.com.pem")
    (check.dir / "mydomain.com.pem").chmod(0o600)
    code, _, output = check("""\
        node: {name: cn, hostname: smtp-cn.mydomain.com}
        user: root
        listeners: [{address: 127.0.0.1:2525}]
        trusted_clients: [{cidr: 127.0.0.0/8}]
        local_domains: [mydomain.com]
        hops:
          us: {address: mail-us.mydomain.com, auth: {username: cn, password_file: us.secret}}
          office: {address: 127.0.0.1:25, tls: off}
        transport_map:
          - {domains: [mydomain.com], route: office}
          - {domains: [abc.com, "*.abc.com"], route: us}
          - {default: true, route: direct, fallback: [us], learn: true}
        dkim: [{domains: [mydomain.com], key_file: mydomain.com.pem}]
        queue: {path: queue}
        """)
    assert code == 0, output
