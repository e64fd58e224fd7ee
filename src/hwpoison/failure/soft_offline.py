"""soft_offline_page(): take a page out of use before it fails for good (mm/memory-failure.c).

Its memory can still be read, so nothing is lost and nobody is signalled: a page nobody maps leaves the
page cache, any other is migrated, a free one leaves the free lists. Only a page that is out of use is
marked; one that somebody holds on to stays as it is. Under ``mf_mutex``; may sleep.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import frame_text
from hwpoison.abi.signals import PAGE_SHIFT, Errno
from hwpoison.mm.gup import get_user_page
from hwpoison.mm.hugetlb import is_huge
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.locks import atomic_add
from hwpoison.mm.migrate import Reason, isolate_folio, migrate_pages, putback_movable_pages
from hwpoison.mm.page import Page, folio_lock, folio_unlock, folio_wait_writeback, put_page, set_flags
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import mapping_evict_folio

from .flags import MF_COUNT_INCREASED
from .grab import Grab, get_hwpoison_page
from .handler import MemoryFailure
from .thp import SOURCE as SPLITTING
from .thp import try_to_split_thp_page

SOURCE = "mm/memory-failure.c soft_offline_page()"
REFUSALS = {
    Grab.BUSY: Errno.EBUSY,
    Grab.UNHANDLABLE: Errno.EIO,
    Grab.KERNEL: Errno.ENOTRECOVERABLE,
}
"""What get_hwpoison_page() answers for a page that it could not take."""


def soft_offline_page(failure: MemoryFailure, pfn: int, flags: int = 0) -> int:
    """Take this frame out of use. With MF_COUNT_INCREASED the caller's reference is used up.

    0: it is out of use, now or since before. -EBUSY: somebody holds it, or it changed under our hands.
    -EIO, -ENOTRECOVERABLE: no page that could be moved, or one that is offline. -EOPNOTSUPP: switched off,
    or filtered. -ENXIO: no such frame. -ENOMEM: no frame to move to.
    """
    vm = failure.vm
    counted = bool(flags & MF_COUNT_INCREASED)
    if not vm.zone.online(pfn):
        if vm.pmem.has_page(pfn):
            return _without(vm.zone.page(pfn), counted, -Errno.EIO)
        known = pfn in vm.zone.offline or vm.pmem.device(pfn) is not None
        return -Errno.EIO if known else -Errno.ENXIO
    page = vm.zone.page(pfn)
    if failure.profile.soft_offline_switch and not vm.sysctls.enable_soft_offline:
        _say(failure, "disabled by /proc/sys/vm/enable_soft_offline")
        return _without(page, counted, -Errno.EOPNOTSUPP)
    with failure.mf_mutex:
        if page.flags & pg.HWPOISON:
            _say(failure, f"{frame_text(pfn)}: page already poisoned")
            return _without(page, counted, 0)
        return _offline(failure, page, counted)


def _offline(failure: MemoryFailure, page: Page, counted: bool) -> int:
    """Take the page; a free one that is taken by somebody else meanwhile gets a second try."""
    for last in (False, True):
        grab = get_hwpoison_page(failure, page, counted=counted)
        if failure.filter.refuses(failure.vm, page.pfn):
            return _without(page, grab is Grab.TAKEN, -Errno.EOPNOTSUPP)
        if grab is Grab.TAKEN:
            return soft_offline_in_use_page(failure, page)
        if grab is not Grab.FREE:
            return -REFUSALS[grab]
        if page_handle_poison(failure, page, free=True):
            failure.tell("it was free: the allocator gave it up for ever", SOURCE)
            return 0
        if not last:
            counted = False
    return -Errno.EBUSY


def soft_offline_in_use_page(failure: MemoryFailure, page: Page) -> int:
    """The page is ours by a reference: let go of it if nobody needs it, else move it."""
    huge = is_huge(page)
    if not huge and page.head.order and (reason := try_to_split_thp_page(page)) is not None:
        put_page(page)
        _say(failure, f"{frame_text(page.pfn)}: thp split failed")
        failure.tell(reason, SPLITTING)
        return -Errno.EBUSY
    folio_lock(page)
    if not huge:
        folio_wait_writeback(page)
    if page.flags & pg.HWPOISON:
        folio_unlock(page)
        put_page(page)
        _say(failure, f"{frame_text(page.pfn)}: page already poisoned")
        return 0
    dropped = False
    if page.flags & pg.LRU and not page.flags & pg.SWAPCACHE:
        mapping = page.mapping if isinstance(page.mapping, AddressSpace) else None
        dropped = mapping_evict_folio(mapping, page)
    folio_unlock(page)
    if dropped:
        _say(failure, f"{frame_text(page.pfn)}: invalidated")
        failure.tell("dropped from the page cache: nobody maps it, and the disk has its contents", SOURCE)
        page_handle_poison(failure, page, release=True)
        return 0
    return _migrate(failure, page)


def _migrate(failure: MemoryFailure, page: Page) -> int:
    """Isolate and move; isolated, the page has a reference of that, so ours goes."""
    folio, huge = page.head, is_huge(page)
    isolated = isolate_folio(folio)
    count = folio.refcount
    put_page(folio)
    if not isolated:
        _say(failure, f"{frame_text(page.pfn)}: page isolation failed, page count {count}")
        return -Errno.EBUSY
    pages = [folio]
    result = migrate_pages(pages, Reason.MEMORY_FAILURE)
    if result:
        putback_movable_pages(pages)
        _say(failure, f"{frame_text(page.pfn)}: page migration failed {result}")
        failure.tell("somebody holds it: it stays where it is", SOURCE)
        return result if result < 0 else -Errno.EBUSY
    failure.tell("its contents were moved to another frame", "mm/migrate.c migrate_pages()")
    return 0 if page_handle_poison(failure, page, free=huge, release=not huge) else -Errno.EBUSY


def page_handle_poison(
    failure: MemoryFailure, page: Page, *, free: bool = False, release: bool = False
) -> bool:
    """Mark a frame that is out of use, for ever; whether it still was. ``release``: our reference goes.

    ``free``: it is in the free lists, or within a free huge page, which is dissolved.
    """
    if free and not failure.vm.hugetlb.page_handle_poison(page):
        return False
    set_flags(page, pg.HWPOISON)
    if release:
        put_page(page)
    atomic_add(page, "refcount", 1)
    failure.vm.counters.poisoned += 1
    failure.out_of_use.add(page.pfn)
    failure.soft_offlined += 1
    return True


def _without(page: Page, counted: bool, returned: int) -> int:
    """Give the reference back, if there is one, and return this."""
    if counted:
        put_page(page)
    return returned


def _say(failure: MemoryFailure, text: str) -> None:
    failure.vm.printk(f"{failure.profile.soft_offline_prefix}: {text}")


def madvise(failure: MemoryFailure, task: Task, vpn: int) -> int:
    """madvise(MADV_SOFT_OFFLINE) of one page by its user; raises SysError if the page cannot be reached."""
    page = get_user_page(task, vpn)
    address = vpn << PAGE_SHIFT
    failure.vm.printk(f"Soft offlining pfn {page.pfn:#x} at process virtual address {address:#x}")
    return soft_offline_page(failure, page.pfn, MF_COUNT_INCREASED)
