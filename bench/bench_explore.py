"""How fast interleavings are explored, what a point costs, and whether the engine can be believed.

    python bench/bench_explore.py                  a minute
    python bench/bench_explore.py --fuzz 5000      random programs against plain depth-first search (long)
    python bench/bench_explore.py --races          exhaust the race catalogue on the newest kernel (long)
    python bench/bench_explore.py --triples        its races of three paths, up to the bounds that it states
    python bench/bench_explore.py --finds          executions until planted bugs are found, per strategy

Times are of this process only. Each ratio compares two ways to run the same two paths, taken in turns, so
what else the computer does disturbs both alike.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.fuzz import compare
from hwpoison.explore.race import Race
from hwpoison.explore.search import Search, Status
from hwpoison.explore.toy_handler import BUGS, ToyHandler, count_paths
from hwpoison.mm.locks import Paths
from hwpoison.scenario.load import races, triples
from hwpoison.scenario.races import triple_bounds

GOAL_PER_SECOND = 10_000
RACES = ("forked+store", "ext4-dirty+fsync", "ext4-clean+load", "tmpfs+read")
BATCH = 100
SLOWEST = 15
COMPLETE = (Status.EXHAUSTED, Status.UP_TO)
RACES_A_PROCESS = 20
"""A new process now and then: what the watch keeps of machines that are gone grows."""


def speed(name: str, budget: int) -> None:
    """Executions a second of the search that exhausts, checks of all promises included."""
    explorer = Explorer(Race(races()[name]))
    gc.collect()
    gc.freeze()
    start = time.process_time()
    with explorer.open():
        result = Search(explorer, budget, keep_going=True).run("dpor")
    seconds = time.process_time() - start
    gc.unfreeze()
    events = result.events / result.executions
    rate = result.executions / seconds
    print(
        f"{name}: {rate:,.0f} executions/s of {events:.0f} events (goal {GOAL_PER_SECOND:,}), "
        f"{1e6 / rate / events:.1f} us an event, {result.status.value}"
    )


def overhead(name: str, rounds: int) -> None:
    """One order of two paths: as the model runs it by itself, under the engine, and watched."""
    race = Race(races()[name])
    explorer = Explorer(race)
    engine = explorer.engine
    last: list[int] = []

    def first(enabled: int) -> int:
        return (enabled & -enabled).bit_length() - 1

    def plain() -> None:
        for spec in race.specs:
            Paths.spawn(engine, spec.name, spec.function, task=spec.task, cpu=spec.cpu)
        Paths.finish(engine)

    def watched() -> None:
        engine.run(explorer._start, [], first, 0)

    def replayed() -> None:
        engine.run(explorer._start, last, first, len(last) - 1)

    with explorer.open():
        explorer.execute([], first)
        last = list(engine.events.tid)
        times = in_turns([plain, watched, replayed], explorer.world.put_back, rounds)
    without, with_watch, again = times
    print(
        f"{name}: watched {with_watch / without:.1f} x, replayed {again / without:.1f} x the plain model run"
    )


def in_turns(actions: list[Callable[[], None]], before: Callable[[], None], rounds: int) -> list[float]:
    """The median time of each."""
    found: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, found, strict=True):
            before()
            start = time.process_time()
            action()
            times.append(time.process_time() - start)
    return [median(times) for times in found]


def slices() -> None:
    """The slice of the handler: what the reduction is worth, and what a small event costs."""
    for rounds in (1, 2):
        interleavings, states, _stuck = count_paths("", rounds)
        explorer = Explorer(ToyHandler("", rounds))
        start = time.process_time()
        with explorer.open():
            result = Search(explorer).run("dpor")
        seconds = time.process_time() - start
        print(
            f"slice, {rounds} round(s): {interleavings:,} interleavings, {states:,} states: "
            f"{result.orders:,} orders and {result.cut} cut, {seconds:.2f} s, "
            f"{result.executions / seconds:,.0f}/s of {result.events / result.executions:.0f} events"
        )


def fuzz(programs: int) -> int:
    """Random programs on which the reduced search and the plain one disagree."""
    skipped = failing = plain = reduced = 0
    different: dict[int, str] = {}
    for first in range(0, programs, BATCH):
        tally = compare(range(first, min(first + BATCH, programs)), limit=500)
        skipped += tally.skipped
        failing += tally.with_failures
        plain += tally.plain
        reduced += tally.reduced
        different |= tally.different
    for seed, how in different.items():
        print(f"program {seed}: {how}")
    print(
        f"{programs:,} random programs, {skipped:,} of them too large, {failing:,} that can fail: "
        f"{len(different)} mismatches; {plain:,} executions of plain search, {reduced:,} of the reduced one"
    )
    return int(bool(different))


@dataclass(frozen=True, slots=True)
class Explored:
    """What became of one race. ``seconds``: of its own process."""

    name: str
    status: Status
    executions: int
    orders: int
    seconds: float
    failures: tuple[str, ...]


def explore_race(name: str, budget: int) -> Explored:
    """Every order of one race, or those up to its bound."""
    start = time.process_time()
    explorer = Explorer(Race((races() | triples())[name]))
    bound = triple_bounds().get(name)
    with explorer.open():
        result = Search(explorer, budget).run("auto" if bound is None else f"bounded:{bound}")
    seconds = time.process_time() - start
    failures = tuple(found.failure.text for found in result.failures)
    return Explored(name, result.status, result.executions, result.orders, seconds, failures)


def all_races(catalogue: Iterable[str], pattern: str, budget: int, jobs: int) -> int:
    """Explore every race whose name fits to its end, in so many processes."""
    names = [name for name in catalogue if fnmatch(name, pattern)]
    start, found, explore = time.monotonic(), list[Explored](), partial(explore_race, budget=budget)
    with get_context("spawn").Pool(jobs, maxtasksperchild=RACES_A_PROCESS) as pool:
        try:
            for race in pool.imap_unordered(explore, names):
                found.append(race)
                print(f"{len(found)} of {len(names)}: {race.name}", end="\r", file=sys.stderr, flush=True)
                if race.status not in COMPLETE:
                    told = f"{race.name}: {race.status.value} after {race.executions:,} {race.failures}"
                    print(told, flush=True)
        except KeyboardInterrupt:
            print(f"interrupted: {len(names) - len(found)} races were not explored to their end")
    elapsed = time.monotonic() - start
    found.sort(key=lambda race: -race.seconds)
    for race in found[:SLOWEST]:
        print(f"  {race.name}: {race.orders:,} orders, {race.executions:,} executions, {race.seconds:,.0f} s")
    bad = sum(race.status not in COMPLETE for race in found)
    print(
        f"{len(found)} races, {bad} not exhausted, {sum(race.orders for race in found):,} orders in "
        f"{sum(race.executions for race in found):,} executions; {elapsed:,.0f} s with {jobs} processes, "
        f"{sum(race.seconds for race in found):,.0f} s of processor time"
    )
    return int(bad > 0 or len(found) < len(names))


def finds(seeds: int) -> None:
    """Executions until each planted bug is found: median and most, of so many seeds."""
    for bug in BUGS[1:]:
        for strategy in ("random", "pos", "pct", "dpor", "bounded:1"):
            counts = []
            for seed in range(1 if strategy in ("dpor", "bounded:1") else seeds):
                explorer = Explorer(ToyHandler(bug))
                with explorer.open():
                    result = Search(explorer, 20_000).run(strategy, seed)
                counts.append(result.executions if result.failures else 20_000)
            print(f"{bug}, {strategy}: median {median(counts):.0f}, most {max(counts)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fuzz", type=int, metavar="PROGRAMS")
    parser.add_argument("--races", nargs="?", const="*", metavar="PATTERN")
    parser.add_argument("--triples", nargs="?", const="*", metavar="PATTERN")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--finds", action="store_true")
    parser.add_argument("--budget", type=int, default=300_000)
    options = parser.parse_args()
    if options.fuzz:
        return fuzz(options.fuzz)
    if options.races:
        return all_races(races(), options.races, options.budget, options.jobs)
    if options.triples:
        return all_races(triples(), options.triples, options.budget, options.jobs)
    if options.finds:
        finds(31)
        return 0
    slices()
    for name in RACES:
        speed(name, 1_500)
        overhead(name, 100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
