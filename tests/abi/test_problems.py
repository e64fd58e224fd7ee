"""Problems that people are told: one sentence, and an exit code."""

from __future__ import annotations

import pytest

from hwpoison.abi.problems import (
    DONE,
    FINDING,
    NOT_POSSIBLE,
    WRONG_USE,
    NotPossible,
    Problem,
    WrongUse,
    unknown_name,
)


def test_exit_codes_are_those_of_the_contract() -> None:
    assert (DONE, FINDING, WRONG_USE, NOT_POSSIBLE) == (0, 1, 2, 3)
    assert WrongUse("x").exit_code == WRONG_USE
    assert NotPossible("x").exit_code == NOT_POSSIBLE
    assert Problem("x").exit_code == NOT_POSSIBLE


def test_a_wrong_name_is_answered_with_the_near_ones() -> None:
    problem = unknown_name("kernel profile", "6.2", ["7.3", "6.12", "6.1"])
    assert isinstance(problem, WrongUse)
    assert str(problem).startswith("unknown kernel profile '6.2': did you mean ")
    assert "6.12" in str(problem)


def test_a_name_near_to_nothing_is_answered_with_all_there_are() -> None:
    assert str(unknown_name("colour", "zzz", ["red", "blue"])) == "unknown colour 'zzz': known: blue, red"


@pytest.mark.parametrize("name", ["", "\n", "6.1' or 1=1"])
def test_any_name_is_quoted(name: str) -> None:
    assert repr(name) in str(unknown_name("profile", name, ["7.3"]))
