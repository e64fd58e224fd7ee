"""Each bug of the past is found when its fix is undone, and nothing is found with the fix."""

from __future__ import annotations

import re
from statistics import median

import pytest

from .. import undone
from .bug import Bug
from .page import PAGE, STRATEGIES, checker_of, measured, preemptions, render
from .rows import NOT_UNDONE, ROWS

PLAIN = [bug for bug in ROWS if not bug.races]
RACES = [bug for bug in ROWS if bug.races]
MEASURED = measured()
GAPS = {5, 8, 10, 15, 20, 23, 27, 30, 34, 46, 48, 50, 51, 55, 59, 64}
"""Numbers of which nothing is known."""
SLACK = 10
"""The model changes, and with it which order comes first; by more than this, what is printed is stale."""


@pytest.mark.parametrize("bug", RACES, ids=repr)
def test_some_order_fails_without_the_fix(bug: Bug) -> None:
    expected = MEASURED[bug.name]
    counts = {name: count for name, count in expected.executions.items() if count is not None}
    strategy = min(counts, key=lambda name: counts[name])
    outcome = undone.explore(bug, strategy, SLACK * counts[strategy] + SLACK)
    told = f"{outcome.word}: {outcome.failure!r}\nrepeat: {bug.command('--strategy', strategy)}"
    assert outcome.word == "found", told
    assert re.search(bug.breaks, outcome.failure), told
    assert checker_of(outcome.failure) == expected.checker, "repeat: python bench/bench_history.py --write"


@pytest.mark.parametrize("bug", RACES, ids=repr)
def test_no_order_fails_with_the_fix(bug: Bug) -> None:
    outcome = undone.explore(bug, "dpor", ours=True)
    assert (outcome.word, outcome.failure) == ("exhausted", ""), f"repeat: {outcome.command}"


@pytest.mark.parametrize("bug", PLAIN, ids=repr)
def test_a_plain_run_fails_without_the_fix_and_not_with_it(bug: Bug) -> None:
    assert undone.run(bug, ours=True).wrong == (), f"repeat: {bug.command('--ours')}"
    found = undone.run(bug).wrong
    line = next((line for line in found if re.search(bug.breaks, line)), None)
    assert line is not None, f"{found}\nrepeat: {bug.command()}"
    assert checker_of(line) == MEASURED[bug.name].checker, "repeat: python bench/bench_history.py --write"


def test_every_number_is_found_or_has_a_reason() -> None:
    names = [*(bug.name for bug in ROWS), *NOT_UNDONE]
    assert len(names) == len(set(names))
    known = {int(name.strip("Bb")) for name in names}
    assert known | GAPS >= set(range(1, 71)), sorted(set(range(1, 71)) - known - GAPS)
    assert not known & GAPS


def test_most_are_found_and_in_few_preemptions() -> None:
    assert len(ROWS) >= 45
    assert median(preemptions(MEASURED)) <= 2


def test_what_was_measured_is_of_these_rows() -> None:
    assert list(MEASURED) == [bug.name for bug in ROWS], "repeat: python bench/bench_history.py --write"
    assert all(set(MEASURED[bug.name].executions) == set(STRATEGIES) for bug in RACES)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(MEASURED), "docs/history.md is stale: run make docs"
