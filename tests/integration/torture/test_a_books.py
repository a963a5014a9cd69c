"""The books of the crash tests themselves: whatever is wrong in them is told."""

import pytest

from rig.ledger import Books, refused

MS = 1_000_000
SECOND = 1000 * MS
# Message 1 and its recipients are taken, message 5 is refused at the dot: torture/torture.h.
GOOD = ["S 1 2", "P 1", "S 5 1", "P 5"], ["A 1 0 C 1 {t} 900000000", "A 1 1 C 1 {t} 900000000",
                                         "B 5 0 C 1 {t} 900000000"]


class Idle:
    """A machine that serves nobody else."""

    def waited_ns(self, since, until):
        return 0


def books(tmp_path, more_source=(), more_sink=(), kills=(), drop=None):
    source = [*GOOD[0], *more_source]
    sink = [line.format(t=SECOND) for line in [*GOOD[1], *more_sink] if line != drop]
    for name, lines in (("source", source), ("sink", sink)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    books = Books(tmp_path / "source", tmp_path / "sink", Idle())
    for kill in kills:
        books.killed(SECOND + kill * MS)
    return books


def test_books_that_balance_say_so(tmp_path):
    assert refused(5, 0) and not refused(1, 0)
    assert books(tmp_path).balance() == 3


@pytest.mark.parametrize("drop", GOOD[1])
def test_a_lost_recipient_or_report_is_told(tmp_path, drop):
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        books(tmp_path, drop=drop).balance()


@pytest.mark.parametrize("line, told", [
    ("A 2 0 C 1 {t} 0", "never sent"),
    ("A 1 2 C 1 {t} 0", "never sent"),
    ("A 1 0 C 0 {t} 0", "corrupted"),
    ("A 5 0 C 1 {t} 0", "came as A"),
    ("B 1 0 C 1 {t} 0", "came as B"),
    ("? RCPT TO:<nobody>", "not ours"),
    ("A 1 0 C 1 1200000000 1100000000", "no kill explains"),
    ("B 5 0 C 1 1200000000 1100000000", "no kill explains")])
def test_what_was_invented_spoilt_or_copied_is_told(tmp_path, line, told):
    with pytest.raises(AssertionError, match=told):
        books(tmp_path, more_sink=[line]).balance()


@pytest.mark.parametrize("kill, good", [(-101, False), (-99, True), (1, True), (99, True),
                                        (101, False), (201, False)])
def test_a_copy_is_explained_only_by_a_kill_within_the_window(tmp_path, kill, good):
    """The 250 to the first came at 1 s, on a connection 100 ms old, and the copy 200 ms later."""
    found = books(tmp_path, more_sink=["A 1 0 C 1 1200000000 1100000000"], kills=[kill])
    if good:
        found.balance()
    else:
        with pytest.raises(AssertionError, match="no kill explains"):
            found.balance()


@pytest.mark.parametrize("begun, ended, good", [
    (-105, -101, False), (-105, -99, True), (99, 130, True), (101, 130, False)])
def test_a_kill_that_took_a_while_may_have_come_at_its_end(tmp_path, begun, ended, good):
    """The connection to the first was opened 100 ms before its 250, while a kill was on its way."""
    found = books(tmp_path, more_sink=["A 1 0 C 1 1200000000 1100000000"])
    found.kills.append((SECOND + begun * MS, SECOND + ended * MS))
    if good:
        found.balance()
    else:
        with pytest.raises(AssertionError, match="no kill explains"):
            found.balance()


def test_copies_that_were_never_confirmed_count_for_nothing(tmp_path):
    found = books(tmp_path, more_sink=["A 1 0 U 1 1200000000 1100000000"])
    assert found.balance() == 3 and found.unconfirmed == 1
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        books(tmp_path, more_sink=["A 1 0 U 1 1200000000 0"], drop=GOOD[1][0]).balance()
