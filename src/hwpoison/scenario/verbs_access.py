"""The verbs about ways to bytes other than a task's own load, store, read and write."""

from __future__ import annotations

from hwpoison.abi.signals import SigInfo, Signal
from hwpoison.mm import access, lost

from .bench import Bench
from .steps import Step


class AccessVerbs(Bench):
    def do_peek(self, step: Step) -> None:
        task, vpn = self.address(step)
        by = self.task(step, step.args["by"])
        self.see("call", by.comm, data=access.access_remote_vm(task, vpn, step.args["via"]))

    def do_poke(self, step: Step) -> None:
        task, vpn = self.address(step)
        by = self.task(step, step.args["by"])
        access.access_remote_vm(task, vpn, step.args["via"], step.args["data"])
        self.stored(task, vpn)
        self.see("call", by.comm, data="ok")

    def do_readv(self, step: Step) -> None:
        self._transfer(step, "into")

    def do_writev(self, step: Step) -> None:
        self._transfer(step, "from")

    def _transfer(self, step: Step, parameter: str) -> None:
        file, pages = self.open_file(step, step.subject), step.number("pages")
        task, vpn = self.address(self.page_step(step, parameter))
        call = access.readv if parameter == "into" else access.writev
        count = call(file, step.page, task, vpn, pages)
        if parameter == "from":
            self.rewritten(file.inode.mapping, step.page, step.page + count)
        else:
            self.stored(task, vpn, count)
        self.see("call", step.subject, data=f"{count} of {pages}")

    def do_splice(self, step: Step) -> None:
        file = self.open_file(step, step.subject)
        self.see("call", step.subject, data=access.splice(file, step.page))

    def do_lost(self, step: Step) -> None:
        file = self.open_file(step, step.subject)
        self.see("call", step.subject, data=lost.ranges(lost.lost_pages(file)))

    def do_acknowledge(self, step: Step) -> None:
        lost.acknowledge(self.open_file(step, step.subject), step.page, step.page + step.number("pages"))
        self.see("call", step.subject, data="ok")

    def do_coredump(self, step: Step) -> None:
        task, vpn = self.address(step)
        content = access.dump_core(task, vpn)
        task.send_signal(SigInfo(Signal.SIGABRT))
        self.see("call", task.comm, data=content)
