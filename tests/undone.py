"""A mending undone: a few functions of the model replaced for a while, and what breaks then.

Each folder that has such rows keeps them in its ``rows.py``, as ``ROWS``. A row is run as a plain scenario
(``run``) or in every order of its paths (``explore``), with the replacements or, ``ours=True``, without.

    python -m tests.undone                      # every row there is
    python -m tests.undone R17 --strategy pct --budget 5000
    python -m tests.undone R17 --schedule 'fault > end'
    python -m tests.undone R17 --ours           # the same with nothing undone
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from hwpoison.abi.exploration import Exploration, Telling
from hwpoison.explore.program import Failure
from hwpoison.explore.report import Investigation
from hwpoison.explore.schedule import read
from hwpoison.explore.search import Search, Status
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.report.exploration import columns, print_exploration
from hwpoison.report.terminal import Console
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import Scenario, load_text
from hwpoison.scenario.model import Model, Run

PACKAGE = "hwpoison."
WIDTH = 110
Patches = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, repr=False, eq=False)
class Undone:
    """One row: what is undone, where that shows, and as what.

    ``patches``: (``"hwpoison.mm.swap:SwapArea.lookup"``, replacement), or (``"...:Class.attribute"``, value).
    A function named in the module that defines it is replaced wherever a module, or the state table of the
    kernel, knows it; named in another module, or as a method, only there.
    ``steps``: a scenario, for ``explore()`` with paths between ``together`` and ``end``.
    ``breaks``: a regular expression for ``KIND: TEXT`` of the failure.
    ``known``: weaknesses of the kernel itself that the steps show.
    ``setting``: replacements that are there with ours as well. ``also``: what is wrong at the end beside
    promises, one sentence each; the failure is of the kind "remark".
    """

    name: str
    title: str
    steps: str
    patches: Patches
    breaks: str
    known: tuple[str, ...] = ()
    kernel: Profile = NEWEST
    swap: int = 4
    frames: int = 64
    strategy: str = "auto"
    budget: int = 20_000
    setting: Patches = ()
    also: Callable[[Model], list[str]] | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def races(self) -> bool:
        """Does it take a race to show it?"""
        return bool(self.scenario.labels)

    @property
    def scenario(self) -> Scenario:
        head = f"name = '{self.name}'\ntitle = '''{self.title}'''\n"
        head += f"swap = {self.swap}\nframes = {self.frames}\nbreaks = {list(self.known)!r}\n"
        (scenario,) = load_text(f"{head}steps = '''\n{self.steps.strip()}\n'''", self.name)
        return scenario

    @contextmanager
    def installed(self, *, ours: bool = False) -> Iterator[Profile]:
        """Everything is undone meanwhile, or with ``ours`` only the setting there; the kernel to run."""
        kernel = self.kernel
        with pytest.MonkeyPatch.context() as patch:
            for target, new in self.setting if ours else (*self.setting, *self.patches):
                where, _colon, path = target.partition(":")
                *owners, name = path.split(".")
                owner = resolve_name(f"{where}:{'.'.join(owners)}") if owners else import_module(where)
                old = getattr(owner, name)
                patch.setattr(owner, name, new)
                if getattr(old, "__module__", None) == where and not owners:
                    for module in [m for n, m in sorted(sys.modules.items()) if n.startswith(PACKAGE)]:
                        for known in [n for n, value in vars(module).items() if value is old]:
                            patch.setattr(module, known, new)
                    kernel = _with_response(kernel, old, new)
            yield kernel

    def command(self, *arguments: str) -> str:
        """The command that repeats it."""
        return " ".join(["python -m tests.undone", self.name, *map(shlex.quote, arguments)])


def _with_response(kernel: Profile, old: object, new: Any) -> Profile:
    states = tuple(replace(row, respond=new) if row.respond is old else row for row in kernel.states)
    return kernel if states == kernel.states else replace(kernel, states=states)


@dataclass(frozen=True)
class Outcome:
    """What exploring came to. ``word``: found, exhausted, exhausted up to N preemptions, budget spent."""

    word: str
    executions: int
    seconds: float
    failure: str = ""
    """``KIND: TEXT`` of the first failure that is no known weakness."""
    telling: Telling | None = None
    """Its shortest run; None: nothing was found, or nobody asked for it."""
    known: tuple[str, ...] = ()
    """Known weaknesses of this kernel that were seen."""
    command: str = ""

    @property
    def preemptions(self) -> int | None:
        return None if self.telling is None else self.telling.preemptions

    def text(self) -> str:
        """The failure and its shortest run in columns: the same on every machine."""
        return "" if self.telling is None else run_text(self.telling)


@dataclass(frozen=True)
class Done:
    """A plain run. ``wrong``: ``promise N: TEXT``, ``remark: TEXT``, and expectations that were not met."""

    run: Run
    wrong: tuple[str, ...]


def run(undone: Undone, *, ours: bool = False) -> Done:
    """As a plain scenario: one step after the other."""
    with undone.installed(ours=ours) as kernel:
        model = Model(undone.scenario, kernel, None)
        done = model.run()
        expected = undone.scenario.expected_breaks(kernel.name)
        broken = [b for b in done.outcome.broken if b.deviation is None or b.deviation not in expected]
        wrong = [f"promise {b.promise}: {b.text}" for b in broken]
        wrong += [f"remark: {text}" for text in (undone.also(model) if undone.also else ())]
    return Done(
        done,
        (*wrong, *(line for line in differences(done.scenario, done.outcome) if " promise " not in line)),
    )


def explore(
    undone: Undone,
    strategy: str | None = None,
    budget: int | None = None,
    seed: int = 0,
    *,
    ours: bool = False,
    shorten: bool = True,
) -> Outcome:
    """In every order, or those that ``strategy`` comes to. ``seconds``: the search's, without shortening."""
    strategy, budget = strategy or undone.strategy, budget or undone.budget
    with undone.installed(ours=ours) as kernel:
        work = _investigation(undone, kernel, ours=ours)
        with work.explorer.open():
            begun = time.perf_counter()
            result = Search(work.explorer, budget).run(strategy, seed)
            seconds = time.perf_counter() - begun
            found = result.failures[0] if result.failures else None
            telling = work.telling(found) if found is not None and found.schedule and shorten else None
    word = {Status.FAILED: "found", Status.UP_TO: f"exhausted up to {result.bound} preemptions"}
    schedule = ("--schedule", telling.schedule) if telling is not None else ("--strategy", strategy)
    return Outcome(
        word=word.get(result.status, result.status.value),
        executions=result.executions,
        seconds=seconds,
        failure="" if found is None else f"{found.failure.kind}: {found.failure.text}",
        telling=telling,
        known=tuple(found.failure.known or "" for found in result.known),
        command=undone.command(*schedule, *(["--ours"] if ours else [])),
    )


