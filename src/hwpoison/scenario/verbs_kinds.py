"""The verbs about kinds of memory: merged, lazily freed, marked, sealed."""

from __future__ import annotations

from hwpoison.abi.problems import WrongUse
from hwpoison.mm.ksm import madvise_mergeable
from hwpoison.mm.madvise import madvise_free, uffd_poison
from hwpoison.mm.pte import Pte
from hwpoison.mm.rmap import StableNode
from hwpoison.mm.shmem import add_seal

from .bench import Bench
from .steps import Step


class KindVerbs(Bench):
    def do_merge(self, step: Step) -> None:
        other = self.page_step(step, "with")
        for place in (step, other):
            _task, vma = self.area(place)
            madvise_mergeable(vma, on=True)
        self.vm.ksm.run()
        found = set()
        for place in (step, other):
            task, vpn = self.address(place)
            entry = task.alive_mm().entry(vpn)
            if not isinstance(entry, Pte) or not isinstance(entry.page.mapping, StableNode):
                raise WrongUse(f"{self.where(step)}: ksmd does not merge {place.subject}:{place.page}")
            found.add(entry.page)
        if len(found) > 1:
            raise WrongUse(f"{self.where(step)}: the two pages have different contents")
        self.see("call", step.subject, data="ok")

    def do_unmerge(self, step: Step) -> None:
        _task, vma = self.area(step)
        madvise_mergeable(vma, on=False)
        self.see("call", step.subject, data="ok")

    def do_lazyfree(self, step: Step) -> None:
        task, vpn = self.address(step)
        madvise_free(task.alive_mm(), vpn)
        self.given_up(task.alive_mm(), vpn, vpn + 1)
        self.see("call", step.subject, data="ok")

    def do_marker(self, step: Step) -> None:
        task, vpn = self.address(step)
        uffd_poison(task.alive_mm(), vpn)
        self.see("call", step.subject, data="ok")

    def do_seal(self, step: Step) -> None:
        add_seal(self.inode(step), step.args["against"])
        self.see("call", step.subject, data="ok")
