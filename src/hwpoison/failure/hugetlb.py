"""Errors in huge pages (try_memory_failure_hugetlb()): taken and marked in one section of the hugetlb lock.

A huge page is being allocated, freed, demoted at any time; only under ``hugetlb_lock`` is it known
what it is. The mark is on the head and a list has the bad frames, so a second error in the same huge page is
either an error that is known, or one more frame.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno
from hwpoison.mm.hugetlb import is_huge, state_of, why_not_given_up
from hwpoison.mm.locks import atomic_add, test_and_set
from hwpoison.mm.page import Page, folio_lock, folio_try_get, folio_unlock, put_page

from .flags import MF_ACTION_REQUIRED, MF_COUNT_INCREASED
from .kill import kill_accessing_process
from .user_mappings import hwpoison_user_mappings

if TYPE_CHECKING:
    from .handler import MemoryFailure

SOURCE = "mm/memory-failure.c try_memory_failure_hugetlb()"


class Found(Enum):
    """What get_huge_page_for_hwpoison() says of a frame."""

    NOT_HUGE = "no huge page"
    FREE = "a free huge page"
    IN_USE = "a huge page in use, with a reference of ours"
    BUSY = "a huge page on its way from one state to another"
    SAME_FRAME = "a frame that is known to be bad"
    NEW_FRAME = "one more bad frame of a bad huge page"


def get_huge_page_for_hwpoison(
    failure: MemoryFailure, page: Page, flags: int, *, last_try: bool
) -> tuple[Found, bool]:
    """Take a huge page and mark it: (what was found, whether its mark "migratable" was taken away).

    B2, B3, B4: all in one section, or the head may be another one by the time it is marked.
    """
    pools = failure.vm.hugetlb
    with pools.lock:
        if not is_huge(page):
            return Found.NOT_HUGE, False
        head, state = page.head, state_of(page)
        counted = bool(flags & MF_COUNT_INCREASED)
        found = Found.BUSY
        if counted:
            found = Found.IN_USE
        elif state.freed:
            found = Found.FREE
        elif state.migratable:
            counted = folio_try_get(head)
            found = Found.IN_USE if counted else Found.FREE
        elif not last_try:
            return found, False
        before, new = pools.set_hwpoison(page, no_memory=failure.no_memory())
        if before:
            found = Found.NEW_FRAME if new else Found.SAME_FRAME
        cleared = found is Found.IN_USE and state.migratable and failure.profile.hugetlb_stays_put
        if cleared:
            state.migratable = False
    if before and counted:
        put_page(head)
    return found, cleared


def try_memory_failure_hugetlb(failure: MemoryFailure, page: Page, flags: int) -> int | None:
    """The whole way of a huge page; None if it is none, and nothing was done."""
    found, cleared = get_huge_page_for_hwpoison(failure, page, flags, last_try=False)
    if found is Found.BUSY:
        found, cleared = get_huge_page_for_hwpoison(failure, page, flags, last_try=True)
    if found is Found.NOT_HUGE:
        return None
    if found in (Found.SAME_FRAME, Found.NEW_FRAME):
        return _known(failure, page, flags, found)
    if found is Found.BUSY:
        return failure.action_result(
            page.pfn, failure.profile.not_handlable, MfResult.IGNORED, reason=found.value
        )
    head = page.head
    folio_lock(head)
    if failure.filter.refuses(failure.vm, page.pfn):
        return _filtered(failure, page, found, cleared)
    if found is Found.FREE:
        folio_unlock(head)
        return _free(failure, page)
    saved = int(head.flags)
    if not hwpoison_user_mappings(failure, page, flags):
        folio_unlock(head)
        return failure.action_result(
            page.pfn, PageType.UNMAP_FAILED, failure.profile.unmap_failed, reason="still mapped"
        )
    return failure.page_action(page, saved)


def _filtered(failure: MemoryFailure, page: Page, found: Found, cleared: bool) -> int:
    """Spared, and yet the frame gets the mark that it would have had if the huge page had been dissolved: for
    its first frame that is the mark of all of it, for others it shows later. Seen on 6.1 to 7.3."""
    head = page.head
    failure.vm.hugetlb.clear_hwpoison(page)
    for frame in state_of(page).raw:
        test_and_set(frame, pg.HWPOISON)
    state_of(page).raw.clear()
    if cleared:
        state_of(page).migratable = True
    folio_unlock(head)
    if found is Found.IN_USE:
        put_page(head)
    return -Errno.EOPNOTSUPP


def _free(failure: MemoryFailure, page: Page) -> int:
    """Nobody uses it: an ordinary block again, less the one frame (B9)."""
    dissolved = failure.vm.hugetlb.page_handle_poison(page)
    if dissolved:
        atomic_add(page, "refcount", 1)
        reason = "the huge page was dissolved, and the allocator gave the one bad frame up for ever"
    else:
        undissolved = "every free huge page is promised to somebody: it cannot be dissolved"
        reason = why_not_given_up(page, undissolved)
    failure.tell(reason, SOURCE)
    result = MfResult.RECOVERED if dissolved else MfResult.FAILED
    return failure.action_result(page.pfn, PageType.FREE_HUGE, result, reason=reason)


def _known(failure: MemoryFailure, page: Page, flags: int, found: Found) -> int:
    """The huge page was bad before. Whoever has met it again is told where."""
    returned = -Errno.EHWPOISON
    if flags & MF_ACTION_REQUIRED:
        task = failure.vm.paths.current.task
        pfn = page.pfn if failure.profile.tells_bad_frame_again else page.head.pfn
        if task is None or task.mm is None:
            returned = -Errno.EFAULT
        elif not kill_accessing_process(failure, pfn, flags):
            returned = 0
    if not failure.profile.reports_already_poisoned:
        failure.printk(f"{page.pfn:#x}: already hardware poisoned")
        if found is Found.NEW_FRAME:
            failure.vm.counters.poisoned += 1
            failure.silent += 1
    elif found is Found.SAME_FRAME:
        failure.action_result(page.pfn, PageType.ALREADY_POISONED, MfResult.FAILED)
    else:
        failure.action_result(page.pfn, PageType.HUGE, MfResult.FAILED, reason=found.value)
    return returned
