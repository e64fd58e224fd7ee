"""A scenario whose paths run at the same time, as a program to explore."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse
from hwpoison.abi.records import Broken
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.mm.inode import SysError
from hwpoison.mm.lockless import LOCKLESS
from hwpoison.mm.machine import Panic
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.task import Signalled, Task
from hwpoison.scenario import promises_soft
from hwpoison.scenario.census import Census, last_event
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import Step
from hwpoison.scenario.verbs import VERBS

from .containers import journal
from .engine import Engine
from .program import Failure, PathSpec

T = TypeVar("T")

FRAME_VERBS = ("inject", "break", "swapout", "soft-offline")
"""Steps that mean a page frame: which one, is settled before the paths start."""


MODEL = ("hwpoison.mm.", "hwpoison.failure.")


def model_modules() -> list[ModuleType]:
    """All modules of the model that are in use."""
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(MODEL)]


def unseen(look: Callable[[], T]) -> T:
    """Look at the machine from outside: no path has looked at anything."""
    mark = len(journal)
    found = look()
    del journal[mark:]
    return found


class RaceModel(Model):
    """The model as a witness, of which some steps are taken by paths."""

    def __init__(self, scenario: Scenario, profile: Profile, engine: Engine) -> None:
        super().__init__(scenario, profile, None, engine)
        self.vm.story = None
        self.pfns: dict[int, int] = {}  # line → the frame meant there

    def settle(self, step: Step) -> None:
        """Which frame does this step mean?"""
        if step.verb in FRAME_VERBS and step.get("via") != "madvise":
            self.pfns[id(step)] = super().pfn(step)

    def pfn(self, step: Step) -> int:
        settled = self.pfns.get(id(step))
        return super().pfn(step) if settled is None else settled

    def census(self, pfn: int) -> None:
        unseen(lambda: super(RaceModel, self).census(pfn))

    def before_soft_offline(self, pfn: int) -> Census | None:
        return unseen(lambda: super(RaceModel, self).before_soft_offline(pfn))

    def judge_soft_offline(self, census: Census, returned: int) -> Iterable[Broken]:
        """Others may have changed what its users see since, but a frame that is out of use stays so.

        An error that came first has left it as its verdict says.
        """
        if returned or census.already or last_event(self.failure, census.pfn) is not None:
            return ()
        return promises_soft.out_of_use(self.vm, self.failure, self.vm.zone.page(census.pfn))

    def references(self, pfn: int) -> int:
        return unseen(lambda: super(RaceModel, self).references(pfn))

    def walk(self, steps: list[Step]) -> None:
        """What one path does; its task is in the kernel until it has done it."""
        task: Task | None = self.vm.paths.current.task
        with nullcontext() if task is None else task.in_kernel():
            self._walk(steps)

    def _walk(self, steps: list[Step]) -> None:
        for step in steps:
            method: Callable[[Step], None] = getattr(self, VERBS[step.verb].method)
            try:
                method(step)
            except Signalled:
                pass
            except SysError as error:
                self.see("call", step.subject, errno=error.errno.name)
            except Panic as panic:
                self.stopped = str(panic)
                self.see("panic", "", text=self.stopped)
                raise
            except (WrongUse, OutOfMemory):
                return  # it has lost what it wanted to work with


class Race:
    """Everything before ``together`` happens once; everything after ``end`` after every execution."""

    def __init__(self, scenario: Scenario, profile: Profile = NEWEST) -> None:
        self.scenario = scenario
        self.profile = profile
        self.paths = Engine()
        self.model = RaceModel(scenario, profile, self.paths)
        first = next(n for n, step in enumerate(scenario.steps) if step.path)
        for step in scenario.steps[:first]:
            self.model.take(step)
        self.after = [step for step in scenario.steps[first:] if not step.path]
        self.labels = scenario.labels
        self.steps = {label: [s for s in scenario.steps if s.path == label] for label in self.labels}
        for steps in self.steps.values():
            for step in steps:
                self.model.settle(step)
        self.expected = scenario.expected_breaks(profile.name)

    @property
    def roots(self) -> list[Any]:
        return [self.model, self.model.vm, self.model.failure]

    @property
    def modules(self) -> list[ModuleType]:
        return model_modules()

    @property
    def lockless(self) -> Mapping[str, str]:
        return LOCKLESS

    @property
    def specs(self) -> list[PathSpec]:
        found = []
        for cpu, label in enumerate(self.labels):
            steps = self.steps[label]
            found.append(PathSpec(label, partial(self.model.walk, steps), self._task(steps), cpu))
        return found

    def _task(self, steps: list[Step]) -> Any:
        step = steps[0]
        name = step.get("task")
        if name is None and step.subject in self.model.areas and step.verb != "inject":
            return self.model.areas[step.subject].owner
        return self.model.tasks.get(name or step.subject)

    def settle(self) -> None:
        model = self.model
        model.failure.run_queue()
        model.vm.deliver_signals()
        for step in self.after:
            if model.stopped is not None:
                break
            model.take(step)

    def check(self) -> list[Failure]:
        return [
            Failure(f"promise {b.promise}", b.text, b.deviation if b.deviation in self.expected else None)
            for b in self.model.outcome().broken
        ]

    def state(self) -> list[str]:
        """The machine as it is now: the kernel's log of the run, and the pages that errors struck."""
        vm = self.model.vm
        lines = [f"log: {line}" for line in vm.log]
        for pfn in dict.fromkeys(census.pfn for census in self.model.censuses):
            page = vm.zone.page(pfn)
            flags = "|".join(pg.names(int(page.flags))) or "none"
            where = "none" if page.mapping is None else type(page.mapping).__name__
            lines.append(
                f"{page}: flags {flags}, {page.refcount} references, {page.mapcount} mappings, owner {where}"
            )
        return lines
