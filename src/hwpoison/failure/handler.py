"""memory_failure(): the high level memory error handler of the VM (mm/memory-failure.c).

One error at a time, under ``mf_mutex``. The page is marked, taken, locked; nothing of it is under
writeback; it is unmapped and its users told; then the page state table says whose page it is, and
that subsystem gives it up. Context: a path that may sleep, with no spinlock held.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType, frame_text, verdict_line
from hwpoison.abi.signals import Errno, SigInfo, Signal
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.locks import Lock, atomic_add, test_and_clear, test_and_set
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.page import Page, folio_lock, folio_unlock, folio_wait_writeback, put_page
from hwpoison.mm.proc import stable_page_flags
from hwpoison.mm.task import Task

from .dax import memory_failure_dev_pagemap
from .flags import MF_ACTION_REQUIRED, MF_COUNT_INCREASED, MF_SW_SIMULATED
from .grab import Grab, get_hwpoison_page, shake_page
from .hugetlb import try_memory_failure_hugetlb
from .kill import collect_procs, kill_accessing_process, kill_procs
from .pfn import memory_failure_pfn
from .profiles import NEWEST, Profile
from .states import identify
from .thp import SOURCE as SPLITTING
from .thp import try_to_split_thp_page
from .user_mappings import hwpoison_user_mappings, unmap_poisoned_folio

QUEUE_LENGTH = 16
"""MEMORY_FAILURE_FIFO_SIZE."""
UNCOUNTED = {PageType.ALREADY_POISONED, PageType.PFN_MAP}
"""Verdicts that move no counter: nothing more was lost (action_result())."""


@dataclass(frozen=True, slots=True)
class Event:
    """The trace event memory_failure_event, and ``row``: the row of the state table that decided, or None."""

    pfn: int
    type: PageType
    result: MfResult
    row: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Filter:
    """The injection filter (debugfs hwpoison/corrupt-filter-*): other pages are left alone.

    ``fs``: only pages of files on the device of this file system (corrupt-filter-dev-major and -minor).
    ``group``: only pages that this memory cgroup pays for (corrupt-filter-memcg).
    """

    enabled: bool = False
    fs: str | None = None
    group: str | None = None
    flags_mask: int = 0
    flags_value: int = 0

    def refuses(self, vm: Machine, pfn: int) -> bool:
        """hwpoison_filter(): whether this frame is not one of those that errors may be injected into."""
        if not self.enabled:
            return False
        if self.fs is not None and not self._on_device(vm, pfn):
            return True
        if self.group is not None and vm.zone.page(pfn).head.memcg != self.group:
            return True
        if not self.flags_mask:
            return False
        return stable_page_flags(vm, pfn) & self.flags_mask != self.flags_value

    def _on_device(self, vm: Machine, pfn: int) -> bool:
        """hwpoison_filter_dev(): memory that belongs to no file is on no device, nor is swap; what is behind
        shared anonymous memory is on a mount of the kernel's own."""
        mapping = vm.zone.page(pfn).head.mapping
        if not isinstance(mapping, AddressSpace) or mapping.host.unnamed:
            return False
        return mapping.fs.name == self.fs


