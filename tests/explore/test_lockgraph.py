"""Orders of locks over all executions: a circle is told even if nobody was caught in it."""

from __future__ import annotations

from typing import Any

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.race import Race
from hwpoison.explore.search import Search
from hwpoison.explore.toy import Action, Toy
from hwpoison.explore.toy_handler import ToyHandler
from hwpoison.mm.locks import Op, read_once, write_once
from hwpoison.mm.page import Event
from hwpoison.scenario.load import races


def nested(one: int, two: int) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        with toy.locks[one].nested(), toy.locks[two].nested():
            pass

    return action


def explored(*programs: list[Action]) -> list[tuple[str, str]]:
    explorer = Explorer(Toy(programs))
    with explorer.open():
        result = Search(explorer, budget=500).run("dpor")
    return [(found.failure.kind, found.failure.text) for found in result.failures]


def test_a_circle_of_one_path_alone_is_told_though_it_never_deadlocks() -> None:
    ((kind, text),) = explored([nested(0, 1), nested(1, 0)], [])
    assert kind == "lock order"
    assert "ptl after mmap_lock (by p0)" in text
    assert "mmap_lock after ptl (by p0)" in text


def test_one_order_is_no_circle() -> None:
    assert explored([nested(0, 1)], [nested(0, 1)]) == []


def test_a_deadlock_that_was_met_is_told_as_that() -> None:
    assert [kind for kind, _text in explored([nested(0, 1)], [nested(1, 0)])] == ["deadlock"]


def test_waiting_with_a_lock_for_somebody_who_needs_it_is_a_circle() -> None:
    """Nobody is caught in it when the other one has had the lock already."""
    done = Event("writeback of 0x3")

    def wakes(toy: Toy, log: list[Any]) -> None:
        with toy.locks[0].nested():
            write_once(toy.words[1], "value", 1)
        write_once(toy.words[0], "value", 1)
        toy.paths.wake(done)

    def waits(toy: Toy, log: list[Any]) -> None:
        with toy.locks[0].nested():
            while read_once(toy.words[0], "value") == 0:
                toy.paths.wait(done)

    explorer = Explorer(Toy([[wakes], [waits]]))
    engine = explorer.engine

    def wakes_last(enabled: int) -> int:
        """The first path up to its second write, then the other one until it sleeps."""
        first = engine.strands[0]
        if enabled & 1 and not (first.op is Op.WRITE and first.on is engine_words[0]):
            return 0
        return 1 if enabled & 2 else 0

    engine_words = explorer.program.words  # type: ignore[attr-defined]
    with explorer.open():
        explorer.execute([], wakes_last)
    graph = engine.lock_graph
    assert ("mmap_lock", "writeback") in graph.edges
    assert ("writeback", "mmap_lock") in graph.edges
    cycle = graph.cycle()
    assert cycle is not None
    assert set(cycle) == {"mmap_lock", "writeback"}


def test_the_slice_of_the_handler_has_an_order_and_the_model_has_one() -> None:
    explorer = Explorer(ToyHandler())
    with explorer.open():
        Search(explorer).run("dpor")
    assert explorer.engine.lock_graph.cycle() is None
    explorer = Explorer(Race(races()["ext4-dirty+fsync"]))
    with explorer.open():
        Search(explorer, budget=300, keep_going=True).run("auto")
    graph = explorer.engine.lock_graph
    assert graph.cycle() is None
    assert ("folio_lock", "writeback") in graph.edges
    assert ("mf_mutex", "folio_lock") in graph.edges
