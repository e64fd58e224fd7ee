"""The verbs about tasks."""

from __future__ import annotations

from hwpoison.scenario.steps import Step

from . import groups
from .bench import Bench


class TaskVerbs(Bench):
    def do_task(self, step: Step) -> None:
        task = self.tasks.start(step.subject)
        self.tasks.sigbus(task, step.args["sigbus"])
        self.tasks.policy(task, step.args["policy"])

    def do_fork(self, step: Step) -> None:
        self.tasks.fork(self.tasks.get(step.subject), step.args["as"])

    def do_thread(self, step: Step) -> None:
        thread = self.tasks.thread(self.tasks.get(step.subject), step.args["as"])
        if step.args["policy"] != "default":
            self.tasks.policy(thread, step.args["policy"])

    def do_clone(self, step: Step) -> None:
        self.tasks.clone_vm(self.tasks.get(step.subject), step.args["as"])

    def do_group(self, step: Step) -> None:
        groups.join(step.args["into"], self.tasks.get(step.subject).remote.pid)

    def do_exec(self, step: Step) -> None:
        self.tasks.execve(self.tasks.get(step.subject).process)

    def do_exit(self, step: Step) -> None:
        self.tasks.exit(self.tasks.get(step.subject))

    def do_prctl(self, step: Step) -> None:
        self.tasks.policy(self.tasks.get(step.subject), step.args["policy"])

    def do_sigbus(self, step: Step) -> None:
        self.tasks.sigbus(self.tasks.get(step.subject), step.args["action"])
