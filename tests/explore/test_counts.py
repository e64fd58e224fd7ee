"""Small programs whose interleavings and orders are known by counting."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial
from typing import Any

import pytest

from hwpoison.explore.engine import CUT, Engine
from hwpoison.explore.explorer import Explorer
from hwpoison.explore.search import Search, Status, Strategy, learned
from hwpoison.explore.strategies.bounded import Bounded
from hwpoison.explore.strategies.dpor import Dpor
from hwpoison.explore.toy import Action, Toy
from hwpoison.explore.toy_handler import BUGS, ToyHandler, count_paths, final_words
from hwpoison.mm.locks import atomic_add, atomic_add_unless_zero, atomic_compare_set, read_once, write_once


def write(word: int) -> Action:
    return lambda toy, log: write_once(toy.words[word], "value", len(log) + 1)


def read(word: int) -> Action:
    return lambda toy, log: log.append(read_once(toy.words[word], "value"))


def count(word: int) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        atomic_add(toy.words[word], "count", 1)

    return action


def locked(inner: Sequence[Action]) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        with toy.locks[0]:
            for each in inner:
                each(toy, log)

    return action


def executions(toy: Toy, strategy: type[Dpor] | type[Bounded]) -> tuple[int, int]:
    """(executions that came to an end, those that were cut)."""
    explorer = Explorer(toy)
    search: Strategy = strategy(explorer.engine)
    whole = cut = 0
    with explorer.open():
        while (planned := search.plan()) is not None:
            status = explorer.execute(planned[0], search.pick, planned[1])
            if learned(explorer.engine, search):
                whole = cut = 0
                continue
            whole += status != CUT
            cut += status == CUT
    return whole, cut


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (4, 4)])
def test_plain_search_runs_every_interleaving_of_independent_paths(a: int, b: int) -> None:
    """Each path has its start and its operations."""
    toy = Toy([[write(0)] * a, [write(1)] * b])
    assert executions(toy, Bounded) == (comb(a + b + 2, a + 1), 0)


def test_independent_paths_have_one_order() -> None:
    assert executions(Toy([[write(0)] * 5, [write(1)] * 5, [write(2)] * 5], words=3), Dpor) == (1, 0)


@pytest.mark.parametrize("paths", [2, 3, 4])
def test_writers_of_one_word_have_an_order_for_each_permutation(paths: int) -> None:
    assert executions(Toy([[write(0)]] * paths), Dpor) == (factorial(paths), 0)


@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_each_reader_of_one_writer_comes_before_it_or_after_it(readers: int) -> None:
    whole, _cut = executions(Toy([[write(0)], *([[read(0)]] * readers)]), Dpor)
    assert whole == 2**readers


def test_counting_commutes_while_nobody_looks_at_the_value() -> None:
    assert executions(Toy([[count(0)] * 3, [count(0)] * 3]), Dpor) == (1, 0)


@pytest.mark.parametrize("paths", [2, 3])
def test_sections_of_one_lock_that_touch_one_word_have_an_order_for_each_permutation(paths: int) -> None:
    assert executions(Toy([[locked([write(0)])]] * paths), Dpor)[0] == factorial(paths)


def test_sections_of_one_lock_that_touch_nothing_in_common_have_one_order() -> None:
    """They are given back before anybody else can be next: being held is seen by nobody."""
    assert executions(Toy([[locked([])] * 3, [locked([])] * 3]), Dpor) == (1, 0)


@pytest.mark.parametrize("bound", [0, 1, 2, 3])
def test_a_bound_on_preemptions_lets_just_those_interleavings_through(bound: int) -> None:
    """Two paths of n events: choose the places where one is left before its end."""
    toy = Toy([[write(0)] * 3, [write(1)] * 3])
    explorer = Explorer(toy)
    search = Bounded(explorer.engine, bound)
    schedules = set()
    with explorer.open():
        while (planned := search.plan()) is not None:
            explorer.execute(planned[0], search.pick, planned[1])
            schedules.add(tuple(explorer.engine.events.tid))
    everything = Bounded(explorer.engine)
    allowed = set()
    with explorer.open():
        while (planned := everything.plan()) is not None:
            explorer.execute(planned[0], everything.pick, planned[1])
            tids = explorer.engine.events.tid
            switches = [n for n in range(1, len(tids)) if tids[n] != tids[n - 1] and tids[n - 1] in tids[n:]]
            if len(switches) <= bound:
                allowed.add(tuple(tids))
    assert schedules == allowed


# The slice of the handler: explorer.md's measure of what the reduction is worth.


def test_millions_of_interleavings_of_the_slice_are_a_score_of_orders() -> None:
    interleavings, states, stuck = count_paths()
    assert (interleavings, states, stuck) == (5_668_836, 495, 0)
    explorer = Explorer(ToyHandler())
    with explorer.open():
        result = Search(explorer).run("dpor")
    assert (result.status, result.orders, result.cut) == (Status.EXHAUSTED, 24, 3)


def test_the_orders_of_the_slice_end_in_the_states_that_a_plain_stepper_ends_in() -> None:
    for bug in BUGS:
        toy = ToyHandler(bug)
        explorer = Explorer(toy)
        with explorer.open():
            result = Search(explorer, keep_going=True).run("dpor")
        deadlocks = [found for found in result.failures if found.failure.kind == "deadlock"]
        assert bool(deadlocks) == bool(count_paths(bug)[2]), bug
        assert toy.ends == final_words(bug), bug


def test_the_engine_is_an_ordinary_machine_until_it_explores() -> None:
    engine = Engine()
    done: list[int] = []
    engine.spawn("path", done.append, 1)
    engine.finish()
    assert done == [1]


# Loops that wait for somebody without sleeping.


def freeze(toy: Toy, log: list[Any]) -> None:
    if atomic_compare_set(toy.words[0], "count", 1, 0):
        write_once(toy.words[1], "value", 7)
        atomic_add(toy.words[0], "count", 1)


def get(toy: Toy, log: list[Any]) -> None:
    """As filemap_get_folio(): a frozen count is soon another."""
    tries = 0
    while not atomic_add_unless_zero(toy.words[0], "count"):
        toy.paths.relax()
        tries += 1
    log.append((tries > 0, read_once(toy.words[1], "value")))


@pytest.mark.parametrize("programs", [[[freeze], [get]], [[freeze, freeze], [get]], [[freeze], [get], [get]]])
def test_a_loop_that_waits_ends_in_every_way_it_can(programs: list[list[Action]]) -> None:
    plain, reduced = Toy(programs), Toy(programs)
    plain.paths.every_point = True
    assert executions(plain, Bounded)[0] > executions(reduced, Dpor)[0]
    assert plain.outcomes == reduced.outcomes
    assert len(reduced.outcomes) > 1


def test_a_loop_that_nobody_ends_is_a_deadlock() -> None:
    def never(toy: Toy, log: list[Any]) -> None:
        while read_once(toy.words[0], "value") == 0:
            toy.paths.relax()

    explorer = Explorer(Toy([[never], [write(1)]]))
    with explorer.open():
        (found,) = Search(explorer).run("dpor").failures
    assert (found.failure.kind, "ends its loop" in found.failure.text) == ("deadlock", True)
