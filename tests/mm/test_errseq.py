"""Errors of files are reported once to everybody who was there, and to a newcomer if nobody heard."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from hwpoison.abi.signals import Errno
from hwpoison.mm.errseq import Errseq
from hwpoison.mm.locks import Op, Paths


def test_an_error_is_reported_once_to_each_cursor() -> None:
    errors = Errseq(Paths())
    first, second = errors.sample(), errors.sample()
    errors.set(Errno.EIO)
    error, first = errors.check_and_advance(first)
    assert error == Errno.EIO
    assert errors.check_and_advance(first) == (0, first)
    assert errors.check_and_advance(second)[0] == Errno.EIO, (
        "whoever asked before does not take it away (R15)"
    )


def test_a_later_cursor_hears_it_only_if_nobody_has() -> None:
    errors = Errseq(Paths())
    errors.set(Errno.EIO)
    newcomer = errors.sample()
    assert errors.check(newcomer) == Errno.EIO
    assert errors.check_and_advance(newcomer)[0] == Errno.EIO
    assert errors.check(errors.sample()) == 0


def test_looking_changes_nothing() -> None:
    errors = Errseq(Paths())
    cursor = errors.sample()
    errors.set(Errno.ENOSPC)
    assert errors.check(cursor) == errors.check(cursor) == Errno.ENOSPC
    assert errors.check(errors.sample()) == Errno.ENOSPC


def test_the_same_error_again_counts_when_the_last_one_was_seen() -> None:
    errors = Errseq(Paths())
    cursor = errors.sample()
    errors.set(Errno.EIO)
    _, cursor = errors.check_and_advance(cursor)
    errors.set(Errno.EIO)
    assert errors.check(cursor) == Errno.EIO


def test_of_two_errors_that_nobody_saw_the_last_one_is_told() -> None:
    errors = Errseq(Paths())
    cursor = errors.sample()
    errors.set(Errno.EIO)
    errors.set(Errno.ENOSPC)
    error, cursor = errors.check_and_advance(cursor)
    assert error == Errno.ENOSPC
    assert errors.check(cursor) == 0


def test_each_operation_on_the_shared_word_is_announced() -> None:
    seen = []

    class Listen:
        def choose(self, ready: object, running: object, op: Op, on: object) -> object:
            seen.append(op)
            return running

    paths = Paths(Listen())  # type: ignore[arg-type]
    errors = Errseq(paths)
    errors.set(Errno.EIO)
    errors.check_and_advance(errors.sample())
    assert seen == [Op.RMW, Op.READ, Op.RMW]


@given(st.lists(st.one_of(st.just("error"), st.just("open"), st.integers(0, 4)), max_size=40))
@example(["error", "open", "error", 0, "open", 1])
def test_nobody_misses_an_error_and_nobody_hears_it_twice(steps: list[str | int]) -> None:
    """Against a list of names: who is still owed a report."""
    errors = Errseq(Paths())
    cursors: list[int] = []
    owed: set[int] = set()
    unheard = False
    for step in steps:
        if step == "error":
            errors.set(Errno.EIO)
            owed, unheard = set(range(len(cursors))), True
        elif step == "open":
            if unheard:
                owed.add(len(cursors))
            cursors.append(errors.sample())
        elif cursors:
            who = int(step) % len(cursors)
            error, cursors[who] = errors.check_and_advance(cursors[who])
            assert (error == Errno.EIO) == (who in owed)
            if error:
                unheard = False
            owed.discard(who)
