"""Finding the users of a bad page and telling them (collect_procs(), kill_procs()).

Victims are (task, address) pairs, gathered under the reverse map's semaphore only and signalled when
the page is unmapped; nothing global is held while the handler sleeps (R1). The kernel walks all
processes and asks each whether it is in the reverse map; the same pairs in the same order come from
walking the reverse map and sorting by age, at a cost that grows with the page's users only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpoison.abi.signals import (
    PAGE_SHIFT,
    PF_MCE_EARLY,
    PF_MCE_PROCESS,
    SiCode,
    SigInfo,
    Signal,
)
from hwpoison.mm.hugetlb import is_huge, state_of
from hwpoison.mm.hugetlb_unmap import mapped_at
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pmd, PoisonPte, Pte
from hwpoison.mm.rmap import StableNode, areas, page_mapped_in_vma, rmap_sem
from hwpoison.mm.task import Task

from .flags import MF_ACTION_REQUIRED

if TYPE_CHECKING:
    from hwpoison.mm.mmap import Vma

    from .handler import MemoryFailure


@dataclass(frozen=True, slots=True)
class ToKill:
    """struct to_kill: one victim. ``vpn`` None: no note could be made of where it maps the page (R2).

    ``shift``: log2 of the bytes that it cannot rely on any more (size_shift).
    """

    task: Task
    vpn: int | None
    shift: int = PAGE_SHIFT
    """log2 of the bytes that are lost there."""


def find_early_kill_thread(leader: Task, *, early_kill: bool) -> Task | None:
    """The first thread that wants to be told before it touches the page: by its own policy or the sysctl."""
    for thread in leader.threads:
        if thread.flags & PF_MCE_PROCESS:
            if thread.flags & PF_MCE_EARLY:
                return thread
        elif early_kill:
            return thread
    return None


def task_early_kill(failure: MemoryFailure, leader: Task, flags: int) -> Task | None:
    """The thread of a process to be told now, if any: the one that consumed the error, or an early one."""
    current: Task | None = failure.vm.paths.current.task
    if leader.mm is None:
        return None
    if flags & MF_ACTION_REQUIRED and current is not None and leader.mm is current.mm:
        return current
    return find_early_kill_thread(leader, early_kill=failure.vm.sysctls.memory_failure_early_kill)


def collect_procs(failure: MemoryFailure, page: Page, flags: int) -> list[ToKill]:
    """Everybody to be told now, oldest process first; the folio lock is held.

    Anonymous pages: those whose page table really maps it. File pages: everybody whose area covers it,
    mapped or not, since he asked to hear early of any loss.
    """
    folio = page.head
    mapping = folio.mapping
    if mapping is None:
        return []
    if isinstance(mapping, StableNode):
        return collect_procs_ksm(failure, mapping, flags)
    shift = state_of(page).hstate.shift if is_huge(page) else PAGE_SHIFT + folio.order
    told = folio if is_huge(page) and failure.profile.hugetlb_tells_head else page
    found: list[tuple[int, ToKill]] = []
    with rmap_sem(mapping).read():
        for vma, vpn in areas(mapping, told.file_index):
            for leader, thread in users_to_tell(failure, vma, flags):
                if not mapping.is_anon or _maps(page, vma, vpn):
                    found.append((leader.pid, add_to_kill(failure, thread, vpn, shift)))
    return oldest_first(found, nameless=not _forgets(failure))


def users_to_tell(failure: MemoryFailure, vma: Vma, flags: int) -> Iterator[tuple[Task, Task]]:
    """(process, its thread to be told now) of each that has this area."""
    for leader in vma.mm.users:
        thread = task_early_kill(failure, leader, flags)
        if thread is not None:
            yield leader, thread


def oldest_first(found: list[tuple[int, ToKill]], *, nameless: bool = False) -> list[ToKill]:
    """The victims by process number; ``nameless``: also those whose address nobody had memory to note."""
    found.sort(key=lambda pair: pair[0])
    return [victim for _pid, victim in found if nameless or victim.vpn is not None]


def collect_procs_ksm(failure: MemoryFailure, node: StableNode, flags: int) -> list[ToKill]:
    """Users of a merged page: each task once, at the first address met, and whoever shares an area's history.

    Nobody looks whether the task still maps the page there.
    """
    found: dict[int, ToKill] = {}
    for item in node.items:
        with item.anon_vma.rwsem.read():
            for leader in failure.vm.tasks.values():
                thread = task_early_kill(failure, leader, flags)
                if thread is None or thread.pid in found:
                    continue
                if any(vma.mm is thread.mm for vma in item.anon_vma.vmas):
                    victim = add_to_kill(failure, thread, item.vpn)
                    if victim.vpn is not None or not _forgets(failure):
                        found[thread.pid] = victim
    return [found[pid] for pid in sorted(found)]


def _maps(page: Page, vma: Vma, vpn: int) -> bool:
    return mapped_at(vma, vpn, page.head) if is_huge(page) else page_mapped_in_vma(page, vma, vpn)


def _forgets(failure: MemoryFailure) -> bool:
    return failure.profile.forgets_victim_without_memory


def add_to_kill(failure: MemoryFailure, task: Task, vpn: int, shift: int = PAGE_SHIFT) -> ToKill:
    """A note for one victim, if there is memory for it (GFP_ATOMIC)."""
    if failure.no_memory():
        failure.printk("Out of memory while machine check handling")
        return ToKill(task, None)
    return ToKill(task, vpn, shift)


def kill_procs(
    failure: MemoryFailure, victims: list[ToKill], pfn: int, flags: int, *, unmapped: bool
) -> None:
    """Signal each victim; the page is unmapped, or that failed."""
    for victim in victims:
        must_die = victim.vpn is None or (not unmapped and failure.profile.kills_when_not_unmapped)
        if must_die:
            failure.printk(
                f"{pfn:#x}: forcibly killing {victim.task} because of failure to unmap corrupted page"
            )
            victim.task.send_signal(SigInfo(Signal.SIGKILL))
        else:
            kill_proc(failure, victim, pfn, flags)


def kill_proc(failure: MemoryFailure, victim: ToKill, pfn: int, flags: int) -> None:
    """SIGBUS with address and size: forced on the task that consumed the error, queued for others."""
    task = victim.task
    failure.printk(f"{pfn:#x}: Sending SIGBUS to {task} due to hardware memory corruption")
    address = None if victim.vpn is None else victim.vpn << PAGE_SHIFT
    if flags & MF_ACTION_REQUIRED and task is failure.vm.paths.current.task:
        info = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, address, victim.shift, forced=True)
        task.force_signal(info)
    else:
        info = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, address, victim.shift)
        task.send_signal(info)
    failure.tell(f"{task} is sent {info.text()}", "mm/memory-failure.c kill_proc()")


def kill_accessing_process(failure: MemoryFailure, pfn: int, flags: int) -> bool:
    """The page was known to be bad and the current task met it again: tell it where, if it still maps it."""
    task: Task | None = failure.vm.paths.current.task
    if task is None or task.mm is None:
        return False
    with task.mm.mmap_lock.read():
        vpn = _mapped_at(task, pfn)
    if vpn is None:
        return False
    vma = task.mm.find_vma(vpn)
    shift = PAGE_SHIFT if vma is None or vma.hstate is None else vma.hstate.shift
    kill_proc(failure, ToKill(task, vpn, shift), pfn, flags)
    return True


def _mapped_at(task: Task, pfn: int) -> int | None:
    """The first address at which the task maps this frame, or has a poison entry for it."""
    mm = task.alive_mm()
    for vma in mm.vmas:
        for first, table in mm.huge_tables(vma.start, vma.end):
            folio = table.huge.page if isinstance(table.huge, Pmd) else None
            if folio is not None and folio.pfn <= pfn < folio.pfn + folio.nr_pages:
                return first + pfn - folio.pfn
        for vpn, table in mm.populated(vma.start, vma.end):
            entry = table.entries.get(vpn)
            if isinstance(entry, Pte) and entry.page.pfn == pfn:
                return vpn
            if isinstance(entry, PoisonPte) and entry.pfn == pfn:
                return vpn
        if vma.hstate is not None and (at := _in_huge_page(vma, pfn, vma.hstate.pages)) is not None:
            return at
    return None


def _in_huge_page(vma: Vma, pfn: int, pages: int) -> int | None:
    """As _mapped_at(), in an area of huge pages; a note has the frame of the head."""
    for start, entry in sorted(vma.mm.hugetlb.items()):
        head = (
            entry.page.pfn if isinstance(entry, Pmd) else entry.pfn if isinstance(entry, PoisonPte) else None
        )
        if head is not None and vma.start <= start < vma.end and 0 <= pfn - head < pages:
            return start + pfn - head
    return None
