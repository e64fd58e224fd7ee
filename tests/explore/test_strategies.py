"""Each strategy finds planted bugs, says what it may, and repeats itself."""

from __future__ import annotations

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.explore.explorer import Explorer
from hwpoison.explore.race import Race
from hwpoison.explore.schedule import Rerun
from hwpoison.explore.search import Result, Search, Status
from hwpoison.explore.toy_handler import BUGS, ToyHandler, count_paths, final_words
from hwpoison.scenario.load import races

FINDERS = ("auto", "dpor", "random", "pos", "pct", "bounded:2", "cached")
KINDS = {"abba": "deadlock", "atom": "assertion", "lost": "assertion"}


def explored(
    bug: str, strategy: str, *, budget: int = 3_000, rounds: int = 1, keep_going: bool = False
) -> Result:
    explorer = Explorer(ToyHandler(bug, rounds))
    with explorer.open():
        return Search(explorer, budget=budget, keep_going=keep_going).run(strategy)


@pytest.mark.parametrize("strategy", FINDERS)
@pytest.mark.parametrize("bug", KINDS)
def test_a_planted_bug_is_found(bug: str, strategy: str) -> None:
    result = explored(bug, strategy)
    assert result.status is Status.FAILED
    assert result.failures[0].failure.kind == KINDS[bug]


@pytest.mark.parametrize("bug", KINDS)
def test_the_schedule_that_is_kept_fails_again_in_the_same_way(bug: str) -> None:
    explorer = Explorer(ToyHandler(bug))
    with explorer.open():
        (found,) = Search(explorer).run("dpor").failures
        assert [failure.sort for failure in Rerun(explorer, found.schedule).failures] == [found.failure.sort]


def test_a_program_without_a_bug_is_exhausted() -> None:
    assert explored("", "dpor").status is Status.EXHAUSTED
    assert explored("", "auto").status is Status.EXHAUSTED


def test_a_bounded_search_says_up_to_what() -> None:
    result = explored("", "bounded:1")
    assert (result.status, result.bound) == (Status.UP_TO, 1)


@pytest.mark.parametrize("strategy", ["dpor", "random", "pos", "pct", "naive", "auto"])
def test_a_spent_budget_is_no_pass(strategy: str) -> None:
    assert explored("", strategy, budget=15).status is Status.SPENT


def test_a_search_that_keeps_going_after_a_failure_sees_the_other_ones() -> None:
    """Without the lock, the count of references is lost in two ways: one too many, one too few."""
    result = explored("lost", "dpor", keep_going=True)
    assert len({found.failure.text for found in result.failures}) >= 1
    assert result.executions > explored("lost", "dpor").executions


def test_the_share_that_is_done_ends_with_all() -> None:
    shares: list[float] = []
    explorer = Explorer(ToyHandler(rounds=2))
    with explorer.open():
        result = Search(explorer, tell=lambda r: shares.append(r.share)).run("dpor")
    assert len(shares) > 3
    assert all(0 < share < 1 for share in shares)
    assert result.share == 1.0
    assert result.estimate == result.orders


def test_a_strategy_of_another_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(WrongUse, match="dpor"):
        explored("", "dpro")


@pytest.mark.parametrize(("bug", "rounds"), [*((bug, 1) for bug in BUGS), ("", 2), ("abba", 2)])
def test_the_search_that_turns_back_at_known_states_sees_every_end(bug: str, rounds: int) -> None:
    toy = ToyHandler(bug, rounds)
    explorer = Explorer(toy)
    with explorer.open():
        result = Search(explorer, 20_000, keep_going=True).run("cached")
    deadlocks = [found for found in result.failures if found.failure.kind == "deadlock"]
    assert result.executions < 20_000
    assert toy.ends == final_words(bug, rounds)
    assert bool(deadlocks) == bool(count_paths(bug, rounds)[2])


def test_states_that_cannot_be_compared_are_not() -> None:
    explorer = Explorer(Race(races()["anon+unmap"]))
    with explorer.open(), pytest.raises(WrongUse, match="cannot be compared"):
        Search(explorer).run("cached")


@pytest.mark.parametrize("strategy", ["dpor", "random", "pos", "pct"])
def test_every_schedule_run_twice_does_the_same_twice(strategy: str) -> None:
    from hwpoison.explore.search import learned, strategies

    explorer = Explorer(ToyHandler(rounds=2))
    engine = explorer.engine
    (search,) = strategies(strategy, explorer, 60, seed=3)
    with explorer.open():
        for _ in range(60):
            planned = search.plan()
            assert planned is not None
            explorer.execute(planned[0], search.pick, planned[1])
            if learned(engine, search):
                continue
            once = [*engine.events.tid], [*engine.events.footprint]
            again = explorer.execute(list(engine.events.tid), lambda _enabled: -1, len(engine.events) - 1)
            assert ([*engine.events.tid], [*engine.events.footprint]) == once, again
