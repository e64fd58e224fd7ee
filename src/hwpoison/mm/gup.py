"""The kernel's own hold on user pages: get_user_pages, pins for devices (mm/gup.c)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .fault import Fault
from .inode import SysError
from .locks import atomic_add, read_once
from .memory import handle_mm_fault, unshare
from .page import GUP_PIN_COUNTING_BIAS, Page, folio_try_get, put_page, set_flags
from .pte import Pte
from .task import Task


def get_user_page(task: Task, vpn: int, *, write: bool = False, pin: bool = False) -> Page:
    """get_user_pages_fast() of one page, with a reference; SysError EFAULT if it cannot be had.

    ``pin`` (FOLL_PIN): whoever only reads it gets a page that nobody shares, too (gup_must_unshare()).
    A poison entry gives EFAULT as well: EHWPOISON is for callers that ask for it (FOLL_HWPOISON).
    """
    mm = task.alive_mm()
    vma = mm.find_vma(vpn)
    if vma is not None and vma.pfnmap is not None:
        raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: mapped by its frame number")
    if vma is not None and vma.mapping is not None and vma.mapping.fs.hidden:
        raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: hidden from the kernel")
    faulted = False
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
