"""Bugs about which page it is: taken for another one, or for none."""

from __future__ import annotations

from typing import Any

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.failure import grab, hugetlb, inject
from hwpoison.failure.flags import MF_ACTION_REQUIRED, MF_SW_SIMULATED
from hwpoison.failure.grab import Grab
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.hugetlb import Found
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm.gup import get_user_page
from hwpoison.mm.hugetlb import Hstate, HugeState, Hugetlb, is_huge, state_of
from hwpoison.mm.locks import KernelBug, atomic_add, test_and_set
from hwpoison.mm.page import Page, folio_try_get, put_page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.task import Task
from hwpoison.scenario.model import Model

from .bug import SMALL_HUGE_PAGES, Bug


class Open:
    """A lock that keeps nobody out."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_init, _free, _try = MemoryFailure.__init__, hugetlb._free, grab._try


def without_mutex(failure: MemoryFailure, *arguments: Any) -> None:
    _init(failure, *arguments)
    failure.mf_mutex = Open()  # type: ignore[assignment]


B1 = Bug(
    "B1",
    "two processors report pages of one folio, and neither waits for the other",
    """
    file f fs=xfs pages=4
    open fd file=f
    write fd:0 data=x pages=4
    together
      one: inject f:0 via=sysfs
      two: inject f:1 via=sysfs
    end
    """,
    (("hwpoison.failure.handler:MemoryFailure.__init__", without_mutex),),
    "promise 2: .* will not hear",
    known=("stale-read",),
    fix="~5.14: a mutex around memory_failure()",
)


def get_by_count(failure: MemoryFailure, page: Page, flags: int, *, last_try: bool) -> tuple[Found, bool]:
    """A huge page whose count is not zero is in use; what it is on its way to, nobody asks."""
    pools = failure.vm.hugetlb
    with pools.lock:
        if not is_huge(page):
            return Found.NOT_HUGE, False
        found = Found.IN_USE if folio_try_get(page.head) else Found.FREE
        before, new = pools.set_hwpoison(page, no_memory=False)
    if not before:
        return found, False
    if found is Found.IN_USE:
        put_page(page)
    return Found.NEW_FRAME if new else Found.SAME_FRAME, False


def grow_by_reference(pools: Hugetlb, h: Hstate, *, surplus: bool, node: int = 0) -> bool:
    """A new huge page comes with the allocator's reference, which must be the last when it goes."""
    try:
        page = pools.vm.zone.alloc_pages(h.order)
    except OutOfMemory:
        return False
    with pools.lock:
        page.flags |= pg.HUGE
        page.private = HugeState(h)
        h.nr += 1
        h.nr_at[node] += 1
        h.surplus_at[node] += surplus
    with pools.lock:
        if atomic_add(page, "refcount", -1):
            raise KernelBug(f"{page} is new, and somebody has it")
        pools._enqueue(h, page)
    return True


B2 = Bug(
    "B2",
    "a reference is taken of a huge page that is just being made",
    """
    hugepages 2M pages=1
    frame h kind=hugepage
    hugepages 2M pages=0
    together
      grow: hugepages 2M pages=3
      mce:  inject h:1 via=sysfs
    end
    """,
    (("hwpoison.failure.hugetlb:get_huge_page_for_hwpoison", get_by_count),),
    "assertion: KernelBug: .* is new, and somebody has it",
    frames=16,
    setting=(*SMALL_HUGE_PAGES, ("hwpoison.mm.hugetlb:Hugetlb._grow", grow_by_reference)),
    fix="25182f05ffed (5.13)",
)


def marks_of_good_memory(model: Model) -> list[str]:
    """A mark on a frame whose memory is good; on the head of a huge page it may stand for another frame."""
    return [
        f"{page} is marked, and is good memory"
        for page in model.vm.zone.pages.values()
        if page.flags & pg.HWPOISON and not page.bad and not (is_huge(page) and state_of(page).raw)
    ]


def mark_head_first(failure: MemoryFailure, page: Page, flags: int, *, last_try: bool) -> tuple[Found, bool]:
    """The head is looked up and marked; what has become of it, the lock tells afterwards."""
    head = page.head
    if not head.flags & pg.HUGE:
        return Found.NOT_HUGE, False
    before = test_and_set(head, pg.HWPOISON)
    with failure.vm.hugetlb.lock:
        if not is_huge(page):
            return Found.BUSY, False
        state = state_of(page)
        if before:
            return Found.SAME_FRAME if page in state.raw else Found.NEW_FRAME, False
        state.raw.append(page)
        return Found.FREE if state.freed else Found.BUSY, False


SHRINK = """
    hugepages 2M pages=1
    frame h kind=hugepage
    together
      shrink: hugepages 2M pages=0
      mce:    inject h:1 via=sysfs
    end
"""
B3 = Bug(
    "B3",
    "the head of what was a huge page is marked: another frame, and good memory",
    SHRINK,
    (("hwpoison.failure.hugetlb:get_huge_page_for_hwpoison", mark_head_first),),
    "remark: .* is good memory",
    setting=SMALL_HUGE_PAGES,
    also=marks_of_good_memory,
    fix="888af2701db7 (5.18)",
)


def mark_after_lock(failure: MemoryFailure, page: Page, flags: int, *, last_try: bool) -> tuple[Found, bool]:
    """What it is, is settled under the lock; the mark comes when that is given back."""
    with failure.vm.hugetlb.lock:
        if not is_huge(page):
            return Found.NOT_HUGE, False
        head, state = page.head, state_of(page)
        found = Found.FREE if state.freed else Found.BUSY
        if state.migratable and folio_try_get(head):
            found = Found.IN_USE
        if found is Found.BUSY and not last_try:
            return found, False
    before = test_and_set(head, pg.HWPOISON)
    new = page not in state.raw
    if new:
        state.raw.append(page)
    if not before:
        return found, False
    return Found.NEW_FRAME if new else Found.SAME_FRAME, False


