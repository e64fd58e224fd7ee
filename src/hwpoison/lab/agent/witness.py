"""A real kernel as the witness: one scenario with real system calls, in the words of the model.

One method a verb, in four groups; scenario/model.py says what each verb means. A step that can send signals
to others ends with all tasks having been in user mode once, so they take effect; what they got is observed at
that step.
"""

from __future__ import annotations

from hwpoison.scenario.steps import Step
from hwpoison.scenario.verbs import VERBS

from . import frames
from . import syscalls as nr
from .bench import HAND
from .hardware import wait_until_handled
from .injection import UNPOISON
from .problems import EndedEarly, WitnessFailed
from .remote import Died
from .verbs_access import AccessVerbs
from .verbs_errors import ErrorVerbs
from .verbs_files import FileVerbs
from .verbs_kinds import KindVerbs
from .verbs_memory import MemoryVerbs, Signalled
from .verbs_tasks import TaskVerbs

WITHOUT_EFFECT = {"task", "file", "open", "close", "map", "sysctl", "filter", "prctl"}
"""Verbs after which there is nothing to be seen: to look costs more than the step itself."""
AT_OTHERS = ("inject", "soft-offline", "unpoison", "break", "coredump")
"""Steps that can send a signal to any task; in the others only who makes the step can get one."""


class Witness(TaskVerbs, FileVerbs, MemoryVerbs, KindVerbs, AccessVerbs, ErrorVerbs):
    """One run."""

    def run(self, steps: tuple[Step, ...]) -> str | None:
        """All steps; None, or why not all could be made."""
        if any(step.verb == "counters" for step in steps):
            self.evidence.count()
        self.busy = {step.subject for step in steps if step.verb == "busy"}
        for self.number, step in enumerate(steps, 1):
            self.unnoticed = {pfn for pfn in self.broken if not frames.is_bad(pfn)}
            if self.unnoticed:
                self.about_to(self.number, None, self.seen)  # the kernel may meet it, and stop the machine
            try:
                self._do(step)
            except EndedEarly as reason:
                return f"step {self.number} ({step.text()}): {reason}"
        self.evidence.nothing_left()
        return None

    def _do(self, step: Step) -> None:
        # A real error is found by whoever touches the page, and can then be anybody's.
        self.restless = self.restless or step.verb == "break" or step.get("via") == "scrub"
        reaches_others, hit = self.restless or step.verb in AT_OTHERS, False
        try:
            getattr(self, VERBS[step.verb].method)(step)
        except (Signalled, Died):
            reaches_others = hit = True  # seen below
            if self.unnoticed:
                wait_until_handled(self.unnoticed, UNPOISON)
        except nr.CallFailed as error:
            self.see("call", step.subject, errno=nr.name_of(error.errno or 0))
        if step.verb in WITHOUT_EFFECT and not hit:
            return
        for kind, result in self.evidence.verdicts():
            self.see("verdict", "", type=kind, result=result)
        if reaches_others:
            self.tasks.settle()
        if self.hand_task.ended:
            raise WitnessFailed("the task that opens the files has died")
        for what, who, values in self.tasks.news(self.page_name):
            if who != HAND:
                self.see(what, who, **values)
