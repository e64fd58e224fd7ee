"""Pools of huge pages that processes ask for by name (hugetlb; mm/hugetlb.c): one *hstate* a size.

A free huge page sits in its pool with a reference count of 0; in use it belongs to an area of memory
(hugetlb_memory.py) or to a file (hugetlbfs.py). The error mark is on the head, the frames that are really bad
are in a list beside it, until the page is dissolved: then each bad frame gets its own mark.

``hugetlb_lock`` protects the counters, the free lists and the state of every huge page, so whether a page is
free, in use or on its way, and whether it is bad, is decided in one section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import Errno

from .inode import AddressSpace, SysError
from .locks import KernelBug, Lock, atomic_add, test_and_clear, test_and_set
from .page import ZEROS, Page, folio_try_get, folio_unlock, put_page
from .page_alloc import MAX_PAGE_ORDER, OutOfMemory
from .response import Response

if TYPE_CHECKING:
    from .machine import Machine

HUGE_ORDER = 9
"""Base pages of a 2 MiB page, as a power of 2; a machine may be built with smaller ones to be cheap."""
GIGANTIC_ORDER = 18
SHIFTS = {"2M": 21, "1G": 30}
"""What a process is told about the size of what it lost, whatever the model's own size is."""


@dataclass(slots=True, eq=False)
class Hstate:
    """struct hstate: the pool of one size. All under ``hugetlb_lock``; counts are of huge pages."""

    size: str
    order: int
    nr: int = 0  # nr_huge_pages: all there are
    reserved: int = 0  # resv_huge_pages: promised to mappings that have not touched them yet
    nr_at: list[int] = field(default_factory=lambda: [0, 0])  # those of each node
    surplus_at: list[int] = field(default_factory=lambda: [0, 0])  # beyond what was asked for, by node
    overcommit: int = 0  # so many may be
    free_list: list[Page] = field(default_factory=list)  # the next one to be taken first

    @property
    def pages(self) -> int:
        """Base pages of one huge page."""
        return 1 << self.order

    @property
    def shift(self) -> int:
        return SHIFTS[self.size]

    @property
    def surplus(self) -> int:
        """surplus_huge_pages. Which pages it is nobody knows: one that is freed on such a node goes away."""
        return sum(self.surplus_at)

    @property
    def persistent(self) -> int:
        return self.nr - self.surplus

    @property
    def available(self) -> int:
        """available_huge_pages(): free and promised to nobody."""
        return len(self.free_list) - self.reserved


@dataclass(slots=True, eq=False)
class HugeState:
    """What the kernel keeps in a huge page's own words (HPageFlags): ``page.private`` of the head."""

    hstate: Hstate
    node: int = 0
    """0, where everybody runs and pools are made, or 1, where a page gets by move_pages(2)."""
    freed: bool = False
    migratable: bool = False
    """In use, and set up so far that others may take references."""
    temporary: bool = False
    """Beside the pool's own, while contents move: it goes back to the allocator, not to the pool."""
    restores_promise: bool = False
    """Its end makes good a promise of its owner's, who has given it up and may touch that place again."""
    raw: list[Page] = field(default_factory=list)
    """raw_hwp_list: the frames known to be bad."""
    raw_unreliable: bool = False
    """Some bad frame could not be noted: any of them may be bad."""


def is_huge(page: Page) -> bool:
    """folio_test_hugetlb()"""
    return bool(page.head.flags & pg.HUGE)


def state_of(page: Page) -> HugeState:
    state = page.head.private
    if not isinstance(state, HugeState):
        raise KernelBug(f"{page} is no huge page")
    return state


def is_raw_hwpoison(page: Page) -> bool:
    """is_raw_hwpoison_page_in_hugepage(): is this very frame known to be bad?"""
    if not is_huge(page) or not page.head.flags & pg.HWPOISON:
        return False
    state = state_of(page)
    return state.raw_unreliable or page in state.raw


