"""The verbs about memory: mapping, touching, swap, and references that others hold."""

from __future__ import annotations

from collections import Counter

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse
from hwpoison.abi.signals import Errno
from hwpoison.mm import gup, memory, vmscan
from hwpoison.mm.compaction import compact_memory
from hwpoison.mm.inode import SysError
from hwpoison.mm.khugepaged import madvise_collapse
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import discard, do_mmap, map_driver, msync, munmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.pfnmap import remap_pfn
from hwpoison.mm.pte import Pte
from hwpoison.mm.shmem import shmem_lock
from hwpoison.mm.split import split_huge_page
from hwpoison.mm.task import Task

from .bench import Area, Bench
from .steps import Step, fate

ORDERS = {"64K": 4}
"""Of folios of anonymous memory, by what they are called."""


class MemoryVerbs(Bench):
    def do_map(self, step: Step) -> None:
        task = self.task(step, step.args["task"])
        name = step.get("file")
        frame = step.get("frame")
        if name is not None and frame is not None:
            raise WrongUse(f"{self.where(step)}: both file={name} and frame={frame} are given; choose one")
        pages = step.number("pages")
        mm = task.alive_mm()
        mm.next_vpn = max(mm.next_vpn, self.mapped_until + 1)
        opened = None if name is None else self.open_file(step, name)
        if opened is not None and opened.inode.fs.character and step.number("first") % mm.ptrs_per_pte:
            pieces = f"expected a multiple of {mm.ptrs_per_pte}: nothing else is modelled"
            raise WrongUse(f"{self.where(step)}: first={step.number('first')}: {pieces}")
        vma = do_mmap(
            mm,
            pages,
            file=opened,
            pgoff=step.number("first"),
            shared=step.args["shared"] == "yes",
            huge=step.get("huge") is not None,
            hugetlb=step.get("hugetlb"),
        )
        vma.anon_order = ORDERS.get(step.get("huge") or "", 0)
        self.mapped_until = max(self.mapped_until, vma.end)  # huge pages: more than was asked for
        vma.locked = vma.mapping is not None and vma.mapping.fs.hidden  # mm/secretmem.c secretmem_mmap()
        if frame in self.by_number:
            remap_pfn(vma, self.look_up(step, "frame", self.frames, frame))
        elif frame is not None:
            pfn = self.look_up(step, "frame", self.frames, frame)
            page = self.struct_page(step, pfn, frame)
            self.vm.held.add(page.head.pfn)  # the driver's own reference
            map_driver(vma, page)
        self.areas[self.new_name(step, step.subject)] = Area(
            step.subject, vma.start, pages, task, self._shares(step, name), step.number("first")
        )
        if frame is not None and task.alive_mm().entry(vma.start) is None:
            memory.load(task, vma.start)  # mapping it is to bring it in

    def _shares(self, step: Step, opened: str | None) -> str | None:
        """The name of the file that an area shares, if it does."""
        if opened is None or step.args["shared"] != "yes":
            return None
        inode = self.open_file(step, opened).inode
        return next((name for name, each in self.files.items() if each is inode), None)

    def do_unmap(self, step: Step) -> None:
        task, vma = self.area(step)
        munmap(task.alive_mm(), vma, self.areas[step.subject].pages)

    def do_msync(self, step: Step) -> None:
        _task, vma = self.area(step)
        msync(vma)
        self.see("call", step.subject, data="ok")

    def do_load(self, step: Step) -> None:
        task, vpn = self.address(step)
        self.see("call", task.comm, data=memory.load(task, vpn))

    def do_store(self, step: Step) -> None:
        task, vpn = self.address(step)
        memory.store(task, vpn, step.args["data"])
        self.stored(task, vpn)
        self.see("call", task.comm, data="ok")

    def do_discard(self, step: Step) -> None:
        task, vpn = self.address(step)
        _task, vma = self.area(step)
        end = vpn + step.number("pages")
        discard(task.alive_mm(), vma, vpn, end)
        self.given_up(task.alive_mm(), vpn, end)

    def do_collapse(self, step: Step) -> None:
        task, vpn = self.address(step)
        madvise_collapse(task.alive_mm(), vpn)
        self.see("call", step.subject, data="ok")

    def do_split(self, step: Step) -> None:
        page = self.page(step)
        order = step.number("order", 0) if self.profile.traits.splits_to_any_order else 0
        if not page.head.flags & pg.HUGE:  # not one of hugetlb
            split_huge_page(page, order)

    def do_lock(self, step: Step) -> None:
        if step.subject in self.files:
            shmem_lock(self.inode(step).mapping, on=True)
            return
        task, vma = self.area(step)
        mlock(task.alive_mm(), vma)

    def do_unlock(self, step: Step) -> None:
        if step.subject in self.files:
            shmem_lock(self.inode(step).mapping, on=False)
            return
        task, vma = self.area(step)
        mlock(task.alive_mm(), vma, on=False)

    def do_swapout(self, step: Step) -> None:
        page, drop = self.page(step), step.args["keep"] == "no"
        if page.head.order and step.subject in self.areas and self.area(step)[1].locked:
            return  # nothing is split for locked memory (mm/madvise.c can_madv_lru_vma())
        if (pages := step.number("pages", 1)) == 1:
            vmscan.reclaim_folio(page, drop=drop)
            return
        folios = self._folios(step, pages)
        if not folios or sum(folio.nr_pages for folio in folios) > self.vm.swap.slots:
            expected = (
                f"memory that is there, and as many slots (the scenario has swap = {self.vm.swap.slots})"
            )
            raise WrongUse(f"{self.where(step)}: pages={pages}: expected {expected}")
        for folio in folios:
            vmscan.reclaim_folio(folio, drop=drop, whole=True)

    def _folios(self, step: Step, pages: int) -> list[Page]:
        """The folios of memory that are there from this page on, mapped or in the swap cache, each whole."""
        task, first = self.address(step)
        there = (self.page_there(task, vpn) for vpn in range(first, first + pages))
        found = Counter(page.head for page in there if page is not None and page.anon)
        for folio, count in found.items():
            if count != folio.nr_pages:
                parts = f"{count} of the {folio.nr_pages} pages of a folio; expected all or one"
                raise WrongUse(f"{self.where(step)}: pages={pages} takes {parts}")
        return list(found)

    def do_migrate(self, step: Step) -> None:
        task, vpn = self.address(step)
        result = move_page_of(task.alive_mm(), vpn)
        if result < 0:
            raise SysError(Errno(-result), f"there is no page {step.page} of {step.subject} to be moved")
        self.see("call", task.comm, data="stays" if result else "ok")

    def do_compact(self, step: Step) -> None:
        task, vpn = self.address(step)
        before = self._frame_of(task, vpn)
        compact_memory(self.vm)
        after = self._frame_of(task, vpn)
        self.see("call", task.comm, data=fate(before, after))

    def _frame_of(self, task: Task, vpn: int) -> int | None:
        entry = task.alive_mm().entry(vpn)
        return entry.page.pfn if isinstance(entry, Pte) else None

    def do_swapoff(self, step: Step) -> None:
        self.vm.swap.swapoff()

    def do_pin(self, step: Step) -> None:
        task, vpn = self.address(step)
        name = self.new_name(step, step.args["as"])
        self.holds[name] = (gup.pin_user_page(task, vpn), True)

    def do_hold(self, step: Step) -> None:
        page = self.page(step)
        if step.subject in self.files and page.flags & pg.HWPOISON and page.flags & pg.SWAPBACKED:
            raise SysError(Errno.EIO, f"{page} is bad memory")  # shmem_file_splice_read()
        get_page(page)
        self.vm.held.add(page.head.pfn)
        self.holds[self.new_name(step, step.args["as"])] = (page, False)

    def do_release(self, step: Step) -> None:
        page, pinned = self.look_up(step, "pin or hold", self.holds, step.subject)
        del self.holds[step.subject]
        if pinned:
            gup.unpin_user_page(page)
        else:
            others = {other.head.pfn for other, _ in self.holds.values()}
            drivers = {pfn for name, pfn in self.frames.items() if name not in self.noted}
            if page.head.pfn not in others | drivers:
                self.vm.held.discard(page.head.pfn)
            put_page(page)

    def do_dma(self, step: Step) -> None:
        page, _pinned = self.look_up(step, "pin or hold", self.holds, step.subject)
        self.see("call", step.subject, data=self.vm.device_reads(page))
