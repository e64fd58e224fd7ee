"""What the engine does with paths that fail, wait, take a lock twice or never end; nothing escapes it."""

from __future__ import annotations

from typing import Any

import pytest

from hwpoison.explore.engine import ENDED, ENDLESS, FAILED, STUCK
from hwpoison.explore.explorer import Explorer
from hwpoison.explore.search import Search
from hwpoison.explore.strands import EngineError
from hwpoison.explore.toy import Action, Toy
from hwpoison.explore.world import WorldError
from hwpoison.mm.locks import KernelBug, atomic_add, read_once, write_once


def first(enabled: int) -> int:
    return (enabled & -enabled).bit_length() - 1


def run(*programs: list[Action]) -> tuple[str, Explorer, Toy]:
    toy = Toy(programs)
    explorer = Explorer(toy)
    with explorer.open():
        return explorer.execute([], first), explorer, toy


def test_paths_run_to_their_ends() -> None:
    status, explorer, toy = run([lambda toy, log: log.append("one")], [lambda toy, log: log.append("two")])
    assert (status, explorer.failures, toy.logs) == (ENDED, [], [["one"], ["two"]])


def test_an_exception_of_a_path_is_a_failure_that_names_it() -> None:
    def bug(toy: Toy, log: list[Any]) -> None:
        raise KernelBug("a list is broken")

    status, explorer, _toy = run([bug], [])
    assert status == FAILED
    assert [(f.kind, f.text) for f in explorer.failures] == [("assertion", "KernelBug: a list is broken")]


def test_a_path_that_ends_with_a_lock_is_a_failure() -> None:
    status, explorer, _toy = run([lambda toy, log: toy.locks[0].acquire()], [])
    assert status == FAILED
    assert "ended holding mmap_lock" in explorer.failures[0].text


def test_a_deadlock_says_who_holds_and_who_waits() -> None:
    def take(one: int, two: int) -> Action:
        def action(toy: Toy, log: list[Any]) -> None:
            with toy.locks[one].nested(), toy.locks[two].nested():
                log.append("both")

        return action

    explorer = Explorer(Toy([[take(0, 1)], [take(1, 0)]]))
    with explorer.open():
        (found,) = Search(explorer).run("dpor").failures
    assert found.failure.kind == "deadlock"
    assert "p0 holds mmap_lock(mmap_lock) and waits for ptl(ptl)" in found.failure.text


def test_a_lock_taken_against_the_order_is_told_as_that() -> None:
    def wrong(toy: Toy, log: list[Any]) -> None:
        with toy.locks[1], toy.locks[0]:
            pass

    _status, explorer, _toy = run([wrong], [])
    assert [failure.kind for failure in explorer.failures] == ["lock order"]


def test_a_lock_taken_twice_by_one_path_is_told_and_not_waited_for() -> None:
    def twice(toy: Toy, log: list[Any]) -> None:
        with toy.locks[0].nested(), toy.locks[0].nested():
            pass

    status, explorer, _toy = run([twice], [])
    assert status == FAILED
    assert "twice" in explorer.failures[0].text


def test_a_wait_for_what_nobody_does_is_a_deadlock() -> None:
    status, _explorer, _toy = run([lambda toy, log: toy.paths.wait(toy.words[0])], [])
    assert status == STUCK


def test_when_all_paths_wait_a_device_may_answer() -> None:
    toy = Toy([[lambda toy, log: toy.paths.wait(toy.words[0])], []])
    answers = iter([True, False])

    def idle() -> bool:
        toy.paths.wake(toy.words[0])
        return next(answers)

    toy.paths.idle = idle
    explorer = Explorer(toy)
    with explorer.open():
        assert explorer.execute([], first) == ENDED


def test_a_path_without_an_end_is_stopped() -> None:
    def spin(toy: Toy, log: list[Any]) -> None:
        while True:
            read_once(toy.words[0], "value")

    status, explorer, _toy = run([spin], [])
    assert status == ENDLESS
    assert explorer.failures[0].kind == "endless"


def test_a_path_may_start_another() -> None:
    def start(toy: Toy, log: list[Any]) -> None:
        toy.paths.join(toy.paths.spawn("child", log.append, "child"))
        log.append("parent")

    _status, _explorer, toy = run([start], [])
    assert toy.logs[0] == ["child", "parent"]


def test_each_execution_starts_from_the_same_world() -> None:
    def change(toy: Toy, log: list[Any]) -> None:
        word = toy.words[0]
        write_once(word, "value", 3)
        word.mark(5)
        atomic_add(word, "count", 2)
        word.table[1] = 1
        word.items.append(4)

    toy = Toy([[change], []])
    explorer = Explorer(toy)
    with explorer.open():
        for _ in range(5):
            explorer.execute([], first)
        explorer.world.put_back()
        assert explorer.world.differences() == []
    assert len(toy.outcomes) == 1


def test_a_change_that_nobody_watches_is_noticed() -> None:
    def sneak(toy: Toy, log: list[Any]) -> None:
        type(toy.words[0]).name.__set__(toy.words[0], "other")  # type: ignore[attr-defined]

    toy = Toy([[sneak], []])
    explorer = Explorer(toy)
    with explorer.open():
        explorer.execute([], first)
        with pytest.raises(WorldError, match="name of Word"):
            explorer.execute([], first)


def test_a_plan_that_cannot_happen_is_refused() -> None:
    toy = Toy([[], []])
    explorer = Explorer(toy)
    with explorer.open(), pytest.raises(EngineError, match="event 1"):
        explorer.execute([0, 0, 0], first)


def test_the_classes_are_as_they_were_after_an_exploration() -> None:
    from hwpoison.explore.toy import Word

    before = dict(vars(Word))
    run([lambda toy, log: write_once(toy.words[0], "value", 1)], [])
    assert dict(vars(Word)) == before
