"""The verbs about errors: frames of the kernel's, ways in, and looking at what is left."""

from __future__ import annotations

from collections.abc import Iterable

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse, unknown_name
from hwpoison.abi.records import Broken
from hwpoison.abi.signals import Errno, errno_name
from hwpoison.failure import inject, soft_offline
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm import gup, slab
from hwpoison.mm.inode import FILE_SYSTEMS, SysError
from hwpoison.mm.memory_hotplug import offline_pages, online_pages
from hwpoison.mm.page import put_page
from hwpoison.mm.proc import stable_page_flags

from .bench import Bench
from .census import Census, broke
from .promises_soft import after_soft_offline, after_unpoison
from .steps import Step
from .views import counters_view, disk_view, entry_view, page_view, pool_view

MEMORY_BLOCK = 64
"""Frames of one block of memory that can be taken out, in the model."""


class ErrorVerbs(Bench):
    def do_frame(self, step: Step) -> None:
        kind = step.args["kind"]
        name = self.new_name(step, step.subject)
        zone = self.vm.zone
        if kind == "nostruct":
            self.frames[name] = zone.frames + 1
        elif kind in ("register", "registered"):
            self.frames[name] = zone.frames + (2 if kind == "register" else 3)
            self.by_number.add(name)
            if kind == "registered":
                self.vm.registered.add(self.frames[name])
        elif kind == "firmware":
            self.frames[name] = slab.kernel_page(self.vm, "reserved").pfn
            self.by_number.add(name)
        elif kind == "free":
            self.frames[name] = next(zone.free_pfns())
        elif kind.startswith("pmem-"):
            self.frames[name] = self._device_frame(step, kind)
        elif kind == "removable":
            self.frames[name] = zone.frames - MEMORY_BLOCK // 2
        elif kind == "hugepage":
            taken = set(self.frames.values())
            heads = (h.free_list for h in self.vm.hugetlb.hstates.values())
            free = [page.pfn for pages in heads for page in pages if page.pfn not in taken]
            if not free:
                raise WrongUse(f"{self.where(step)}: no pool has a free huge page; say hugepages 2M pages=1")
            self.frames[name] = free[0]
        elif kind in ("reserved", "vdso"):
            self.frames[name] = zone.reserved - 1
            if kind == "vdso":
                zone.page(self.frames[name]).content = "ELF"
        elif kind == "pagetable":
            task = self.tasks[name] = self.vm.new_task(name)
            self.frames[name] = task.alive_mm().pte_alloc(0).page.pfn
        else:
            self.frames[name] = slab.kernel_page(self.vm, kind).pfn

    def _device_frame(self, step: Step, kind: str) -> int:
        """A block of a file system on persistent memory that is no file's."""
        fs = step.get("fs") or ""
        known = [name for name, row in FILE_SYSTEMS.items() if row.dax]
        if fs not in known:
            raise WrongUse(f"{self.where(step)}: {unknown_name('file system on such memory', fs, known)}")
        device = self.vm.pmem.of(FILE_SYSTEMS[fs])
        places = {"pmem-spare": device.spare, "pmem-superblock": device.superblock}
        return places.get(kind, device.first)

    def do_filter(self, step: Step) -> None:
        self.failure.filter.enabled = step.subject == "on"
        self.failure.filter.fs = fs = step.get("fs")
        self.failure.filter.group = step.get("group")
        if fs is not None and fs not in FILE_SYSTEMS:
            raise WrongUse(f"{self.where(step)}: {unknown_name('file system', fs, FILE_SYSTEMS)}")
        for field, text in (("flags_mask", step.args["mask"]), ("flags_value", step.args["value"])):
            try:
                setattr(self.failure.filter, field, pg.parse(name for name in text.split(",") if name))
            except KeyError as error:
                raise WrongUse(
                    f"{self.where(step)}: {unknown_name('page flag', error.args[0], pg.BY_NAME)}"
                ) from None

    def do_nomemory(self, step: Step) -> None:
        self.failure.failing_allocations = step.number("times")

    def do_inject(self, step: Step) -> None:
        via = step.args["via"]
        if via == "madvise":
            task, vpn = self.address(step)
            gup_page = gup.get_user_page(task, vpn)
            put_page(gup_page)
            self.census(gup_page.pfn)
            self.struck[self.key(step)] = gup_page.pfn
            returned = inject.madvise(self.failure, task, vpn)
            task.deliver()
            if task.exited:
                return  # killed before the call could return
        else:
            pfn = self.struck[self.key(step)] = self.pfn(step)
            self.census(pfn)
            if via == "scrub":
                inject.deferred(self.failure, pfn)  # a notifier of the kernel's: nobody gets its return code
                return
            ways = {"debugfs": inject.corrupt_pfn, "sysfs": inject.hard_offline_page}
            returned = ways[via](self.failure, pfn)
        self.see("return", step.subject, code=errno_name(returned))

    def do_soft_offline(self, step: Step) -> None:
        if step.args["via"] == "madvise":
            task, vpn = self.address(step)
            page = gup.get_user_page(task, vpn)
            put_page(page)
            pfn = page.pfn
        else:
            pfn = self.pfn(step)
        self.struck[self.key(step)] = pfn
        census = self.before_soft_offline(pfn)
        if step.args["via"] == "madvise":
            returned = soft_offline.madvise(self.failure, task, vpn)
        else:
            returned = soft_offline.soft_offline_page(self.failure, pfn)
        if census is not None:
            self.broken_at_once += self.judge_soft_offline(census, returned)
        if step.args["via"] != "corrected":  # there a worker does it, and nobody gets its code
            self.see("return", step.subject, code=errno_name(returned))

    def before_soft_offline(self, pfn: int) -> Census | None:
        """What the call will be judged by; None: it cannot be."""
        return Census.take(self.vm, pfn) if self.vm.zone.online(pfn) else None

    def judge_soft_offline(self, census: Census, returned: int) -> Iterable[Broken]:
        return after_soft_offline(self.vm, self.failure, census, returned)

    def do_unpoison(self, step: Step) -> None:
        named = step.subject in self.frames
        pfn = self.frames[step.subject] + step.page if named else self.struck.get(self.key(step))
        if pfn is None:
            raise WrongUse(f"{self.where(step)}: nothing has struck there; name the frame by a note")
        refs = self.references(pfn)
        returned = unpoison_memory(self.failure, pfn)
        self.broken_at_once += after_unpoison(self.failure, pfn, refs, returned)
        self.see("return", step.subject, code=errno_name(returned))

    def do_offline_block(self, step: Step) -> None:
        returned = offline_pages(self.vm, *self._block(step))
        self.see("return", step.subject, code=errno_name(returned))

    def do_online_block(self, step: Step) -> None:
        start, end = self._block(step)
        pages = [self.vm.zone.pages.get(pfn) for pfn in range(start, end)]
        marked = [page for page in pages if page is not None and page.flags & pg.HWPOISON]
        returned = online_pages(self.vm, start, end)
        if returned == 0:
            for page in marked:
                self.failure.out_of_use.discard(page.pfn)
                self.broken_at_once.append(broke("mark-lost-offline", f"the bad {page} can be had again"))
        self.see("return", step.subject, code=errno_name(returned))

    def _block(self, step: Step) -> tuple[int, int]:
        start = self.look_up(step, "frame", self.frames, step.subject) & -MEMORY_BLOCK
        return start, start + MEMORY_BLOCK

    def do_note(self, step: Step) -> None:
        pfn = self.pfn(step)
        name = self.new_name(step, step.args["as"])
        self.frames[name] = pfn
        self.noted[name] = self.vm.zone.page(pfn).head.mapping if self.vm.zone.online(pfn) else None

    def do_break(self, step: Step) -> None:
        page = self.page(step)
        self.census(page.pfn)
        self.vm.strike(page.pfn, hardware=True, contained=step.get("contained") != "no")

    def do_look(self, step: Step) -> None:
        name = f"{step.subject}:{step.page}"
        if step.subject in self.files:
            inode = self.files[step.subject]
            self.see("page", name, **page_view(self.vm, inode, step.page))
            self.see("disk", name, **disk_view(inode, step.page))
        elif step.subject in self.frames:
            bad = stable_page_flags(self.vm, self.pfn(step)) & pg.HWPOISON
            self.see("page", step.subject, bad="yes" if bad else "no")
        else:
            task, vpn = self.address(step)
            self.see("pte", name, **entry_view(self.vm, task, vpn))

    def do_hugepages(self, step: Step) -> None:
        h = self.vm.hugetlb.hstates[step.subject]
        self.vm.hugetlb.set_overcommit(h, step.number("surplus"))
        self.vm.hugetlb.set_max_huge_pages(h, step.number("pages"))
        if h.nr < step.number("pages"):
            raise WrongUse(f"{self.where(step)}: no memory for so many; give the scenario more frames")

    def do_demote(self, step: Step) -> None:
        if (done := self.vm.hugetlb.demote(step.number("pages"))) < 0:
            raise SysError(Errno(-done), "no free huge page is good")

    def do_pool(self, step: Step) -> None:
        self.see("pool", step.subject, **pool_view(self.vm, step.subject))

    def do_counters(self, _step: Step) -> None:
        self.see("counter", "", **counters_view(self.vm, node=self.profile.node_counters))
