"""unpoison_memory(): a frame that was marked by software is good again (mm/memory-failure.c).

For tests only, and refused for good once real hardware has reported an error. Under ``mf_mutex``.
What it cannot see is an owner who does not show in the page: one whose only reference it takes for the
handler's loses the page under his hands.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import frame_text
from hwpoison.abi.signals import Errno
from hwpoison.mm.hugetlb import is_huge, state_of
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.locks import test_and_clear
from hwpoison.mm.page import Page, folio_try_get, put_page
from hwpoison.mm.page_alloc import MAGIC_HWPOISON

from .handler import MemoryFailure

KERNELS_OWN = pg.SLAB | pg.PGTABLE | pg.RESERVED | pg.OFFLINE


def unpoison_memory(failure: MemoryFailure, pfn: int) -> int:
    """Make this frame good again: 0, -EBUSY (not bad, or somebody has it), -EOPNOTSUPP, or no such frame."""
    if not failure.vm.zone.online(pfn):
        return -Errno.EIO if pfn in failure.vm.zone.offline else -failure.profile.unpoison_no_page
    page = failure.vm.zone.page(pfn)
    with failure.mf_mutex:
        refusal = _refusal(failure, page)
        frames = _bad_frames(page)
        returned = _give_back(page) if refusal is None else refusal[0]
        if refusal is not None:
            failure.vm.printk(f"Unpoison: {frame_text(pfn)}: {refusal[1]}")
    if returned == 0:
        for frame in frames:
            frame.bad = False
            failure.out_of_use.discard(frame.pfn)
        failure.vm.counters.poisoned -= len(frames)
        failure.unpoisoned += len(frames)
        failure.vm.printk(f"Unpoison: {frame_text(pfn)}: software-unpoisoned page")
    return returned


def _refusal(failure: MemoryFailure, page: Page) -> tuple[int, str] | None:
    """Why this page is left alone, if it is: errno and what the log says."""
    busy = -Errno.EBUSY
    if failure.seen_hardware:
        return -Errno.EOPNOTSUPP, "disabled after HW memory failure"
    marked = page.head if is_huge(page) and failure.profile.unpoison_takes_any_part else page
    if not marked.flags & pg.HWPOISON:
        return busy, "page was already unpoisoned"
    if page.head.refcount > 1:
        return busy, "someone grabs the hwpoison page"
    if page.head.flags & KERNELS_OWN:
        return busy, "the kernel itself uses it"
    if page.head.mapped:
        return busy, "someone maps the hwpoison page"
    if isinstance(page.head.mapping, AddressSpace) or page.head.flags & pg.SWAPCACHE:
        return busy, "the hwpoison page has non-NULL mapping"
    if is_huge(page) and not state_of(page).raw:
        return busy, "nobody knows which frames of the huge page are bad"
    return None


def _bad_frames(page: Page) -> list[Page]:
    """What is good again with this frame: of a huge page all that are known to be bad."""
    return list(state_of(page).raw) if is_huge(page) else [page]


def _give_back(page: Page) -> int:
    """The mark goes, and with it the handler's reference: the page is free."""
    if is_huge(page):
        return _give_back_huge(page.head)
    if page.private == MAGIC_HWPOISON:
        return 0 if page.vm.zone.put_page_back_buddy(page) else -Errno.EBUSY
    if not folio_try_get(page.head):  # it was freed while it was bad, and is in no list
        return 0 if test_and_clear(page, pg.HWPOISON) else -Errno.EBUSY
    put_page(page)
    if not test_and_clear(page, pg.HWPOISON):
        return -Errno.EBUSY
    put_page(page)
    return 0


def _give_back_huge(head: Page) -> int:
    """All its frames are good again: it is as any other in its pool, or its last reference sends it there."""
    state_of(head).raw.clear()
    taken = folio_try_get(head)
    test_and_clear(head, pg.HWPOISON)
    if taken:
        put_page(head)
        put_page(head)
    return 0
