"""The engine against plain depth-first search, on random small programs: same outcomes, same ways to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .engine import FAILED, STUCK, Engine
from .explorer import Explorer
from .search import Strategy, learned
from .strategies.bounded import Bounded
from .strategies.dpor import Dpor
from .toy import random_toy


@dataclass(slots=True)
class Seen:
    """What one search saw. ``complete`` False: it took too many executions to be worth while."""

    complete: bool = True
    executions: int = 0
    outcomes: set[Any] = field(default_factory=set)
    failures: set[str] = field(default_factory=set)


def search_all(seed: int, make: Callable[[Engine], Strategy], *, every_point: bool, limit: int) -> Seen:
    """Everything that can become of a program, as one strategy sees it."""
    toy = random_toy(seed)
    engine = toy.paths
    engine.every_point = every_point
    explorer, strategy, seen = Explorer(toy), make(engine), Seen()
    with explorer.open():
        while (planned := strategy.plan()) is not None:
            if seen.executions >= limit:
                seen.complete = False
                break
            status = explorer.execute(planned[0], strategy.pick, planned[1])
            seen.executions += 1
            if status == STUCK:
                seen.failures.add(engine.report)
            elif status == FAILED:
                seen.failures.add(str(engine.failed_with))
            learned(engine, strategy)
    seen.outcomes = toy.outcomes
    return seen


@dataclass(slots=True)
class Tally:
    """``different``: seeds of programs on which the two disagree, and how."""

    programs: int = 0
    skipped: int = 0
    with_failures: int = 0
    plain: int = 0
    reduced: int = 0
    different: dict[int, str] = field(default_factory=dict)


def compare(seeds: range, limit: int = 2_000) -> Tally:
    """Run both on each program; those of more than ``limit`` interleavings are skipped."""
    tally = Tally()
    for seed in seeds:
        tally.programs += 1
        plain = search_all(seed, Bounded, every_point=True, limit=limit)
        if not plain.complete:
            tally.skipped += 1
            continue
        reduced = search_all(seed, Dpor, every_point=False, limit=100 * limit)
        tally.plain += plain.executions
        tally.reduced += reduced.executions
        tally.with_failures += bool(plain.failures)
        if plain.outcomes != reduced.outcomes:
            tally.different[seed] = f"outcomes {plain.outcomes ^ reduced.outcomes}"
        elif plain.failures != reduced.failures:
            tally.different[seed] = f"failures {plain.failures ^ reduced.failures}"
    return tally