class Hugetlb:
    """All pools of a machine."""

    def __init__(self, vm: Machine, huge_order: int, gigantic_order: int) -> None:
        self.vm = vm
        self.lock = Lock(vm.paths, "hugetlb_lock")
        orders = {"2M": huge_order, "1G": gigantic_order}
        self.hstates = {size: Hstate(size, order) for size, order in orders.items()}
        self._fault_mutexes: dict[tuple[int, int], Lock] = {}

    def fault_mutex(self, owner: object, index: int) -> Lock:
        """hugetlb_fault_mutex_table: one fault at a time for each huge page of a file, or of an area."""
        key = (id(owner), index)
        if key not in self._fault_mutexes:
            self._fault_mutexes[key] = Lock(self.vm.paths, "hugetlb_fault_mutex", f"{index:#x}")
        return self._fault_mutexes[key]

    # The size of a pool.

    def set_max_huge_pages(self, h: Hstate, on_first: int) -> None:
        """A write to nr_hugepages of the first node: grow as far as memory goes, shrink as far as pages are
        free there."""
        with self.lock:
            count = on_first + h.persistent - (h.nr_at[0] - h.surplus_at[0])
            while h.surplus_at[0] and count > h.persistent:
                h.surplus_at[0] -= 1
        while self._has_fewer(h, count) and self._grow(h, surplus=False):
            pass
        while True:
            with self.lock:
                least = h.reserved + h.nr - len(h.free_list)
                page = next((page for page in h.free_list if not state_of(page).node), None)
                if h.persistent <= max(count, least) or page is None:
                    excess = min(max(0, h.persistent - count), h.nr_at[0] - h.surplus_at[0])
                    h.surplus_at[0] += excess
                    return
                self._remove(h, page, surplus=False)
            self._update_and_free(page)

    def set_overcommit(self, h: Hstate, count: int) -> None:
        """A write to nr_overcommit_hugepages; EINVAL where none can be made while they are needed."""
        if count and h.order > MAX_PAGE_ORDER and not self.vm.traits.overcommits_gigantic:
            raise SysError(Errno.EINVAL, f"pages of {h.size} cannot be had beyond what was asked for")
        h.overcommit = count

    def _has_fewer(self, h: Hstate, count: int) -> bool:
        with self.lock:
            return h.persistent < count

    def _may_have_more(self, h: Hstate) -> bool:
        with self.lock:
            return h.surplus < h.overcommit

    def _grow(self, h: Hstate, *, surplus: bool, node: int = 0) -> bool:
        """One more page, free; False without memory for it. Nobody has a reference at any time (B2)."""
        try:
            if h.order > MAX_PAGE_ORDER:
                page = self.vm.zone.alloc_contig_pages(h.order)
            else:
                page = self.vm.zone.alloc_pages(h.order, frozen=True)
        except OutOfMemory:
            return False
        with self.lock:
            page.flags |= pg.HUGE
            page.private = HugeState(h, node)
            h.nr += 1
            h.nr_at[node] += 1
            h.surplus_at[node] += surplus
            self._enqueue(h, page)
        return True

    def _enqueue(self, h: Hstate, page: Page) -> None:
        state = state_of(page)
        state.freed, state.migratable = True, False
        h.free_list.insert(0, page)

    def reserve(self, h: Hstate, count: int) -> None:
        """hugetlb_acct_memory(): promise pages to a new mapping, with surplus ones if need be; ENOMEM."""
        grown = 0
        while True:
            with self.lock:
                needed = h.reserved + count - len(h.free_list)
                if needed <= 0 and count <= len(h.free_list):
                    h.reserved += count
                    return
                if needed <= 0:  # a promise is less than nothing, see HugeState.restores_promise
                    raise SysError(Errno.ENOMEM, f"{count} huge pages of {h.size} are not free")
                allowed = h.surplus < h.overcommit
            if not allowed or not self._grow(h, surplus=True):
                self._return_surplus(h, grown)
                raise SysError(Errno.ENOMEM, f"{count} huge pages of {h.size} cannot be promised")
            grown += 1

    def unreserve(self, h: Hstate, count: int) -> None:
        """return_unused_surplus_pages(): promised pages that are not wanted any more; as many surplus ones go
        back to the allocator."""
        with self.lock:
            h.reserved -= count
        self._return_surplus(h, count)

    def _return_surplus(self, h: Hstate, most: int) -> None:
        for _ in range(most):
            with self.lock:
                free = (page for page in h.free_list if h.surplus_at[state_of(page).node])
                page = next(free, None)
                if page is None:
                    return
                self._remove(h, page, surplus=True)
            self._update_and_free(page)

    # One huge page.

    def alloc(self, h: Hstate, *, reserved: bool) -> Page | None:
        """alloc_hugetlb_folio(): a page with one reference, zeroed; None if there is none to be had.

        A bad page that is stuck in the pool is passed over.
        """
        page = self._dequeue(h, reserved=reserved)
        if page is None and self._may_have_more(h) and self._grow(h, surplus=True):
            page = self._dequeue(h, reserved=False, new=True)
        if page is None:
            return None
        for frame in page.pages():
            frame.content = ZEROS
        return page

    def alloc_for_migration(self, page: Page, *, other_node: bool) -> Page | None:
        """alloc_hugetlb_folio_nodemask(): a free page that is promised to nobody, or one beside the pool.

        ``other_node``: nowhere but on the other node; else rather on the same. None is made of 1 GiB.
        """
        old = state_of(page)
        node, h = (1 - old.node if other_node else old.node), old.hstate
        new = self._dequeue(h, reserved=False, node=node, only=other_node)
        if new is None and h.order <= MAX_PAGE_ORDER and self._grow(h, surplus=False, node=node):
            new = self._dequeue(h, reserved=False, new=True, node=node, only=other_node)
            if new is not None:
                state_of(new).temporary = True
        return new

    def moved(self, old: Page, new: Page) -> None:
        """move_hugetlb_state(): the new page is there to stay, so the old one is beside the pool now.

        With it moves what counts as too many, whichever page that was.
        """
        before, after = state_of(old), state_of(new)
        if not after.temporary:
            return
        before.temporary, after.temporary = True, False
        with self.lock:
            surplus = before.hstate.surplus_at
            if before.node != after.node and surplus[before.node]:
                surplus[before.node] -= 1
                surplus[after.node] += 1

    def isolate(self, page: Page) -> bool:
        """folio_isolate_hugetlb(): keep others from taking the page, by a reference; whether it could be."""
        with self.lock:
            if not is_huge(page) or not state_of(page).migratable or not folio_try_get(page.head):
                return False
            state_of(page).migratable = False
            return True

    def putback(self, page: Page) -> None:
        """folio_putback_hugetlb(): isolated no more."""
        with self.lock:
            state_of(page).migratable = True
        put_page(page)

    def _dequeue(
        self, h: Hstate, *, reserved: bool, new: bool = False, node: int = 0, only: bool = False
    ) -> Page | None:
        with self.lock:
            if not reserved and not new and h.available <= 0:
                return None
            good = [page for page in h.free_list if not page.flags & pg.HWPOISON]
            here = [page for page in good if state_of(page).node == node]
            page = next(iter(here if only else [*here, *good]), None)
            if page is None:
                return None
            h.free_list.remove(page)
            h.reserved -= reserved
            state_of(page).freed = False
            page.refcount = 1
            return page

    def free_huge_folio(self, page: Page) -> None:
        """The last reference is gone: back to the pool, or to the allocator if there are too many."""
        h = state_of(page).hstate
        page.mapping = None
        page.exclusive = False
        with self.lock:
            page.flags &= pg.HUGE | pg.COMPOUND_HEAD | pg.HWPOISON
            state = state_of(page)
            state.migratable = False
            h.reserved += state.restores_promise
            state.restores_promise = False
            if not h.surplus_at[state.node] and not state.temporary:
                self._enqueue(h, page)
                return
            self._remove(h, page, surplus=not state.temporary)
        self._update_and_free(page)

    def _remove(self, h: Hstate, page: Page, *, surplus: bool) -> None:
        """remove_hugetlb_folio(): out of the pool, and no huge page any more, so that nobody marks its head
        for a bad frame from now on (B4). Under the lock; ``surplus``: it was one too many."""
        state = state_of(page)
        page.flags &= ~pg.HUGE
        if state.freed:
            h.free_list.remove(page)
            state.freed = False
        h.nr -= 1
        h.nr_at[state.node] -= 1
        h.surplus_at[state.node] -= surplus

    def _update_and_free(self, page: Page) -> None:
        """update_and_free_hugetlb_folio(): an ordinary block again, each bad frame with its own mark.

        Where it is not known which frames are bad the whole is given up instead.
        """
        state = state_of(page)
        if page.flags & pg.HWPOISON:
            if state.raw_unreliable:
                return
            self.clear_hwpoison(page)
            for frame in state.raw:
                test_and_set(frame, pg.HWPOISON)
        page.flags &= pg.HWPOISON  # of the first frame itself; what its last owner left is cleared
        if page.order > MAX_PAGE_ORDER:
            self.vm.zone.free_contig_range(page)
        else:
            self.vm.zone.free_pages(page, page.order)

    def dissolve_free_huge_page(self, page: Page) -> int:
        """Turn a free huge page into ordinary free pages; -EBUSY if it is in use or promised to somebody."""
        page = page.head
        if not is_huge(page):
            return 0
        with self.lock:
            if not is_huge(page):
                return 0
            state = state_of(page)
            if page.refcount or not state.freed or state.hstate.available <= 0:
                return -Errno.EBUSY
            self._remove(state.hstate, page, surplus=state.hstate.surplus_at[state.node] > 0)
        self._update_and_free(page)
        return 0

    def page_handle_poison(self, page: Page) -> bool:
        """__page_handle_poison(): dissolve, and keep just this frame; whether it is out of use now."""
        with self.vm.zone.pcp_lists_disabled():
            return not self.dissolve_free_huge_page(page) and self.vm.zone.take_page_off_buddy(page)

    def demote(self, count: int) -> int:
        """A write to demote: free pages of 1 GiB become pages of 2 MiB; how many did.

        -EBUSY if all that are free are bad.
        """
        big, small = self.hstates["1G"], self.hstates["2M"]
        for done in range(count):
            with self.lock:
                if big.available <= 0:
                    return done
                page = next((page for page in big.free_list if not page.flags & pg.HWPOISON), None)
                if page is None:
                    return -Errno.EBUSY
                self._remove(big, page, surplus=False)
                self.vm.zone.sparse.pop(page.pfn, None)
                for start in range(page.pfn, page.pfn + big.pages, small.pages):
                    head = self.vm.zone.make_sparse(start, small.order)
                    head.flags |= pg.HUGE
                    head.private = HugeState(small)
                    small.nr += 1
                    small.nr_at[0] += 1
                    self._enqueue(small, head)
        return count

    # The error mark.

    def set_hwpoison(self, page: Page, *, no_memory: bool) -> tuple[bool, bool]:
        """folio_set_hugetlb_hwpoison(): (was the huge page bad before, is this frame a new one)."""
        head, state = page.head, state_of(page)
        before = test_and_set(head, pg.HWPOISON)
        if state.raw_unreliable or page in state.raw:
            return before, False
        if no_memory:
            state.raw_unreliable = True
            state.raw.clear()
        else:
            state.raw.append(page)
        return before, True

    def clear_hwpoison(self, page: Page) -> None:
        """folio_clear_hugetlb_hwpoison(), less the marks of the single frames."""
        test_and_clear(page.head, pg.HWPOISON)


