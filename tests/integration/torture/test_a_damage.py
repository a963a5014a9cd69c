"""A09, A10: a data file with flipped bits, cut short, emptied, of another kind: one message is set
aside by name, or the start is refused in one line; nothing else is harmed, and nothing begins anew.
"""

import os
import random
import re
import struct
import subprocess

import pytest

from rig import mail
from rig.node import BUILD
from rig.promise import LONG, size
from rig.wait import PATIENCE, until

pytestmark = pytest.mark.torture

MESSAGES = 24
PAGE = 4096
MAGIC_AT, VERSION_AT = 16, 20  # in the first page of an LMDB file
WAITING = {"queue": {"retry": {"intervals": ["1h"]}},
           "shaping": {"default": {"max_rate": "none"}}}


def body_of(i):
    """Of every size that is stored in its own way: in the record, in pages, in chunks."""
    line = f"message {i} " + "y" * 60 + "\r\n"
    return line * ((200, 2500, 9000, 40_000, 300_000)[i % 5] // len(line) + 1)


class Damaged:
    """A queue with mail that waits, its data file at rest, and what it must deliver."""

    def __init__(self, world):
        self.mx = world.mx("dest.test")
        self.mx.answer("rcpt", "451 4.3.0 not now")
        self.node = world.node(config=WAITING)
        self.sent, self.ids = {}, {}
        with self.node.client() as c:
            c.ehlo()
            for i in range(MESSAGES):
                message = mail.message(ident=f"dmg{i}", body=body_of(i))
                rcpt = f"u{i}@dest.test"
                self.sent[rcpt] = message
                self.ids[rcpt] = c.submit("a@src.test", rcpt, message)
        until(lambda: len(self.node.log.all(event="attempt", outcome="deferred")) == MESSAGES,
              what="a first attempt of all")
        self.node.stop()
        self.mx.behave()
        self.file = os.path.join(self.node.config["queue"]["path"], "data.mdb")
        with open(self.file, "rb") as f:
            self.image = f.read()

    def put(self, image):
        with open(self.file, "wb") as f:
            f.write(image)

    def flip(self, at, bit):
        image = bytearray(self.image)
        image[at] ^= 1 << bit
        self.put(bytes(image))

    def refused(self, text=r"data\.mdb"):
        """A start that ends at once, with a code of sysexits and one line; the file is as it was."""
        before = len(self.node.log.lines())
        with open(self.file, "rb") if os.path.exists(self.file) else open(os.devnull, "rb") as f:
            image = f.read()
        code = self.node.try_start()
        if code is None:
            return False
        said = self.node.log.lines()[before:]
        assert code in (74, 75), f"exit {code}: {said[-3:]}"
        assert len([s for s in said if s.startswith("relayd:")]) == 1, said
        assert re.match(rf"relayd: queue: .*{text}", said[-1]), said
        if image:
            with open(self.file, "rb") as f:
                assert f.read() == image, "a refused file was changed"
        return True

    def others_are_delivered(self):
        """After a start: all arrive as they were sent, but for one that is named."""
        node = self.node
        mark, n = node.log.mark(), len(self.mx.mails)
        node.ctl("queue", "retry", "--domain", "dest.test")
        until(lambda: len(self.mx.mails) - n >= MESSAGES - 1, 20, "the others")
        missing = set(self.sent)
        for got in self.mx.mails[n:]:
            rcpt, = got.rcpts
            missing.discard(rcpt)
            head, _, rest = got.data.partition(b"\r\n\r\n")
            want_head, _, want = self.sent[rcpt].partition(b"\r\n\r\n")
            assert rest == want and head.endswith(want_head), f"{rcpt}: another content"
        if not missing:
            return
        ident = self.ids[next(iter(missing))].rpartition(".")[2]
        verify = node.ctl("verify", check=False).stdout

        def told():
            if len(self.mx.mails) - n == MESSAGES:
                return True
            return any("damaged" in line or "cannot be read" in line
                       for line in node.log.lines()) and (
                ident in verify or any(ident in line for line in node.log.lines()[mark:]))

        until(told, 10, f"a word about {ident}, which did not come")

    def start_and_judge(self):
        """Refused, or everything but one message arrives and nothing crashed."""
        if self.refused():
            return "refused"
        self.others_are_delivered()
        assert self.node.running(), "it crashed"
        self.node.kill()  # its queue is not used again
        return "served"


@pytest.fixture
def damaged(world):
    return Damaged(world)


def test_a09_flipped_bits_in_the_library(promise, world):
    """A child of test_damage delivers from each damaged file as the daemon would."""
    promise("A09", "one flipped bit anywhere: one message is set aside at the most, no crash, no "
                   "hang, no other content")
    seed = random.SystemRandom().randrange(1 << 30)
    flips = size(100, 10_000)
    done = subprocess.run([BUILD / "tests" / "test_damage"], capture_output=True, text=True,
                          timeout=(60 if not LONG else 1400) * PATIENCE,
                          env={**os.environ, "DAMAGE_FLIPS": str(flips), "DAMAGE_SEED": str(seed)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    promise.case(flips)


def test_a09_flipped_bits_under_the_daemon(damaged, promise):
    promise("A09", "one flipped bit: the daemon refuses the file, or delivers all but one message")
    seed = random.SystemRandom().randrange(1 << 30)
    rng = random.Random(seed)
    image = damaged.image
    marks = [m.start() for m in re.finditer(rb"message \d+ y", image)]
    places = [image.index(b"a@src.test"), image.index(b"u3@dest.test"), rng.choice(marks),
              image.rindex(b"message 4 y"), MAGIC_AT, PAGE + 16 + 128]
    places += [rng.randrange(len(image)) for _ in range(size(2, 150))]
    places += [rng.randrange(len(image) // PAGE) * PAGE + rng.randrange(80)
               for _ in range(size(2, 150))]
    for at in places:
        bit = rng.randrange(8)
        damaged.flip(at, bit)
        try:
            damaged.start_and_judge()
        except AssertionError as e:
            raise AssertionError(f"seed {seed}, bit {bit} of byte {at} (page {at // PAGE}): {e}") \
                from e
        promise.case()


def test_a10_file_that_is_cut_short(damaged, promise):
    promise("A10", "a data file cut at any page, or inside one: refused in one line, or all is there")
    pages = len(damaged.image) // PAGE
    sizes = [s for page in range(pages) for s in (page * PAGE, page * PAGE + 100)]
    if not LONG:
        sizes = [0, 100, PAGE, 2 * PAGE, sizes[len(sizes) // 2], sizes[-1]]
    for n in sizes:
        damaged.put(damaged.image[:n])
        if not damaged.refused():
            assert n > len(damaged.image) * 3 // 4, f"a file of {n} bytes was opened"
            assert len(damaged.node.queue()) == MESSAGES, f"{n} bytes: mail is missing"
            damaged.node.kill()
        promise.case()
    damaged.put(damaged.image)
    assert not damaged.refused()
    assert len(damaged.node.queue()) == MESSAGES


def test_a10_file_that_is_no_queue_of_ours(damaged, promise):
    promise("A10", "a wrong magic number, a newer format, or no file: never a fresh empty queue")
    image = damaged.image
    newer = struct.pack("<I", 2)
    for name, what in (("zeros", bytes(len(image))), ("text", b"not a queue\n" * 5000),
                       ("magic", b"\0" * (MAGIC_AT + 4) + image[MAGIC_AT + 4:]),
                       ("LMDB's format", image[:VERSION_AT] + newer + image[VERSION_AT + 4:])):
        damaged.put(what)
        assert damaged.refused(), f"{name}: opened"
        promise.case()
    os.unlink(damaged.file)
    assert damaged.refused(), "began anew where a queue was"
    assert not os.path.exists(damaged.file)
    os.unlink(os.path.join(os.path.dirname(damaged.file), "in-hand"))
    assert damaged.refused(), "began anew where a queue was"
    promise.case(2)
    ours = bytearray(image)
    for at in [m.end() for m in re.finditer(rb"format(?=\x01\0\0\0)", image)]:
        ours[at:at + 4] = newer
    damaged.put(bytes(ours))
    assert damaged.refused("format 2"), "opened a newer format"
    promise.case()
    damaged.put(image)
    assert not damaged.refused()
    assert len(damaged.node.queue()) == MESSAGES
