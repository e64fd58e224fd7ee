"""The shortest telling of a failure: fewest preemptions, then fewest switches, the same sort of failure.

First exactly: of all executions in which the same events happen in the same order where it matters, the one
with the fewest switches. Then greedily: leave stretches out, or let them go on, run that, and keep it if it
fails still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from .explorer import Explorer
from .program import Failure
from .schedule import TO_THE_END, Part, Rerun, Stretch, stretches
from .strategies.dpor import Dpor

MOST_RUNS = 300
MOST_STATES = 100_000
Cost = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shortest:
    """``before``: preemptions when it was found; ``runs``: executions that it took to shorten it."""

    schedule: tuple[Stretch, ...]
    parts: tuple[Part, ...]
    failure: Failure
    preemptions: int
    switches: int
    before: int
    runs: int


class Minimiser:
    def __init__(self, explorer: Explorer, sort: tuple[str, str]) -> None:
        self.explorer = explorer
        self.sort = sort
        self.runs = 0
        explorer.judge_each = sort[0] == "data race"

    def run(self, schedule: Sequence[Stretch]) -> tuple[Cost, tuple[Stretch, ...], Rerun] | None:
        """What this schedule comes to, if it still fails in the same way."""
        self.runs += 1
        rerun = Rerun(self.explorer, schedule)
        if all(failure.sort != self.sort for failure in rerun.failures):
            return None
        engine = self.explorer.engine
        cost = rerun.preemptions, rerun.switches, len(engine.events)
        return cost, stretches(engine), rerun

    def shortest(self, schedule: Sequence[Stretch]) -> Shortest | None:
        """None: the failure does not come again."""
        first = self.run(schedule)
        if first is None:
            return None
        best = first
        ordered = self.run(in_few_switches(self.explorer))
        if ordered is not None and ordered[0] < best[0]:
            best = ordered
        improved = True
        while improved and self.runs < MOST_RUNS:
            improved = False
            for candidate in _shorter(best[1]):
                tried = self.run(candidate)
                if tried is not None and tried[0] < best[0]:
                    best, improved = tried, True
                    break
                if self.runs >= MOST_RUNS:
                    break
        again = self.run(best[1])  # so that the engine has the execution that is reported
        if again is None:
            return None
        cost, found, rerun = again
        failure = next(failure for failure in rerun.failures if failure.sort == self.sort)
        return Shortest(found, tuple(rerun.parts), failure, cost[0], cost[1], first[0][0], self.runs)


def _shorter(schedule: tuple[Stretch, ...]) -> list[tuple[Stretch, ...]]:
    """Without one stretch; with one that goes on to the end; without everything after one."""
    count = len(schedule)
    found = [(*schedule[:n], *schedule[n + 1 :]) for n in range(count)]
    found += [
        (*schedule[:n], (schedule[n][0], TO_THE_END), *schedule[n + 1 :])
        for n in range(count)
        if schedule[n][1] != TO_THE_END
    ]
    found += [schedule[:n] for n in range(1, count - 1)]
    return found


def in_few_switches(explorer: Explorer) -> tuple[Stretch, ...]:
    """The last execution with its events in another order, which makes no difference to anybody."""
    engine = explorer.engine
    events = engine.events
    happens_before = before_each(explorer)
    own: dict[int, list[int]] = {}
    for n, tid in enumerate(events.tid):
        own.setdefault(tid, []).append(n)
    tids = sorted(own)
    lengths = tuple(len(own[tid]) for tid in tids)
    start = (0,) * len(tids), -1
    came_from: dict[tuple[tuple[int, ...], int], tuple[tuple[int, ...], int] | None] = {start: None}
    queue: list[tuple[int, int, int, tuple[tuple[int, ...], int]]] = [(0, 0, 0, start)]
    settled: set[tuple[tuple[int, ...], int]] = set()
    while queue and len(settled) < MOST_STATES:
        preemptions, switches, _serial, state = heappop(queue)
        if state in settled:
            continue
        settled.add(state)
        at, last = state
        if at == lengths:
            return _as_stretches(explorer, _path_to(state, came_from, tids))
        done = sum(1 << n for index, tid in enumerate(tids) for n in own[tid][: at[index]])
        ready = [
            index
            for index, tid in enumerate(tids)
            if at[index] < lengths[index] and not happens_before[own[tid][at[index]]] & ~done
        ]
        for index in ready:
            after = (*at[:index], at[index] + 1, *at[index + 1 :]), index
            if after in settled:
                continue
            leaves = last >= 0 and index != last
            cost = preemptions + int(leaves and last in ready), switches + int(leaves)
            heappush(queue, (*cost, len(came_from), after))
            came_from.setdefault(after, state)
    return stretches(engine)


def before_each(explorer: Explorer) -> list[int]:
    """For each event of the last execution, a mask of those that happen before it."""
    order = Dpor(explorer.engine)
    order.order_only()
    return order.hb


def _path_to(
    state: tuple[tuple[int, ...], int],
    came_from: dict[tuple[tuple[int, ...], int], tuple[tuple[int, ...], int] | None],
    tids: list[int],
) -> list[int]:
    found = []
    before = came_from[state]
    while before is not None:
        found.append(tids[state[1]])
        state = before
        before = came_from[state]
    return found[::-1]


def _as_stretches(explorer: Explorer, order: list[int]) -> tuple[Stretch, ...]:
    """Path numbers, one an event, as stretches."""
    events = explorer.engine.events
    passed: dict[int, list[int]] = {}
    for n, tid in enumerate(events.tid):
        passed.setdefault(tid, []).append(events.passed[n])
    taken = dict.fromkeys(passed, 0)
    found: list[Stretch] = []
    for n, tid in enumerate(order):
        taken[tid] += 1
        if n + 1 == len(order) or order[n + 1] != tid:
            left = passed[tid][taken[tid]] if taken[tid] < len(passed[tid]) else TO_THE_END
            found.append((tid, left))
    return tuple(found)
