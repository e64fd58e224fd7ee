"""The model as a witness: runs a scenario on a machine of its own and says what could be seen.

One method a verb, named ``do_<verb>``, in the modules verbs_*.py. Every step ends with all tasks having been
in user mode once, so signals take effect; what they got is observed at that step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwpoison.abi.problems import WrongUse
from hwpoison.abi.records import Broken, Outcome, StoryStep
from hwpoison.abi.signals import PAGE_SHIFT, Signal
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.mm.inode import SysError
from hwpoison.mm.locks import Chooser, KernelBug
from hwpoison.mm.machine import Panic
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.task import Signalled

from .load import Scenario
from .promises import at_once, broken_promises
from .steps import Step
from .verbs import VERBS
from .verbs_access import AccessVerbs
from .verbs_errors import ErrorVerbs
from .verbs_files import FileVerbs
from .verbs_kinds import KindVerbs
from .verbs_memory import MemoryVerbs
from .verbs_tasks import TaskVerbs


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario on the model."""

    scenario: Scenario
    profile: Profile
    outcome: Outcome
    story: tuple[StoryStep, ...]


def run(scenario: Scenario, profile: Profile = NEWEST, *, chooser: Chooser | None = None) -> Run:
    """Run a scenario from a new machine to its end. WrongUse if a step names something that is not there."""
    return Model(scenario, profile, chooser).run()


class Model(TaskVerbs, FileVerbs, MemoryVerbs, KindVerbs, AccessVerbs, ErrorVerbs):
    """One run."""

    def run(self) -> Run:
        for step in self.scenario.steps:
            self.take(step)
            if self.stopped is not None:
                break
        return Run(self.scenario, self.profile, self.outcome(), tuple(self.told))

    def take(self, step: Step) -> None:
        """Make one more step. WrongUse if it names something that is not there."""
        self.step_number = len(self.told) + 1
        notes, lines, seen = len(self.vm.story or ()), len(self.vm.log), len(self.seen)
        try:
            self._do(step)
        except Panic as panic:
            self.stopped = str(panic)
            self.see("panic", "", text=self.stopped)
        except KernelBug as bug:
            self.stopped = f"{type(bug).__name__}: {bug}"
        self.told.append(
            StoryStep(
                self.step_number,
                step.text(),
                tuple((self.vm.story or ())[notes:]),
                tuple(self.vm.log[lines:]),
                tuple(self.seen[seen:]),
            )
        )

    def outcome(self) -> Outcome:
        """All that was seen until now, and which promises were not kept."""
        losses = tuple(text for census in self.censuses if (text := census.loss(self.failure)))
        seen = tuple(self.seen)
        return Outcome(self.scenario.name, self.profile.name, "model", seen, self._promises(), losses)

    def _promises(self) -> tuple[Broken, ...]:
        panicked = any(seen.kind == "panic" for seen in self.seen)
        if self.stopped is not None and not panicked:
            return (Broken(6, self.stopped),)
        if panicked:
            return ()
        return (*self.broken_at_once, *broken_promises(self.vm, self.failure, self.censuses))

    def _do(self, step: Step) -> None:
        method: Callable[[Step], None] = getattr(self, VERBS[step.verb].method)
        events, censuses = len(self.failure.events), len(self.censuses)
        try:
            method(step)
        except Signalled:
            pass  # seen with all other signals, below
        except SysError as error:
            self.see("call", step.subject, errno=error.errno.name)
        except OutOfMemory as error:
            raise WrongUse(f"{self.where(step)}: {error}; give the scenario more frames") from None
        self.vm.paths.finish()
        self.failure.run_queue()
        for census in self.censuses[censuses:]:
            self.broken_at_once += at_once(self.vm, self.failure, census)
        for event in self.failure.events[events:]:
            self.see("verdict", "", type=event.type.log, result=event.result.text)
        self.vm.deliver_signals()
        self._see_signals()

    def _see_signals(self) -> None:
        for name, task in self.tasks.items():
            for info in task.received[self.signals_seen.get(name, 0) :]:
                page = None if info.address is None else self.page_name(info.address >> PAGE_SHIFT)
                if info.signal is Signal.SIGBUS:
                    self.see("signal", name, code=info.code.name, page=page, lsb=info.lsb)
            self.signals_seen[name] = len(task.received)
            if task.died_of is not None and task is task.leader and not self._death_seen(name):
                self.see("died", name, signal=task.died_of.name)

    def _death_seen(self, name: str) -> bool:
        return any(seen.kind == "died" and seen.who == name for seen in self.seen)