def _investigation(undone: Undone, kernel: Profile, *, ours: bool) -> Investigation:
    work = Investigation(undone.scenario, kernel, undone.name)
    if not ours:
        work.explorer.data_races = None  # to be found is what comes of the mistake
    check, also, model = work.race.check, undone.also, work.race.model
    if also is not None:
        work.race.check = lambda: [*check(), *(Failure("remark", text) for text in also(model))]
    return work


def follow(undone: Undone, schedule: str, *, ours: bool = False) -> tuple[Exploration, str | None]:
    """One schedule: what it came to, and where it did not fit."""
    with undone.installed(ours=ours) as kernel:
        return _investigation(undone, kernel, ours=ours).replay(read(schedule))


def shows(undone: Undone) -> Outcome:
    """Explore it; AssertionError with the command that repeats it, unless it fails as the row says."""
    outcome = explore(undone)
    as_said = outcome.word == "found" and re.search(undone.breaks, outcome.failure)
    expected = f"expected {undone.breaks!r}, {outcome.word}: {outcome.failure!r}\nrepeat: {outcome.command}"
    assert as_said, expected
    return outcome


def run_text(telling: Telling) -> str:
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, highlight=False, soft_wrap=True, color_system=None)
    s = "" if telling.preemptions == 1 else "s"
    console.print(f"{telling.kind}: {telling.text}", markup=False)
    console.print(f"{telling.preemptions} preemption{s}, {telling.switches} switches\n")
    console.print(columns(telling.moments), soft_wrap=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def rows() -> dict[str, Undone]:
    """Every row of every folder, by name."""
    here = Path(__file__).parent
    package = __package__ or here.name
    modules = [f"{package}.{path.parent.name}.rows" for path in sorted(here.glob("*/rows.py"))]
    return {row.name: row for module in modules for row in import_module(module).ROWS}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.undone", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--ours", action="store_true", help="nothing is undone")
    parser.add_argument("--strategy")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", help="run just this")
    given = parser.parse_args(arguments)
    known = rows()
    if given.name is None:
        for row in known.values():
            print(f"{row.name:8} {row.title}")
    elif given.name not in known:
        parser.error(f"no row {given.name!r}; there are {', '.join(known)}")
    else:
        _show(known[given.name], given)


def _show(row: Undone, given: argparse.Namespace) -> None:
    if not row.races:
        done = run(row, ours=given.ours)
        print("\n".join([*(o.text() for o in done.run.outcome.observations), *done.wrong]))
    elif given.schedule:
        told, misfit = follow(row, given.schedule, ours=given.ours)
        print_exploration(told)
        print(f"the schedule does not fit: {misfit}" if misfit else "", end="\n" if misfit else "")
    else:
        outcome = explore(row, given.strategy, given.budget, given.seed, ours=given.ours)
        print(f"{outcome.text()}{outcome.failure or 'no failure'}")
        print(f"{outcome.word}, {outcome.executions:,} executions in {outcome.seconds:.2f} s")
        print(f"repeat: {outcome.command}")


if __name__ == "__main__":
    main(sys.argv[1:])
