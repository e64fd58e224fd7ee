"""How fast memory_failure() is, and that its time depends on nothing but the users of the page.

    python bench/bench_handler.py            a few seconds
    python bench/bench_handler.py --quick    fewer repetitions

Each ratio compares two machines in one run: they take turns, page by page, and the medians of many errors
are divided, so what else this computer does meanwhile disturbs both alike. Objects made while building are
frozen out of Python's garbage collector, which would otherwise charge the handler for the size of the heap.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from hwpoison.failure.flags import MF_SW_SIMULATED
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Task

GOAL_PER_SECOND = 10_000
GOAL_BYSTANDERS = 1.2
GOAL_PER_MAPPER = 1.5


@dataclass
class World:
    """A handler, and pages of one kind for it to meet, one after the other."""

    failure: MemoryFailure
    pages: Iterator[int]

    def hit(self) -> float:
        """Seconds that one error takes."""
        pfn = next(self.pages)
        start = time.perf_counter()
        returned = self.failure.memory_failure(pfn, MF_SW_SIMULATED)
        seconds = time.perf_counter() - start
        if returned:
            raise SystemExit(f"page {pfn:#x} was not recovered: {self.failure.vm.log[-1]}")
        return seconds


def world(task: Task, first: int, pages: int) -> World:
    """The pages that a task maps from its page number ``first`` on, all of them on the reclaim lists."""
    vm = task.vm
    vm.lru.add_drain_all()
    entries = [task.alive_mm().entry(vpn) for vpn in range(first, first + pages)]
    frames = [entry.page.pfn for entry in entries if isinstance(entry, Pte)]
    return World(MemoryFailure(vm), iter(frames))


def anonymous(pages: int, *, frames: int = 4096, bystanders: int = 0, mappers: int = 1) -> World:
    """Anonymous pages, forked to so many processes; and others with a page each of their own."""
    vm = Machine(frames=frames + 2 * bystanders + 3 * mappers + 2 * pages)
    for number in range(bystanders):
        task = vm.new_task(f"bystander{number}")
        store(task, do_mmap(task.alive_mm(), 1).start, "mine")
    task = vm.new_task("victim")
    area = do_mmap(task.alive_mm(), pages)
    for vpn in range(area.start, area.end):
        store(task, vpn, "x")
    for _ in range(mappers - 1):
        task.fork()
    return world(task, area.start, pages)


def shared_file(pages: int, *, mappers: int) -> World:
    """Clean pages of a file that so many processes map."""
    vm = Machine(frames=4096 + 3 * mappers + 2 * pages)
    file = File(vm.create("data", "ext4", pages), "fd")
    for _ in range(mappers):
        task = vm.new_task("reader")
        area = do_mmap(task.alive_mm(), pages, file=file, shared=True)
        for vpn in range(area.start, area.end):
            load(task, vpn)
    return world(task, area.start, pages)


def take_turns(one: World, two: World, rounds: int) -> tuple[float, float]:
    """The median time of an error in each of two worlds, hit in turns."""
    gc.collect()
    gc.freeze()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, place in zip(times, (one, two), strict=True):
            side.append(place.hit())
    gc.unfreeze()
    return median(times[0]), median(times[1])


def compare(title: str, many: World, few: World, rounds: int, goal: float, *, share: float = 1.0) -> None:
    """Print how many times longer an error takes in the first world; ``share`` of it is what counts."""
    long, short = take_turns(many, few, rounds)
    print(f"{title}: {long / short * share:.2f} (goal {goal})   {long * 1e6:.0f} us / {short * 1e6:.0f} us")


def speed(rounds: int) -> None:
    """Print the errors handled in a second of one processor: one anonymous page with one user each."""
    place = anonymous(rounds)
    gc.collect()
    gc.freeze()
    start = time.process_time()
    for _ in range(rounds):
        place.hit()
    rate = rounds / (time.process_time() - start)
    gc.unfreeze()
    print(f"anonymous pages with one user: {rate:,.0f} errors/s (goal {GOAL_PER_SECOND:,})")


def per_mapper(title: str, make: Callable[..., World], rounds: int) -> None:
    """Print the time for each of 1,000 mappers over that for each of 10."""
    many, few = make(rounds, mappers=1000), make(rounds, mappers=10)
    compare(f"{title}, per mapper, 1,000 mappers / 10", many, few, rounds, GOAL_PER_MAPPER, share=10 / 1000)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = options.parse_args().quick
    rounds = 300 if quick else 2000
    speed(rounds * 5)
    compare(
        "10,000 unrelated tasks / 10",
        anonymous(rounds, bystanders=10_000),
        anonymous(rounds, bystanders=10),
        rounds,
        GOAL_BYSTANDERS,
    )
    rounds = 300
    compare(
        "a million frames / a thousand",
        anonymous(rounds, frames=1_000_000),
        anonymous(rounds, frames=1_000 - 2 * rounds - 3),
        rounds,
        GOAL_BYSTANDERS,
    )
    rounds = 20 if quick else 60
    per_mapper("anonymous page", anonymous, rounds)
    per_mapper("clean page of a shared file", shared_file, rounds)


if __name__ == "__main__":
    main()
