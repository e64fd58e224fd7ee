"""What counts as a difference between two witnesses, and what does not."""

from __future__ import annotations

import pytest

from hwpoison.abi.records import Observation, Outcome
from hwpoison.lab.compare import Difference, differences

VERDICT = Observation(2, "verdict", "", {"type": "dirty LRU page", "result": "Recovered"})
SIGNAL_A = Observation(2, "signal", "A", {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12})
SIGNAL_B = Observation(2, "signal", "B", {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12})
DIED = Observation(3, "died", "A", {"signal": "SIGBUS"})
FIRST = Observation(4, "verdict", "", {"type": "clean LRU page", "result": "Failed"})


def outcome(*seen: Observation) -> Outcome:
    return Outcome("x", "6.12", "somebody", seen)


def test_the_same_is_no_difference() -> None:
    assert differences(outcome(VERDICT, SIGNAL_A), outcome(VERDICT, SIGNAL_A)) == ()


@pytest.mark.parametrize("seen", [VERDICT, SIGNAL_A, DIED])
def test_what_only_one_of_them_saw_is_a_difference(seen: Observation) -> None:
    (missing,) = differences(outcome(seen), outcome())
    assert (missing.step, missing.kind, missing.who, missing.kernel) == (seen.step, seen.kind, seen.who, ())
    (extra,) = differences(outcome(), outcome(seen))
    assert (extra.model, extra.kernel) == ((), missing.model)


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        (
            "signal",
            {"code": "BUS_MCEERR_AR", "page": "m:0", "lsb": 12},
            {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12},
        ),
        (
            "signal",
            {"code": "BUS_MCEERR_AR", "page": "m:0", "lsb": 12},
            {"code": "BUS_MCEERR_AR", "page": "m:1", "lsb": 12},
        ),
        (
            "signal",
            {"code": "BUS_MCEERR_AR", "page": "m:0", "lsb": 12},
            {"code": "BUS_MCEERR_AR", "page": "m:0", "lsb": 16},
        ),
        ("died", {"signal": "SIGBUS"}, {"signal": "SIGKILL"}),
        ("call", {"data": "new"}, {"data": "old"}),
        ("call", {"data": "ok"}, {"errno": "EIO"}),
        ("return", {"code": "0"}, {"code": "-EBUSY"}),
        ("verdict", {"type": "a", "result": "Failed"}, {"type": "a", "result": "Ignored"}),
        ("counter", {"HardwareCorrupted": 1}, {"HardwareCorrupted": 2}),
        ("page", {"cached": "yes", "dirty": "yes"}, {"cached": "yes", "dirty": "no"}),
        ("pte", {"entry": "poison"}, {"entry": "none"}),
        ("disk", {"data": "new"}, {"data": "old"}),
    ],
)
def test_every_value_counts(kind: str, ours: dict[str, str | int], theirs: dict[str, str | int]) -> None:
    model, kernel = (Observation(1, kind, "A", value) for value in (ours, theirs))  # type: ignore[arg-type]
    assert len(differences(outcome(model), outcome(kernel))) == 1


def test_the_order_of_what_happens_to_different_tasks_does_not_count() -> None:
    assert differences(outcome(VERDICT, SIGNAL_A, SIGNAL_B), outcome(SIGNAL_B, SIGNAL_A, VERDICT)) == ()


def test_the_order_of_what_happens_to_one_thing_counts() -> None:
    second = Observation(4, "verdict", "", {"type": "already poisoned page", "result": "Failed"})
    (found,) = differences(outcome(FIRST, second), outcome(second, FIRST))
    assert found.model == tuple(reversed(found.kernel))


def test_how_often_counts() -> None:
    assert len(differences(outcome(SIGNAL_A), outcome(SIGNAL_A, SIGNAL_A))) == 1


def test_the_step_counts() -> None:
    later = Observation(3, "signal", "A", SIGNAL_A.value)
    assert len(differences(outcome(SIGNAL_A), outcome(later))) == 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([Observation(1, "call", "A", {"data": "ok"})], []),
        ([], [Observation(1, "log", "", {"text": "corrupted page was clean"})]),
        (
            [Observation(1, "panic", "", {"text": "Memory failure on page 1a"})],
            [Observation(1, "panic", "", {"text": "other words"})],
        ),
        (
            [Observation(1, "signal", "A", {"page": "m:0", "lsb": 12})],
            [Observation(1, "signal", "A", {"lsb": "12", "page": "m:0"})],
        ),
    ],
)
def test_what_does_not_count(ours: list[Observation], theirs: list[Observation]) -> None:
    assert differences(outcome(*ours), outcome(*theirs)) == ()


def test_whether_the_machine_stopped_counts() -> None:
    panic = Observation(2, "panic", "", {"text": "Fatal machine check"})
    assert differences(outcome(panic), outcome()) == (Difference(2, "panic", "", ("yes",), ()),)


def test_a_difference_shows_both_sides() -> None:
    (found,) = differences(outcome(DIED), outcome())
    assert found.text() == "step 3, died A: model signal=SIGBUS, kernel -"
