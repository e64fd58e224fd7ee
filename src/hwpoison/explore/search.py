"""Exploring a program: which strategies, how many executions, and what may be concluded from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hwpoison.abi.problems import WrongUse, unknown_name

from .engine import CUT, Engine
from .explorer import Explorer
from .program import Failure
from .schedule import Stretch, stretches
from .strategies.bounded import Bounded
from .strategies.cached import Cached
from .strategies.dpor import Dpor
from .strategies.pct import Pct
from .strategies.pos import Pos
from .strategies.random_walk import RandomWalk

DEFAULT_BUDGET = 200_000
BURST = 150
"""Random executions before the search that exhausts: enough for most mistakes, and the engine learns."""
TELL_EVERY = 200
LOCK_FAILURES = ("deadlock", "lock order")


class Status(Enum):
    """What an exploration can conclude. A budget that was spent is never a pass."""

    EXHAUSTED = "exhausted"
    UP_TO = "exhausted up to a number of preemptions"
    FAILED = "failed"
    SPENT = "budget spent"


@dataclass(frozen=True, slots=True)
class Found:
    """A failure, the schedule that shows it, and what it took to find it."""

    failure: Failure
    schedule: tuple[Stretch, ...]
    strategy: str
    executions: int


@dataclass(slots=True)
class Result:
    """``orders``: complete executions of the exhaustive search; ``cut``: those it gave up as repetitions."""

    status: Status = Status.SPENT
    bound: int | None = None
    executions: int = 0
    orders: int = 0
    cut: int = 0
    events: int = 0
    restarts: int = 0
    share: float = 0.0
    """How much of the search is done, as far as can be told from the tree behind it."""
    failures: list[Found] = field(default_factory=list)
    known: list[Found] = field(default_factory=list)
    """Known weaknesses of real kernels that were seen, each once."""

    @property
    def estimate(self) -> int | None:
        """How many executions it will be in the end, roughly; None: too early to say."""
        return round(self.orders / self.share) if self.share > 0 and self.orders else None


class Strategy(Protocol):
    """``plan()`` gives the events to begin with and the number of the first that is new; None: no more."""

    name: str

    def plan(self) -> tuple[list[int], int] | None: ...
    def pick(self, enabled: int) -> int: ...
    def learn(self) -> None: ...
    def restart(self) -> None: ...


def learned(engine: Engine, strategy: Strategy) -> bool:
    """After an execution: the strategy learns from it. True: the engine has, and the search begins again."""
    if not engine.learned:
        strategy.learn()
    if not engine.learned:
        return False
    engine.learned = False
    strategy.restart()
    return True


STRATEGIES = ("auto", "dpor", "random", "pos", "pct", "naive", "cached", "bounded:N")
"""``auto``: a random burst, then dpor. ``bounded:2``: every interleaving of at most two preemptions."""


def strategies(name: str, explorer: Explorer, budget: int, seed: int) -> list[Strategy]:
    """The strategies behind a name, to be used one after the other."""
    engine = explorer.engine
    bounded = re.fullmatch(r"bounded:(\d+)", name)
    if bounded:
        return [Bounded(engine, int(bounded[1]))]
    burst = max(1, min(BURST, budget // 10))
    if name == "auto":
        shares: list[Strategy] = [
            Pos(engine, burst // 2, seed),
            RandomWalk(engine, burst // 3, seed),
            Pct(engine, burst // 6, seed),
        ]
        return [*shares, Dpor(engine)]
    simple: dict[str, Callable[[], Strategy]] = {
        "dpor": lambda: Dpor(engine),
        "random": lambda: RandomWalk(engine, budget, seed),
        "pos": lambda: Pos(engine, budget, seed),
        "pct": lambda: Pct(engine, budget, seed),
        "naive": lambda: Bounded(engine),
        "cached": lambda: Cached(explorer),
    }
    if name not in simple:
        raise WrongUse(str(unknown_name("strategy", name, STRATEGIES)))
    return [simple[name]()]


@dataclass(slots=True)
class Search:
    """One exploration. ``keep_going``: look for all sorts of failures instead of stopping at the first."""

    explorer: Explorer
    budget: int = DEFAULT_BUDGET
    keep_going: bool = False
    tell: Callable[[Result], None] | None = None
    result: Result = field(default_factory=Result)

    def run(self, name: str = "auto", seed: int = 0) -> Result:
        result = self.result
        for strategy in strategies(name, self.explorer, self.budget, seed):
            ended = self._use(strategy)
            if result.failures and not self.keep_going:
                break
            if ended and isinstance(strategy, Dpor | Bounded):
                result.bound = strategy.bound if isinstance(strategy, Bounded) else None
                result.status = Status.EXHAUSTED if result.bound is None else Status.UP_TO
        self._judge_locks()
        if result.failures:
            result.status = Status.FAILED
        return result

    def _judge_locks(self) -> None:
        """No order of locks may go round in a circle, even if no execution has met in it."""
        graph = self.explorer.engine.lock_graph
        cycle = graph.cycle()
        if cycle is not None and not any(
            found.failure.kind in LOCK_FAILURES for found in self.result.failures
        ):
            failure = Failure("lock order", graph.tell(cycle))
            self.result.failures.append(Found(failure, (), "all executions", self.result.executions))

    def _use(self, strategy: Strategy) -> bool:
        """Execute what a strategy plans; whether it has come to its end."""
        explorer, engine, result = self.explorer, self.explorer.engine, self.result
        exhaustive = isinstance(strategy, Dpor | Bounded)
        while (planned := strategy.plan()) is not None:
            if result.executions >= self.budget:
                return False
            status = explorer.execute(planned[0], strategy.pick, planned[1])
            result.executions += 1
            result.events += len(engine.events)
            self._note(strategy, explorer.failures)
            if result.failures and not self.keep_going:
                return False
            if learned(engine, strategy):
                if exhaustive:
                    result.restarts += 1
                    result.orders = result.cut = 0
                continue
            if isinstance(strategy, Dpor):
                self._note(strategy, explorer.races(strategy.races))
                if result.failures and not self.keep_going:
                    return False
            if exhaustive:
                result.orders += status != CUT
                result.cut += status == CUT
            if isinstance(strategy, Dpor) and result.executions % TELL_EVERY == 0:
                result.share = strategy.share()
            if self.tell is not None and result.executions % TELL_EVERY == 0:
                self.tell(result)
        if exhaustive:
            result.share = 1.0
        return True

    def _note(self, strategy: Strategy, failures: Sequence[Failure]) -> None:
        """Keep the first schedule of each sort of failure."""
        for failure in failures:
            kept = self.result.failures if failure.known is None else self.result.known
            if all(found.failure.sort != failure.sort for found in kept):
                schedule = stretches(self.explorer.engine)
                kept.append(Found(failure, schedule, strategy.name, self.result.executions))
