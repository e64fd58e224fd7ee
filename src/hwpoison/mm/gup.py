"""The kernel's own hold on user pages: get_user_pages, pins for devices (mm/gup.c)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .fault import Fault
from .filemap import folio_mark_dirty
from .inode import SysError
from .locks import atomic_add, read_once
from .memory import handle_mm_fault, unshare
from .mmap import Mm
from .page import GUP_PIN_COUNTING_BIAS, Page, folio_try_get, put_page, set_flags
from .pte import Entry, Pte
from .task import Task


def get_user_page(task: Task, vpn: int, *, write: bool = False, pin: bool = False) -> Page:
    """get_user_pages_fast() of one page, with a reference; SysError EFAULT if it cannot be had.

    ``pin`` (FOLL_PIN): whoever only reads it gets a page that nobody shares, too (gup_must_unshare()).
    A poison entry gives EFAULT as well: EHWPOISON is for callers that ask for it (FOLL_HWPOISON).
    """
    mm, faulted = task.alive_mm(), False
    _check_vma_flags(task, vpn)
    while True:
        entry = mm.entry(vpn)
        if isinstance(entry, Pte) and pin and not write and _must_unshare(task, vpn, entry.page):
            result = unshare(task, vpn)
        elif isinstance(entry, Pte) and (entry.writable or not write):
            page: Page = read_once_page(entry)
            folio = page.head
            if not folio_try_get(folio):
                if mm.entry(vpn) is entry:
                    mm.paths.relax()
            elif page.head is folio and mm.entry(vpn) is entry:  # else it was split, or is another page now
                if faulted:
                    mark_page_accessed(page)
                return page
            else:
                put_page(folio)
            continue
        else:
            result, faulted = handle_mm_fault(task, vpn, write=write), True
        if result not in (Fault.DONE, Fault.RETRY):
            raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: {result.value}")


def touch_user_page(task: Task, vpn: int, *, write: bool) -> int:
    """Bring a page in and look at it, without a reference, as __mm_populate() does (FOLL_TOUCH alone).

    How many pages from there on are done by that: all that are mapped by the same entry. SysError EFAULT.
    """
    mm = task.alive_mm()
    _check_vma_flags(task, vpn)
    while not (done := _touch(mm, vpn, write)):
        result = handle_mm_fault(task, vpn, write=write)
        if result not in (Fault.DONE, Fault.RETRY):
            raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: {result.value}")
    return done


def _touch(mm: Mm, vpn: int, write: bool) -> int:
    """follow_page_pte(), follow_trans_huge_pmd(): 0 if there is nothing that allows the access."""
    vma, table = mm.find_vma(vpn), mm.table(vpn)
    if table is None:
        entry = mm.entry(vpn)
        pages = 1 if vma is None or vma.hstate is None else vma.hstate.pages
        return pages - vpn % pages if _follow(entry, write) else 0
    with table.lock:
        if not _follow(table.entry(vpn), write):
            return 0
        return 1 if table.huge is None else mm.ptrs_per_pte - vpn % mm.ptrs_per_pte


def _follow(entry: Entry | None, write: bool) -> bool:
    if not isinstance(entry, Pte) or (write and not entry.writable):
        return False
    folio = entry.page.head
    if write and not entry.dirty and not folio.flags & pg.DIRTY:
        folio_mark_dirty(folio)  # it is to be written to
    mark_page_accessed(entry.page)
    return True


def _check_vma_flags(task: Task, vpn: int) -> None:
    vma = task.alive_mm().find_vma(vpn)
    if vma is not None and vma.pfnmap is not None:
        raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: mapped by its frame number")
    if vma is not None and vma.mapping is not None and vma.mapping.fs.hidden:
        raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: hidden from the kernel")


def mark_page_accessed(page: Page) -> None:
    """A page of a file is used, by a call that brought it in (follow_page_pte(), FOLL_TOUCH)."""
    folio = page.head
    if folio.anon or not folio.vm.traits.touch_activates:
        return
    if folio.flags & pg.REFERENCED:
        folio.vm.lru.activate(folio)
    else:
        set_flags(folio, pg.REFERENCED)


def _must_unshare(task: Task, vpn: int, page: Page) -> bool:
    """gup_must_unshare(). What is mapped as a whole is exclusive as a whole."""
    mm = task.alive_mm()
    vma, table = mm.find_vma(vpn), mm.table(vpn)
    whole = (vma is not None and vma.hstate is not None) or (table is not None and table.huge is not None)
    return page.head.anon and not (page.head if whole else page).exclusive


def read_once_page(entry: Pte) -> Page:
    """The page of an entry that is read without its lock."""
    page = entry.page
    read_once(page, "refcount")
    return page


def pin_user_page(task: Task, vpn: int, *, write: bool = True) -> Page:
    """pin_user_pages(): a long-term hold, for a device that reads and writes the page by itself."""
    page = get_user_page(task, vpn, write=write, pin=True)
    if page.head.order:
        atomic_add(page.head, "pincount", 1)
    else:
        atomic_add(page, "refcount", GUP_PIN_COUNTING_BIAS - 1)
    return page


def unpin_user_page(page: Page) -> None:
    if page.head.order:
        atomic_add(page.head, "pincount", -1)
    else:
        atomic_add(page, "refcount", 1 - GUP_PIN_COUNTING_BIAS)
    put_page(page)
