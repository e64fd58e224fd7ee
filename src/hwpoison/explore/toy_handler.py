"""A slice of the handler, small enough to count: three paths, two locks, five words, and three bugs.

memory_failure() against a truncation that brings the page back, against a fault. The program is data, so
that two machines can run it: the engine, on the model's primitives, and a plain stepper (count_paths())
that shares no line with it and says how many interleavings and states there are. Bugs to plant: ``abba``
(the truncation takes its locks the wrong way round), ``atom`` (the count of mappings is read and written in
two steps, outside the lock), ``lost`` (so is the count of references).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from hwpoison.mm.locks import Lock, atomic_add, read_once, write_once

from .engine import Engine
from .program import Failure, PathSpec

Instruction = tuple[Any, ...]
Code = tuple[Instruction, ...]
"""lock L, unlock L, set W value, add W delta, load W (into the register), store W delta (register plus that),
unless N, if N, always N: skip N instructions if the register is zero, is not, anyway."""
JUMPS = ("unless", "if", "always")


def skipped(op: str, register: int, count: int) -> int:
    """How many instructions a jump passes over."""
    return count if op == "always" or (op == "if") == bool(register) else 0


WORDS = ("poison", "ref", "mapping", "pte", "mapcount")
START = {"poison": 0, "ref": 1, "mapping": 1, "pte": 0, "mapcount": 0}
BUGS = ("", "abba", "atom", "lost")


def count_mapping(delta: int, bug: str) -> Code:
    return (
        (("load", "mapcount"), ("store", "mapcount", delta))
        if bug == "atom"
        else (("add", "mapcount", delta),)
    )


def count_reference(delta: int, bug: str) -> Code:
    return (("load", "ref"), ("store", "ref", delta)) if bug == "lost" else (("add", "ref", delta),)


def change_entry(pte: int, bug: str) -> Code:
    """Under the lock of the page table: the entry becomes ``pte`` if it is not, and is counted."""
    counted = count_mapping(1 if pte else -1, bug)
    skip = "if" if pte else "unless"
    if bug == "atom":
        inside: Code = (
            ("lock", "T"),
            ("load", "pte"),
            (skip, 2),
            ("set", "pte", pte),
            ("unlock", "T"),
            *counted,
        )
        return (*inside[:2], (skip, 3 + len(counted)), *inside[3:], ("always", 1), ("unlock", "T"))
    body: Code = (("set", "pte", pte), *counted)
    return (("lock", "T"), ("load", "pte"), (skip, len(body)), *body, ("unlock", "T"))


def memory_failure(bug: str) -> Code:
    """Mark it, take it, take it out of its file, unmap it."""
    marked: Code = (("set", "poison", 1), *count_reference(1, bug))
    return (*marked, ("lock", "P"), ("set", "mapping", 0), ("unlock", "P"), *change_entry(0, bug))


def truncate(bug: str) -> Code:
    """Let go of the page, and bring one back."""
    inside: Code = (("set", "mapping", 0), ("set", "mapping", 1))
    if bug == "abba":
        inside = (("lock", "T"), *inside, ("unlock", "T"))
        return (("lock", "T"), ("lock", "P"), *inside[1:3], ("unlock", "P"), ("unlock", "T"))
    return (("lock", "P"), *inside, ("unlock", "P"), *count_reference(-1, bug), *count_reference(1, bug))


def fault(bug: str) -> Code:
    body = change_entry(1, bug)
    if bug == "abba":
        body = (("lock", "P"), *body, ("unlock", "P"))
    return (("load", "mapping"), ("unless", len(body)), *body)


def programs(bug: str = "", rounds: int = 1) -> dict[str, Code]:
    return {
        "mce": memory_failure(bug) * rounds,
        "trunc": truncate(bug) * rounds,
        "fault": fault(bug) * rounds,
    }


class SharedWord:
    """One word of memory."""

    __slots__ = ("name", "paths", "value")

    def __init__(self, paths: Engine, name: str, value: int) -> None:
        self.paths = paths
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return self.name

    describe = __repr__


class ToyHandler:
    """The programs on the primitives of the model, to be explored."""

    def __init__(self, bug: str = "", rounds: int = 1) -> None:
        self.paths = Engine()
        self.comparable = True  # see strategies/cached.py
        self.words = {name: SharedWord(self.paths, name, START[name]) for name in WORDS}
        self.locks = {"P": Lock(self.paths, "folio_lock", "P"), "T": Lock(self.paths, "ptl", "T")}
        self.programs = programs(bug, rounds)
        self.ends: set[tuple[int, ...]] = set()
        self.expected = START["ref"] + rounds

    @property
    def roots(self) -> list[Any]:
        return [self.words, self.locks]

    @property
    def modules(self) -> list[ModuleType]:
        return [sys.modules[__name__]]

    @property
    def lockless(self) -> None:
        """Its bugs are to be found by what comes of them."""

    @property
    def specs(self) -> list[PathSpec]:
        return [PathSpec(name, self._runner(code)) for name, code in self.programs.items()]

    def _runner(self, code: Code) -> Callable[[], None]:
        return lambda: self.execute(code)

    def execute(self, code: Code) -> None:
        register, at = 0, 0
        while at < len(code):
            op, *rest = code[at]
            at += 1
            if op == "lock":
                self.locks[rest[0]].acquire(nested=True)
            elif op == "unlock":
                self.locks[rest[0]].release()
            elif op in JUMPS:
                at += skipped(op, register, rest[0])
            elif op == "load":
                register = read_once(self.words[rest[0]], "value")
            elif op == "set":
                write_once(self.words[rest[0]], "value", rest[1])
            elif op == "store":
                write_once(self.words[rest[0]], "value", register + rest[1])
            else:
                atomic_add(self.words[rest[0]], "value", rest[1])

    def settle(self) -> None:
        self.ends.add(tuple(self.words[name].value for name in WORDS))

    def check(self) -> list[Failure]:
        values = {name: word.value for name, word in self.words.items()}
        found = []
        if values["mapcount"] != values["pte"]:
            found.append(
                Failure("assertion", f"mapcount is {values['mapcount']}, entries map {values['pte']}")
            )
        if values["ref"] != self.expected:
            found.append(Failure("assertion", f"ref is {values['ref']}, expected {self.expected}"))
        return found


State = tuple[tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]]
"""(next instruction, register) of each path; the words; the owner of each lock (-1: nobody)."""


class Stepper:
    """The same programs as a state machine of tuples."""

    LOCKS = ("P", "T")

    def __init__(self, bug: str, rounds: int) -> None:
        self.codes = list(programs(bug, rounds).values())

    def start(self) -> State:
        threads = tuple(self._follow(path, 0, 0) for path in range(len(self.codes)))
        return threads, tuple(START[word] for word in WORDS), (-1, -1)

    def _follow(self, path: int, at: int, register: int) -> tuple[int, int]:
        """Jumps are nobody else's business: they are made at once."""
        code = self.codes[path]
        while at < len(code) and code[at][0] in JUMPS:
            op, count = code[at]
            at += 1 + skipped(op, register, count)
        return at, register

    def going(self, state: State) -> list[int]:
        """The paths that have not ended."""
        return [path for path, code in enumerate(self.codes) if state[0][path][0] < len(code)]

    def step(self, state: State, path: int) -> State | None:
        """The state after one instruction of a path; None if it has to wait."""
        threads, words, owners = state
        at, register = threads[path]
        op, name, *rest = self.codes[path][at]
        if op in ("lock", "unlock"):
            index = self.LOCKS.index(name)
            if op == "lock" and owners[index] >= 0:
                return None
            owners = (*owners[:index], path if op == "lock" else -1, *owners[index + 1 :])
        else:
            index = WORDS.index(name)
            if op == "load":
                register = words[index]
            else:
                value = rest[0] if op == "set" else (register if op == "store" else words[index]) + rest[0]
                words = (*words[:index], value, *words[index + 1 :])
        moved = self._follow(path, at + 1, register)
        return (*threads[:path], moved, *threads[path + 1 :]), words, owners

    def after(self, state: State) -> list[State]:
        return [after for path in self.going(state) if (after := self.step(state, path)) is not None]


def count_paths(bug: str = "", rounds: int = 1) -> tuple[int, int, int]:
    """(interleavings, distinct states, states in which nobody can go on though not all have ended)."""
    stepper, stuck = Stepper(bug, rounds), 0

    @cache
    def ways(state: State) -> int:
        nonlocal stuck
        found = stepper.after(state)
        stuck += not found and bool(stepper.going(state))
        return sum(map(ways, found)) if found else 1

    return ways(stepper.start()), ways.cache_info().currsize, stuck


def final_words(bug: str = "", rounds: int = 1) -> set[tuple[int, ...]]:
    """What the words can be when every path has ended."""
    stepper = Stepper(bug, rounds)
    todo, seen = [stepper.start()], set[State]()
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += stepper.after(state)
    return {state[1] for state in seen if not stepper.going(state)}
