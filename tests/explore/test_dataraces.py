"""Data races: what two paths touch has a lock, or is done by marked accesses, or the table says why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.race import Race
from hwpoison.explore.search import Search
from hwpoison.explore.toy import Action, Toy
from hwpoison.explore.watch import Watch
from hwpoison.mm import locks
from hwpoison.mm.lockless import LOCKLESS
from hwpoison.mm.locks import atomic_add, read_once, write_once
from hwpoison.scenario.load import races


class Checked(Toy):
    """A toy of which somebody looks for data races."""

    table: Mapping[str, str] = {}

    @property
    def lockless(self) -> Mapping[str, str]:  # type: ignore[override]
        return self.table


def told(*programs: list[Action], table: Mapping[str, str] | None = None) -> list[str]:
    program = Checked(programs)
    program.table = table or {}
    explorer = Explorer(program)
    with explorer.open():
        result = Search(explorer, budget=500, keep_going=True).run("dpor")
    assert {found.failure.kind for found in result.failures} <= {"data race"}
    return [found.failure.text for found in result.failures]


def write(toy: Toy, log: list[Any]) -> None:
    toy.words[0].set_value(1)


def read(toy: Toy, log: list[Any]) -> None:
    log.append(toy.words[0].value)


def write_marked(toy: Toy, log: list[Any]) -> None:
    write_once(toy.words[0], "value", 1)


def read_marked(toy: Toy, log: list[Any]) -> None:
    log.append(read_once(toy.words[0], "value"))


def locked(number: int, inner: Action) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        with toy.locks[number]:
            inner(toy, log)

    return action


def shared(inner: Action, *, write: bool = False) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        with toy.semaphores[0].write() if write else toy.semaphores[0].read():
            inner(toy, log)

    return action


def test_a_plain_write_beside_a_read_is_told_with_both_paths() -> None:
    (text,) = told([write], [read])
    assert text == "Word.value: p0 (start), and p1 (start), without a lock of both"


def test_two_reads_are_none() -> None:
    assert told([read], [read]) == []


def test_a_lock_of_both_orders_them() -> None:
    assert told([locked(0, write)], [locked(0, read)]) == []


def test_different_locks_do_not() -> None:
    assert len(told([locked(0, write)], [locked(1, read)])) == 1


def test_readers_of_a_semaphore_do_not_exclude_each_other() -> None:
    assert len(told([shared(write)], [shared(read)])) == 1
    assert told([shared(write, write=True)], [shared(read)]) == []


def test_a_marked_access_on_both_sides_is_none_and_on_one_is_one() -> None:
    assert told([write_marked], [read_marked]) == []
    assert len(told([write_marked], [read])) == 1


def test_an_atomic_counter_may_be_looked_at_only_by_who_is_listed() -> None:
    def up(toy: Toy, log: list[Any]) -> None:
        atomic_add(toy.words[0], "count", 1)

    def look(toy: Toy, log: list[Any]) -> None:
        log.append(toy.words[0].count)

    assert told([up], [up]) == []
    assert len(told([up], [look])) == 1
    assert told([up], [look], table={"Word.count": "atomic"}) == []


def test_a_flag_that_both_meet_at_orders_them() -> None:
    def publish(toy: Toy, log: list[Any]) -> None:
        if locks.test_and_set(toy.words[1], 1):
            log.append("there")
        toy.words[0].set_value(1)

    assert told([publish], [publish]) == []


def test_an_entry_of_a_table_counts_and_another_entry_does_not() -> None:
    def put(toy: Toy, log: list[Any]) -> None:
        toy.words[0].table[0] = 1

    def look(toy: Toy, log: list[Any]) -> None:
        log.append(toy.words[0].table.get(0))

    def look_elsewhere(toy: Toy, log: list[Any]) -> None:
        log.append(toy.words[0].table.get(1))

    assert len(told([put], [look])) == 1
    assert told([put], [look_elsewhere]) == []


def test_the_table_names_only_what_the_model_has() -> None:
    race = Race(races()["anon+load"])
    known = {f"{field.cls.__name__}.{field.name}" for field in Watch(list(race.modules)).fields}
    assert LOCKLESS.keys() <= known
    assert all(LOCKLESS.values())


def test_an_access_of_the_model_that_the_table_does_not_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {name: reason for name, reason in LOCKLESS.items() if name != "PageTable.entries"}
    monkeypatch.setattr("hwpoison.explore.race.LOCKLESS", rest)
    explorer = Explorer(Race(races()["anon+load"]))
    with explorer.open():
        result = Search(explorer, budget=500).run("dpor")
    (found,) = result.failures
    assert found.failure.kind == "data race" and "PageTable.entries" in found.failure.text
