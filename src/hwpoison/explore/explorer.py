"""Runs a program's executions for a strategy, and checks each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hwpoison.mm.locks import LockOrderError

from .containers import journal
from .dataraces import DataRaces
from .engine import ENDED, ENDLESS, FAILED, IDLE, STUCK, Pick
from .program import Failure, Program
from .strategies.dpor import Dpor
from .watch import watch_of
from .world import World, WorldError

UNTESTED = {"mapcount", "entire_mapcount", "large_mapcount", "pincount"}
"""Counters that are changed without a look at the result: only their going below zero would be seen."""
CHECKED_RUNS = 20
"""After so many executions nobody compares the world with what it was any more, but every 1000th time."""


class Explorer:
    """One program, its world and its engine; ``open()`` watches the model meanwhile."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.engine = program.paths
        self.watch = watch_of(tuple(program.modules))
        self.world = World(program.roots, self.watch, self.engine.keys)
        self.executions = 0
        self.failures: list[Failure] = []
        self.rest: set[tuple[int, object]] = set()
        lockless = program.lockless
        self.judge_each = False
        """Look for data races in each execution, though it is not one of an exhaustive search."""
        self.data_races = None if lockless is None else DataRaces(self.engine, self.watch, lockless)

    @contextmanager
    def open(self) -> Iterator[Explorer]:
        with self.watch.watching():
            yield self
            self.world.put_back()

    def execute(self, plan: Sequence[int], pick: Pick, watch_from: int = 0) -> str:
        """One execution; afterwards ``failures`` says what was wrong with it."""
        self.world.put_back()
        self.executions += 1
        if self.executions <= CHECKED_RUNS or self.executions % 1000 == 0:
            different = self.world.differences()
            if different:
                raise WorldError("; ".join(different[:3]))
        status = self.engine.run(self._start, plan, pick, watch_from)
        self.engine.check_counters(self._floor)
        self.failures = list(self._failures(status))
        journal.clear()
        if self.judge_each:
            self.failures += self.races(Dpor(self.engine).order_only())
        return status

    def races(self, pairs: Sequence[tuple[int, int]]) -> list[Failure]:
        """Data races among events of the last execution that nothing but their conflict orders."""
        if self.data_races is None:
            return []
        judged = (self.data_races.judge(e, n) for e, n in pairs)
        return [failure for failure in judged if failure is not None]

    def _start(self) -> None:
        for spec in self.program.specs:
            self.engine.spawn(spec.name, spec.function, task=spec.task, cpu=spec.cpu)

    def _floor(self, key: int) -> tuple[int, int] | None:
        number, code = self.engine.keys.meaning[key]
        thing = self.engine.keys.things[number]
        name = self.watch.fields[code >> 2].name
        value = self.world.saved[id(thing)].get(name)
        return None if value is None else (value, 0 if name in UNTESTED else 1)

    def _failures(self, status: str) -> Iterator[Failure]:
        if status == STUCK:
            yield Failure("deadlock", self.engine.report)
        elif status == ENDLESS:
            yield Failure("endless", f"{self.engine.n} events and no end")
        elif status == FAILED:
            error = self.engine.failed_with
            kind = "lock order" if isinstance(error, LockOrderError) else "assertion"
            yield Failure(kind, f"{type(error).__name__}: {error}")
        elif status == ENDED:
            journal.clear()
            self.program.settle()
            self._learn_rest()
            yield from self.program.check()

    def _learn_rest(self) -> None:
        """What the end of a run has touched must be put back, too."""
        touched = set(zip(map(id, journal[::2]), journal[1::2], strict=True)) - self.rest
        if touched:
            self.rest |= touched
            things = {id(thing): thing for thing in journal[::2]}
            for key, code in touched:
                if key in self.engine.keys.world:
                    self.engine.keys.of(things[key], code, IDLE)
        journal.clear()