def add_huge_rmap(head: Page) -> None:
    """One more entry maps all of a huge page; under the page table lock."""
    atomic_add(head, "entire_mapcount", 1)
    atomic_add(head, "large_mapcount", 1)


def remove_huge_rmap(head: Page) -> None:
    atomic_add(head, "entire_mapcount", -1)
    atomic_add(head, "large_mapcount", -1)


def give_up_huge_page(page: Page) -> Response:
    """me_huge_page(): a page of a file stays there, to tell readers; an anonymous one is dissolved.

    Of the latter the folio lock and the handler's reference are given up first; the frame gets a new one.
    """
    source = "mm/memory-failure.c me_huge_page()"
    head = page.head
    if isinstance(head.mapping, AddressSpace):
        return Response(MfResult.RECOVERED, 1, "kept in the file, to tell whoever reads it", source)
    folio_unlock(head)
    put_page(head)
    if head.vm.hugetlb.page_handle_poison(page):
        atomic_add(page, "refcount", 1)
        reason = "the huge page was dissolved, and the allocator gave the one bad frame up for ever"
        return Response(MfResult.RECOVERED, 0, reason, source, unlocked=True)
    reason = why_not_given_up(page, "somebody still holds the huge page: it cannot be dissolved")
    return Response(MfResult.FAILED, 0, reason, source, unlocked=True)


def why_not_given_up(page: Page, undissolved: str) -> str:
    """What kept page_handle_poison() from success; ``undissolved``: the reason if it is a huge page still."""
    return undissolved if is_huge(page) else "freed by itself, the bad frame is on no list to be taken off"