class MemoryFailure:
    """The handler of one machine. ``events`` are its verdicts, in order."""

    def __init__(self, vm: Machine, profile: Profile = NEWEST) -> None:
        self.vm = vm
        self.profile = profile
        self.mf_mutex = Lock(vm.paths, "mf_mutex")
        self.filter = Filter()
        self.events: list[Event] = []
        self.queued: list[int] = []  # met by the kernel itself, to be handled when it has time
        self.out_of_use: set[int] = set()  # frames that soft offline has taken out of use
        self.soft_offlined = self.unpoisoned = 0  # how often either succeeded
        self.seen_hardware = False  # a real error happened: nothing can be unpoisoned any more
        self.silent = 0  # more bad frames of bad huge pages, counted without a verdict (6.1)
        self.failing_allocations = 0  # so many notes about victims will find no memory
        vm.handler = self

    def memory_failure(self, pfn: int, flags: int = 0) -> int:
        """Handle an error in this frame.

        0: handled (Recovered or Delayed), or known before and the accessing task does not map it any
        more. -EBUSY: Ignored or Failed. -EHWPOISON: known before. -EOPNOTSUPP: filtered. -ENXIO: not
        memory of the kernel's. -EFAULT: known before and there is no task to tell.
        """
        if not self.vm.sysctls.memory_failure_recovery:
            raise Panic(f"Memory failure on page {pfn:x}")
        with self.mf_mutex:
            if not flags & MF_SW_SIMULATED:
                self.seen_hardware = True
            if (device := self.vm.pmem.device(pfn)) is not None:
                return memory_failure_dev_pagemap(self, device, pfn, flags)
            if not self.vm.zone.online(pfn):
                return self._no_struct_page(pfn, flags)
            return self._handle(self.vm.zone.page(pfn), flags)

    def _no_struct_page(self, pfn: int, flags: int) -> int:
        if self.profile.asks_drivers and pfn not in self.vm.zone.offline:
            return memory_failure_pfn(self, pfn, flags)
        self.printk(f"{pfn:#x}: memory outside kernel control")
        return -Errno.ENXIO

    def _handle(self, page: Page, flags: int) -> int:
        """Mark and take the page; a page that changed under our hands gets one second try."""
        retry = True
        while True:
            returned = try_memory_failure_hugetlb(self, page, flags)
            if returned is not None:
                return returned
            if test_and_set(page, pg.HWPOISON):
                return self._already_poisoned(page, flags)
            grab = Grab.TAKEN
            if not flags & MF_COUNT_INCREASED or self.profile.checks_counted_pages:
                grab = get_hwpoison_page(self, page, counted=bool(flags & MF_COUNT_INCREASED))
            if grab is Grab.FREE and not self.vm.zone.is_free_buddy_page(page.pfn):
                reason = "it was free, and is being allocated"
                return self.action_result(
                    page.pfn, PageType.KERNEL_HIGH_ORDER, MfResult.IGNORED, reason=reason
                )
            if grab is Grab.FREE:
                taken = self.vm.zone.take_page_off_buddy(page)
                if not taken and retry:
                    test_and_clear(page, pg.HWPOISON)
                    retry = False
                    flags &= ~MF_COUNT_INCREASED  # the caller's reference is spent
                    continue
                if taken:
                    atomic_add(page, "refcount", 1)
                result = MfResult.RECOVERED if taken else MfResult.FAILED
                reason = "the allocator gave it up for ever" if taken else "it was taken before us, twice"
                return self.action_result(page.pfn, PageType.BUDDY, result, reason=reason)
            if grab is not Grab.TAKEN:
                return self._not_taken(page, grab)
            return self._isolate(page, flags)

    def _not_taken(self, page: Page, grab: Grab) -> int:
        if grab is Grab.KERNEL:
            returned = self.action_result(page.pfn, PageType.KERNEL, MfResult.IGNORED, reason=grab.value)
            if self.vm.sysctls.panic_on_unrecoverable_memory_failure:
                raise Panic(f"Memory failure: {page.pfn:#x}: unrecoverable page")
            return returned
        return self.action_result(page.pfn, self.profile.not_handlable, MfResult.IGNORED, reason=grab.value)

    def _already_poisoned(self, page: Page, flags: int) -> int:
        """Nothing new is lost; but a task that has met the page again must be told where."""
        returned = -Errno.EHWPOISON
        if flags & MF_ACTION_REQUIRED:
            task = self.vm.paths.current.task
            if task is None or task.mm is None:
                returned = -Errno.EFAULT
            elif not kill_accessing_process(self, page.pfn, flags):
                returned = 0
        if flags & MF_COUNT_INCREASED:
            put_page(page)
        if self.profile.reports_already_poisoned:
            self.action_result(page.pfn, PageType.ALREADY_POISONED, MfResult.FAILED)
        else:
            self.printk(f"{frame_text(page.pfn)}: already hardware poisoned")
        return returned

    def _isolate(self, page: Page, flags: int) -> int:
        """The page is marked and ours by a reference, which stays for ever: take it away from everybody."""
        if self.profile.filters_before_split and self._filtered(page):
            return -Errno.EOPNOTSUPP
        if page.head.order:
            returned = self._split(page, flags)
            if returned is not None:
                return returned
        if not self.profile.filters_before_split and self._filtered(page):
            return -Errno.EOPNOTSUPP
        shake_page(page)
        folio_lock(page)
        saved = int(page.flags)
        if saved & (pg.LRU | pg.WRITEBACK):
            # From here on no writeback can begin, so one wait is enough (R11).
            folio_wait_writeback(page)
            if not hwpoison_user_mappings(self, page, flags):
                folio_unlock(page)
                return self.action_result(
                    page.pfn, PageType.UNMAP_FAILED, self.profile.unmap_failed, reason="still mapped"
                )
            if page.flags & pg.LRU and not page.flags & pg.SWAPCACHE and page.mapping is None:
                folio_unlock(page)
                return self.action_result(
                    page.pfn, PageType.TRUNCATED_LRU, MfResult.IGNORED, reason="its file let go of it"
                )
        return self.page_action(page, saved)

    def _filtered(self, page: Page) -> bool:
        """The injection filter spares the page, which was marked in vain; the reference is given back."""
        folio_lock(page)
        refused = self.filter.refuses(self.vm, page.pfn)
        if refused:
            test_and_clear(page, pg.HWPOISON)
        folio_unlock(page)
        if refused:
            put_page(page)
        return refused

    def _split(self, page: Page, flags: int) -> int | None:
        """Make the bad page of a large folio one of its own; None, or what the handler returns if it cannot.

        Then nothing is taken away from anybody: newer kernels tell those who want to be told early, and
        the one that consumed the error, with the size of the whole folio.
        """
        page.head.has_hwpoisoned = True
        reason = try_to_split_thp_page(page)
        if reason is None:
            self.tell("the large folio is split, and this page is one of its own now", SPLITTING)
            return None
        self.tell(reason, SPLITTING)
        if self.profile.unsplit_thp is MfResult.FAILED:
            folio_lock(page)
            victims = collect_procs(self, page, flags)
            folio_unlock(page)
            kill_procs(self, victims, page.pfn, flags, unmapped=True)
        put_page(page)
        returned = self.action_result(page.pfn, PageType.UNSPLIT_THP, self.profile.unsplit_thp, reason=reason)
        return -Errno.EHWPOISON if self.profile.unsplit_thp is MfResult.FAILED else returned

    def page_action(self, page: Page, saved: int) -> int:
        """Ask the owner by the state table, then look who still holds the page (R9)."""
        number, row, second_pass = identify(self.profile.states, page.flags, saved)
        flags = "|".join(pg.names((saved if second_pass else page.flags) & row.mask)) or "no other row"
        self.tell(f"row {number} of the state table ({flags}): {row.type.log}", "error_states[]")
        response = row.respond(page)
        result, reason = response.result, response.reason
        self.tell(reason, response.source)
        if response.kept is not None:
            users = page.head.refcount - 1 - response.kept
            if users > 0:
                self.printk(f"{page.pfn:#x}: {row.type.log} still referenced by {users} users")
                result, reason = MfResult.FAILED, f"{users} references are left that nobody explains"
                self.tell(reason, "mm/memory-failure.c has_extra_refcount()")
        if not response.unlocked:
            folio_unlock(page.head)
        return self.action_result(page.pfn, row.type, result, row=number, reason=reason)

    def action_result(
        self, pfn: int, page_type: PageType, result: MfResult, *, row: int | None = None, reason: str = ""
    ) -> int:
        """Report a verdict: trace event, counters, log; 0 for Recovered and Delayed, else -EBUSY."""
        self.events.append(Event(pfn, page_type, result, row, reason))
        counters = self.vm.counters
        if page_type not in UNCOUNTED:
            counters.poisoned += 1
            if self.profile.node_counters:
                counters.results[result] += 1
        self.printk(verdict_line(pfn, page_type, result))
        self.tell(f"verdict: {page_type.log}: {result.text}" + (f" ({reason})" if reason else ""))
        return 0 if result in (MfResult.RECOVERED, MfResult.DELAYED) else -Errno.EBUSY

    def machine_check(self, task: Task, pfn: int) -> None:
        """A task in user mode consumed an error (kill_me_maybe(), arch/x86/kernel/cpu/mce/core.c)."""
        path = self.vm.paths.current
        before, path.task = path.task, task
        try:
            returned = self.memory_failure(pfn, MF_ACTION_REQUIRED)
        finally:
            path.task = before
        if returned not in (0, -Errno.EHWPOISON, -Errno.EOPNOTSUPP):
            self.vm.printk("Memory error not recovered")
            task.force_signal(SigInfo(Signal.SIGBUS, forced=True))

    def unmap_poisoned(self, page: Page) -> None:
        """unmap_poisoned_folio() for reclaim: the page is locked and off the lists."""
        unmap_poisoned_folio(self, page, must_kill=False)

    def queue(self, pfn: int) -> None:
        """memory_failure_queue(): from a context that cannot sleep. A full queue loses the error."""
        if len(self.queued) >= QUEUE_LENGTH:
            self.printk(f"buffer overflow when queuing memory failure at {pfn:#x}")
            return
        self.queued.append(pfn)

    def run_queue(self) -> None:
        """memory_failure_work_func(): handle what was queued."""
        while self.queued:
            self.memory_failure(self.queued.pop(0))

    def no_memory(self) -> bool:
        """Whether the next small allocation fails; for tests of what happens then."""
        if self.failing_allocations:
            self.failing_allocations -= 1
            return True
        return False

    def printk(self, line: str) -> None:
        self.vm.printk(f"Memory failure: {line}")

    def tell(self, text: str, source: str = "") -> None:
        if self.vm.story is not None:
            self.vm.tell("handler", text, source)
