"""Several kernels side by side, each in guests of its own, and all of them ended when one is to end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hwpoison.abi.problems import Problem
from hwpoison.scenario.load import Scenario

from .answers import Answer
from .batch import Batch, Progress
from .kernels import Kernel


def usual_jobs() -> int:
    """How many guests this machine can run at once without making them wait for each other."""
    return len(os.sched_getaffinity(0))  # a guest has one processor


def run(
    kernels: Sequence[Kernel],
    scenarios: Sequence[Scenario],
    expected: Mapping[str, Collection[str]],
    told: Callable[[Progress], None],
    *,
    kvm: bool,
    jobs: int,
) -> dict[str, dict[str, Answer] | Problem]:
    """Each kernel's answers, or why it gave none. ``expected``: by kernel, which scenarios should panic.

    Whatever ends the wait, an interrupt above all, ends all guests before it gets further.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(jobs, thread_name_prefix="kernel") as pool:
        try:
            running: dict[str, Future[dict[str, Answer]]] = {
                kernel.name: pool.submit(Batch(kernel, kvm, expected[kernel.name], told, stop).run, scenarios)
                for kernel in kernels
            }
            return {name: _answers(future) for name, future in running.items()}
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _answers(future: Future[dict[str, Answer]]) -> dict[str, Answer] | Problem:
    try:
        return future.result()
    except Problem as problem:
        return problem
