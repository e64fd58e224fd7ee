"""A scenario whose paths run at the same time, as a program to explore."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.mm.inode import SysError
from hwpoison.mm.machine import Panic
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.task import Signalled
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import Step
from hwpoison.scenario.verbs import VERBS

from .containers import journal
from .engine import Engine
from .program import Failure, PathSpec

FRAME_VERBS = ("inject", "break", "swapout", "soft-offline")
"""Steps that mean a page frame: which one, is settled before the paths start."""


MODEL = ("hwpoison.mm.", "hwpoison.failure.")


def model_modules() -> list[ModuleType]:
    """All modules of the model that are in use."""
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(MODEL)]


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
        """Taken from outside: no path has looked at anything."""
        mark = len(journal)
        super().census(pfn)
        del journal[mark:]

    def before_soft_offline(self, _pfn: int) -> None:
        """When it returns, others may have changed everything: it is judged by what is true in the end."""
        return

    def references(self, pfn: int) -> int:
        mark = len(journal)
        count = super().references(pfn)
        del journal[mark:]
        return count

    def walk(self, steps: list[Step]) -> None:
        """What one path does."""
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
