"""The verbs about tasks, as the model does them."""

from __future__ import annotations

from hwpoison.abi.signals import McePolicy
from hwpoison.mm.task import Task

from .bench import Bench
from .steps import Step

POLICIES = {"default": McePolicy.DEFAULT, "early": McePolicy.EARLY, "late": McePolicy.LATE, "clear": None}


class TaskVerbs(Bench):
    def do_task(self, step: Step) -> None:
        task = self.vm.new_task(self.new_name(step, step.subject))
        self.tasks[step.subject] = task
        self._set_sigbus(task, step.args["sigbus"])
        task.prctl_mce_kill(POLICIES[step.args["policy"]])

    def _set_sigbus(self, task: Task, action: str) -> None:
        task.set_sigbus(action)  # type: ignore[arg-type] # checked by the table of steps

    def do_fork(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        self.tasks[name] = self.task(step, step.subject).fork(name)

    def do_thread(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        thread = self.task(step, step.subject).clone_thread(name)
        if step.args["policy"] != "default":
            thread.prctl_mce_kill(POLICIES[step.args["policy"]])
        self.tasks[name] = thread

    def do_clone(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        self.tasks[name] = self.task(step, step.subject).clone_vm(name)

    def do_group(self, step: Step) -> None:
        self.task(step, step.subject).alive_mm().group = step.args["into"]

    def do_exec(self, step: Step) -> None:
        self.task(step, step.subject).execve(step.subject)

    def do_exit(self, step: Step) -> None:
        self.task(step, step.subject).exit()

    def do_prctl(self, step: Step) -> None:
        self.task(step, step.subject).prctl_mce_kill(POLICIES[step.args["policy"]])

    def do_sigbus(self, step: Step) -> None:
        self._set_sigbus(self.task(step, step.subject), step.args["action"])

    def do_sysctl(self, step: Step) -> None:
        setattr(self.vm.sysctls, step.subject, step.args["value"] == "1")
