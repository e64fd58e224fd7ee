"""What the third posting did, as functions to put in place of ours: each recreates one habit, and no more.

rows.py says where each goes, and shows what it breaks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import PAGE_SHIFT, Errno, SiCode, SigInfo, Signal
from hwpoison.failure.flags import MF_MUST_KILL
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.kill import ToKill, collect_procs, task_early_kill
from hwpoison.failure.user_mappings import hwpoison_user_mappings
from hwpoison.mm.filemap import filemap_check_errors, page_cache_delete
from hwpoison.mm.inode import AddressSpace, File, SysError
from hwpoison.mm.lockorder import LOCK_CLASSES, LockClass
from hwpoison.mm.locks import Lock, Paths
from hwpoison.mm.machine import Machine
from hwpoison.mm.mmap import Vma
from hwpoison.mm.page import Page, folio_unlock, put_page
from hwpoison.mm.response import Response, delete_from_lru_cache
from hwpoison.mm.rmap import unlink_anon_vmas
from hwpoison.mm.swap import give_up_clean_swapcache, give_up_dirty_swapcache
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import give_up_clean_folio

HABIT = "the third posting"

# R1, R7: the lock of all tasks, which the model does without.

TASKLIST = "tasklist_lock"
UNWRITTEN = LOCK_CLASSES | {TASKLIST: LockClass(TASKLIST, 1 << len(LOCK_CLASSES), 0)}
"""The kinds of locks and one more, of which nobody has written down where it goes."""
WRITTEN = ("i_mmap_rwsem", "anon_vma", TASKLIST, "ptl")
"""Where it went in the end: inside the reverse maps, which may sleep, as it may not."""
make_machine = Machine.__init__


def with_tasklist(vm: Machine, **arguments: Any) -> None:
    make_machine(vm, **arguments)
    vm.tasklist_lock = Lock(vm.paths, TASKLIST)


def unlinks_under_the_files_list(vma: Vma) -> None:
    """Changing the borders of an area takes the lists of its file and of its copies together."""
    if vma.mapping is None:
        unlink_anon_vmas(vma)
        return
    with vma.mapping.i_mmap_rwsem.write():
        unlink_anon_vmas(vma)


def unmaps_with_all_tasks_stopped(failure: MemoryFailure, page: Page, flags: int) -> bool:
    """R1: victims are marked in their tasks, so the lock of all tasks is held until they are signalled."""
    with failure.vm.tasklist_lock:
        return hwpoison_user_mappings(failure, page, flags)


class Unserialised:
    """No lock where the handler has its mutex: several errors are handled at once."""

    def __init__(self, _paths: Paths, _name: str) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def collects_file_users_under_tasklist(failure: MemoryFailure, page: Page, flags: int) -> list[ToKill]:
    """R7: for a page of a file the lock of all tasks is outside the list of areas ..."""
    if not isinstance(page.head.mapping, AddressSpace):
        return collect_procs(failure, page, flags)
    with failure.vm.tasklist_lock:
        return collect_procs(failure, page, flags)


def asks_task_under_tasklist(failure: MemoryFailure, leader: Task, flags: int) -> Task | None:
    """R7: ... and for an anonymous page inside it."""
    lock = failure.vm.tasklist_lock
    if lock.owner is failure.vm.paths.current:
        return task_early_kill(failure, leader, flags)
    with lock:
        return task_early_kill(failure, leader, flags)


# R2, R6, R23: who is told.


def forgets(_failure: MemoryFailure) -> bool:
    """R2: a victim for which no note can be made is left out."""
    return True


def leaves_it_mapped(_page: Page, _flags: int) -> None:
    """A page that cannot be unmapped."""


def resets_the_handler(
    failure: MemoryFailure, victims: list[ToKill], pfn: int, flags: int, *, unmapped: bool
) -> None:
    """R6: no SIGKILL for whoever still maps the page: its handler is taken away, and then SIGBUS is sent."""
    for victim in victims:
        address = None if victim.vpn is None else victim.vpn << PAGE_SHIFT
        if not unmapped:
            victim.task.leader.sigbus = "default"
        victim.task.send_signal(SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, address, PAGE_SHIFT))


def tells_everybody(failure: MemoryFailure, page: Page, flags: int) -> bool:
    """R23: a clean page counts as lost, too."""
    return hwpoison_user_mappings(failure, page, flags | MF_MUST_KILL)


def tells_of_each_area(failure: MemoryFailure, page: Page, flags: int) -> list[ToKill]:
    """R3: a line for each area of the list in which the page has no address."""
    mapping = page.head.mapping
    for vma in mapping.vmas if mapping.is_anon else mapping.i_mmap:
        if not vma.start <= vma.start + page.index - vma.pgoff < vma.end:
            failure.printk(f"no address of {page.pfn:#x} in an area of {vma.mm.name}")
    return collect_procs(failure, page, flags)


# R8, R9: what the words mean.


def claims_recovered(page: Page) -> Response:
    """R8: dirty and kept in the swap cache, and called Recovered."""
    return replace(give_up_dirty_swapcache(page), result=MfResult.RECOVERED)


def asks_nobody_who_holds_it(page: Page) -> Response:
    """R9: what references are left does not matter."""
    return replace(give_up_clean_folio(page), kept=None)


# R10, R11, R12, R17: taking the page out.


def removes_raw(page: Page) -> Response:
    """R10: out of the cache by the primitive that checks nothing, if nobody maps the page just now."""
    delete_from_lru_cache(page)
    mapping = page.mapping
    if isinstance(mapping, AddressSpace) and not page.mapped:
        with mapping.i_pages_lock:
            page_cache_delete(mapping, page)
        put_page(page)
    return Response(MfResult.RECOVERED, 0, "removed if it was not mapped", HABIT)


def removes_raw_unlocked(page: Page) -> Response:
    """R10 where the folio lock does not reach so far."""
    folio_unlock(page)
    return replace(removes_raw(page), unlocked=True)


def goes_on(_page: Page) -> None:
    """R11: whoever meets writeback here goes on all the same."""


def open_codes_truncation(mapping: AddressSpace, page: Page) -> int:
    """R12: its own truncation, which knows nothing of what a file system hangs on its pages."""
    with mapping.i_pages_lock:
        page_cache_delete(mapping, page)
    put_page(page)
    return 0


def deletes_dirty(page: Page) -> Response:
    """R17: a dirty page leaves the swap cache as a clean one does."""
    page.flags &= ~pg.DIRTY
    return give_up_clean_swapcache(page)


# R13, R14, R15, R16: who hears of a loss, and as what.


def says_eio(_mapping: AddressSpace) -> Errno:
    """R14: the code of a device that failed."""
    return Errno.EIO


def tells_the_first_who_asks(file: File) -> None:
    """R15: one bit a file, cleared by whoever asks."""
    filemap_check_errors(file.inode.mapping)


def no_such_call(_file: File) -> AddressSpace:
    """R16: nobody can ask what was lost."""
    raise SysError(Errno.EINVAL, "there is no such call")


# R20, R21, R22.


def counts_pins(page: Page) -> Response:
    """R20: a weakness of all kernels mended: references to anonymous memory are counted as well."""
    response = give_up_clean_folio(page)
    return replace(response, kept=0) if response.kept is None and page.anon else response


def reads_on(vm: Machine, page: Page) -> str:
    """R21: the kernel copies from bad memory and goes on."""
    if page.bad:
        vm.expose(page, "the kernel")
    return page.content


def left_to_the_allocator(_zone: object, _page: Page) -> bool:
    """R22: a free page is only marked; the allocator is expected to notice."""
    return True