B4 = Bug(
    "B4",
    "a free huge page is marked after it has gone back to the allocator",
    SHRINK,
    (("hwpoison.failure.hugetlb:get_huge_page_for_hwpoison", mark_after_lock),),
    "remark: .* is good memory",
    setting=SMALL_HUGE_PAGES,
    also=marks_of_good_memory,
    fix="~405ce051236c (5.18)",
)


def try_what_is_seen(failure: MemoryFailure, page: Page, counted: bool) -> tuple[Grab, bool]:
    """A folio that belongs to nothing is being made or freed: no reference of it is even tried."""
    if not counted and page.head.order and page.head.mapping is None:
        return Grab.BUSY, False
    return _try(failure, page, counted)


def refusals(model: Model) -> list[str]:
    return [f"{e.pfn:#x} is refused: {e.reason}" for e in model.failure.events if e.reason == Grab.BUSY.value]


B6 = Bug(
    "B6",
    "a large folio is judged before there is a reference to it: an error is refused for good",
    """
    file f fs=xfs pages=2
    open fd file=f
    write fd:0 data=x pages=2
    fsync fd
    together
      truncate: truncate f pages=0
      mce:      inject f:1 via=sysfs
    end
    """,
    (("hwpoison.failure.grab:_try", try_what_is_seen),),
    "remark: .* is refused",
    known=("unsplit-untold",),
    also=refusals,
    fix="~c7cb42e94473 (5.15)",
)


def madvise_unpinned(failure: MemoryFailure, task: Task, vpn: int) -> int:
    """The page is looked up, and what is handled is the frame it was then."""
    with inject.running(failure.vm, task):
        page = get_user_page(task, vpn)
        put_page(page)
        return inject._unless_filtered(failure, page.pfn, MF_SW_SIMULATED | MF_ACTION_REQUIRED)


B7 = Bug(
    "B7",
    "madvise gives its reference back too early: by then the frame is another process'",
    """
    sysctl memory_failure_early_kill value=1
    task app sigbus=handler
    map m task=app
    store m:0 data=x
    task other sigbus=handler
    map z task=other pages=2
    store z:0 data=w
    file x
    drop x
    together
      other: unmap m
      other: store z:1 data=z
      mce:   inject m:0 via=madvise
    end
    """,
    (("hwpoison.failure.inject:madvise", madvise_unpinned),),
    "promise 3: other.* did not use",
    fix="1e8aaedb182d (5.11)",
)


def only_a_head(failure: MemoryFailure, page: Page) -> int:
    """With the mark on the head, a tail has nothing more to be done for."""
    return _free(failure, page) if page is page.head else 0


B9 = Bug(
    "B9",
    "an error in a tail of a free huge page leaves all of it in the pool, bad",
    """
    hugepages 2M pages=1
    frame h kind=hugepage
    inject h:3 via=sysfs
      => return h code=0
      => verdict type="free huge page" result=Recovered
    pool 2M
      => pool 2M nr=0 free=0 reserved=0 surplus=0
    """,
    (("hwpoison.failure.hugetlb:_free", only_a_head),),
    "not seen on 7.3: verdict",
    setting=SMALL_HUGE_PAGES,
    fix="e37e7b0b3bd5 (5.16)",
)


def unpoison_offline(failure: MemoryFailure, pfn: int) -> int:
    """Whether the frame is in the machine is not asked."""
    zone = failure.vm.zone
    offline, zone.offline = zone.offline, set()
    try:
        return unpoison_memory(failure, pfn)
    finally:
        zone.offline = offline


TAKEN_OUT = """
    frame r kind=removable
    soft-offline r via=sysfs
      => return r code=0
    offline-block r
      => return r code=0
"""
B11 = Bug(
    "B11",
    "unpoison of a frame that was taken out of the machine",
    f"""{TAKEN_OUT}
    unpoison r
      => return r code=-EIO
    """,
    (("hwpoison.scenario.verbs_errors:unpoison_memory", unpoison_offline),),
    "not seen on 7.3: return r code=-EIO",
    frames=256,
    fix="d613f53c83ec (6.17)",
)


def fail_offline(failure: MemoryFailure, pfn: int, flags: int = 0) -> int:
    with failure.mf_mutex:
        return failure._handle(failure.vm.zone.page(pfn), flags)


B12 = Bug(
    "B12",
    "an error in a frame that was taken out of the machine is judged by what its struct page was",
    f"""{TAKEN_OUT}
    inject r via=sysfs
      => return r code=-{Errno.ENXIO.name}
    """,
    (("hwpoison.failure.handler:MemoryFailure.memory_failure", fail_offline),),
    "not seen on 7.3: return r code=-ENXIO",
    frames=256,
    fix="~96c804a6ae8c (5.4)",
)

B13 = Bug(
    "B13",
    "an error in a frame whose struct page was never made",
    """
    frame r kind=nostruct
    inject r via=sysfs
    """,
    (("hwpoison.failure.handler:MemoryFailure.memory_failure", fail_offline),),
    "promise 6: KernelBug: .* has no struct page",
    fix="~34dc45be4563 (5.12)",
    note="any such frame; persistent memory, whose own pages these were, is not modelled",
)

ROWS = (B1, B2, B3, B4, B6, B7, B9, B11, B12, B13)
