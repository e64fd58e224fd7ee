"""Small programs on the model's own primitives, for checking the engine: any that a seed gives."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hwpoison.mm.locks import (
    Lock,
    Op,
    RwSem,
    atomic_add,
    atomic_add_unless_zero,
    atomic_compare_set,
    read_once,
    test_and_clear,
    test_and_set,
    write_once,
)

from .engine import Engine
from .program import Failure, PathSpec


class Word:
    """A shared word, some flags, a counter, and a table."""

    __slots__ = ("count", "flags", "items", "name", "paths", "table", "value")

    def __init__(self, paths: Engine, name: str) -> None:
        self.paths = paths
        self.name = name
        self.value = 0
        self.flags = 0
        self.count = 1
        self.table: dict[int, int] = {}
        self.items: list[int] = []

    def __repr__(self) -> str:
        return self.name

    describe = __repr__

    def set_value(self, value: int) -> None:
        """A plain write, with no point of its own."""
        self.value = value

    def mark(self, mask: int) -> None:
        self.flags |= mask


WORDS = 2

Action = Callable[["Toy", list[Any]], None]


class Toy:
    """``paths`` of ``actions``; what each path has read is part of the outcome."""

    def __init__(self, programs: Sequence[Sequence[Action]], *, words: int = WORDS) -> None:
        self.paths = Engine()
        self.words = [Word(self.paths, f"w{number}") for number in range(words)]
        self.locks = [Lock(self.paths, name, name) for name in ("mmap_lock", "ptl")]
        self.semaphores = [RwSem(self.paths, "i_mmap_rwsem", "sem")]
        self.programs = programs
        self.outcomes: set[Any] = set()
        self.logs: list[list[Any]] = []

    @property
    def roots(self) -> list[Any]:
        return [self.words, self.locks, self.semaphores]

    @property
    def modules(self) -> list[ModuleType]:
        return [sys.modules[__name__]]

    @property
    def lockless(self) -> None:
        """Random accesses without a lock are what it is for."""

    @property
    def specs(self) -> list[PathSpec]:
        self.logs = [[] for _ in self.programs]
        return [PathSpec(f"p{n}", self._runner(n)) for n in range(len(self.programs))]

    def _runner(self, number: int) -> Callable[[], None]:
        actions, log = self.programs[number], self.logs[number]

        def body() -> None:
            for action in actions:
                action(self, log)

        return body

    def state(self) -> Any:
        words = tuple(
            (w.value, int(w.flags), w.count, tuple(sorted(w.table.items())), tuple(w.items))
            for w in self.words
        )
        return words, tuple(map(tuple, self.logs))

    def settle(self) -> None:
        self.outcomes.add(self.state())

    def check(self) -> list[Failure]:
        return []


# Actions for random programs; each is deterministic but for what it reads.


def _plain_read(toy: Toy, log: list[Any], word: int) -> None:
    log.append(toy.words[word].value)


def _plain_write(toy: Toy, log: list[Any], word: int) -> None:
    toy.words[word].set_value(len(log) + 10 * word + 1)


def _marked_read(toy: Toy, log: list[Any], word: int) -> None:
    log.append(read_once(toy.words[word], "value"))


def _marked_write(toy: Toy, log: list[Any], word: int) -> None:
    write_once(toy.words[word], "value", len(log) + 5)


def _set_flag(toy: Toy, log: list[Any], word: int) -> None:
    log.append(test_and_set(toy.words[word], 1 << len(log) % 2))


def _clear_flag(toy: Toy, log: list[Any], word: int) -> None:
    log.append(test_and_clear(toy.words[word], 3))


def _look_at_flags(toy: Toy, log: list[Any], word: int) -> None:
    log.append(toy.words[word].flags & 2)


def _all_flags(toy: Toy, log: list[Any], word: int) -> None:
    log.append(int(toy.words[word].flags))


def _up(toy: Toy, log: list[Any], word: int) -> None:
    atomic_add(toy.words[word], "count", 1)


def _down(toy: Toy, log: list[Any], word: int) -> None:
    """As put_page(): only the last one is noticed."""
    it = toy.words[word]
    if it.count > 0 and atomic_add_unless_zero(it, "count", -1) and it.count == 0:
        log.append("last")


def _get(toy: Toy, log: list[Any], word: int) -> None:
    log.append(atomic_add_unless_zero(toy.words[word], "count"))


def _freeze(toy: Toy, log: list[Any], word: int) -> None:
    log.append(atomic_compare_set(toy.words[word], "count", 1, 0))


def _table(toy: Toy, log: list[Any], word: int) -> None:
    toy.words[word].table[len(log) % 2] = len(log)


def _look_in_table(toy: Toy, log: list[Any], word: int) -> None:
    log.append(toy.words[word].table.get(0))


def _append(toy: Toy, log: list[Any], word: int) -> None:
    toy.words[word].items.append(len(log))


def _wake(toy: Toy, log: list[Any], word: int) -> None:
    write_once(toy.words[word], "value", 7)
    toy.paths.wake(toy.words[word])


def _await(toy: Toy, log: list[Any], word: int) -> None:
    it = toy.words[word]
    toy.paths.point(Op.READ, it)
    while it.value != 7:
        toy.paths.wait(it)
    log.append("woken")


SIMPLE = [
    _plain_read, _plain_write, _marked_read, _marked_write, _set_flag, _clear_flag, _look_at_flags,
    _all_flags, _up, _down, _get, _freeze, _table, _look_in_table, _append, _wake,
]  # fmt: skip


def _bound(function: Callable[[Toy, list[Any], int], None], word: int) -> Action:
    return lambda toy, log: function(toy, log, word)


def _locked(number: int, inner: Sequence[Action], after: Sequence[Action]) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        toy.locks[number].acquire(nested=True)
        for each in inner:
            each(toy, log)
        toy.locks[number].release()
        for each in after:
            each(toy, log)

    return action


def _tried(number: int, inner: Sequence[Action]) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        taken = toy.locks[number].trylock()
        log.append(taken)
        if taken:
            for each in inner:
                each(toy, log)
            toy.locks[number].release()

    return action


def _read_locked(inner: Sequence[Action]) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        toy.semaphores[0].down_read(nested=True)
        for each in inner:
            each(toy, log)
        toy.semaphores[0].up_read()

    return action


def _write_locked(inner: Sequence[Action]) -> Action:
    def action(toy: Toy, log: list[Any]) -> None:
        toy.semaphores[0].down_write(nested=True)
        for each in inner:
            each(toy, log)
        toy.semaphores[0].up_write()

    return action


def random_actions(draw: random.Random, size: int, *, depth: int = 2) -> list[Action]:
    """About ``size`` operations, some of them inside of locks."""
    actions: list[Action] = []
    while size > 0:
        kind = draw.random()
        if depth and kind < 0.45 and size >= 2:
            inner = random_actions(draw, draw.randint(0, min(2, size - 1)), depth=depth - 1)
            after = [_bound(draw.choice([_plain_read, _plain_write]), draw.randrange(WORDS))] * draw.randint(
                0, 1
            )
            number = draw.randrange(2)
            actions.append(
                draw.choice(
                    [
                        _locked(number, inner, after),
                        _locked(number, inner, []),
                        _tried(number, inner),
                        _read_locked(inner),
                        _write_locked(inner),
                    ]
                )
            )
            size -= 2 + len(inner)
        else:
            choice = _await if kind > 0.95 else draw.choice(SIMPLE)
            actions.append(_bound(choice, draw.randrange(WORDS)))
            size -= 1
    return actions


def random_toy(seed: int, *, paths: int | None = None, size: int | None = None) -> Toy:
    """A program that is a function of its seed: two or three paths of a few operations."""
    draw = random.Random(seed)
    count = paths or draw.choice((2, 2, 3))
    each = size or (7 if count == 2 else 3)
    return Toy([random_actions(draw, draw.randint(1, each)) for _ in range(count)])
