"""The reclaim lists and the per-CPU batches before them (mm/swap.c, the isolation part of mm/vmscan.c).

A page that was just added waits in a batch of its CPU, with a reference and without PG_lru, until the
batch is full or somebody drains it. ``lru_lock`` protects list membership; PG_lru is cleared
atomically by whoever isolates a page, and owns it from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hwpoison.abi import pageflags as pg

from .inode import AddressSpace
from .locks import KernelBug, Lock, test_and_clear
from .page import Page, clear_flags, get_page, put_page, set_flags

if TYPE_CHECKING:
    from .machine import Machine

T = TypeVar("T")
BATCH = 15
"""Pages in one CPU's batch (PAGEVEC_SIZE; 31 from 6.9 on, which nothing here depends on)."""


class Lru:
    """The lists of the machine, oldest page first. Which list a page is on shows in its flags."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.lock = Lock(vm.paths, "lru_lock")
        self.pages: dict[int, Page] = {}
        self.batches: dict[int, list[Page]] = {}  # cpu → pages on their way to a list
        self.mlock_batches: dict[int, list[tuple[Page, bool]]] = {}  # cpu → (page, lock it?)
        self.lazyfree_batches: dict[int, list[Page]] = {}  # cpu → pages that MADV_FREE has given up

    def add(self, page: Page) -> None:
        """folio_add_lru(): into this CPU's batch; drained when that is full, or the folio large."""
        get_page(page)
        cpu = self.vm.paths.current.cpu
        batch = self.batches.setdefault(cpu, [])
        batch.append(page)
        if len(batch) >= BATCH or page.order:
            self.add_drain(cpu)

    def activate(self, page: Page) -> None:
        """folio_activate(): a page that is used again waits in a batch as well, to get to the active list."""
        if page.flags & pg.LRU and not page.flags & pg.UNEVICTABLE:
            self.add(page)

    def rotate_reclaimable(self, page: Page) -> None:
        """folio_rotate_reclaimable(): what reclaim has met dirty is written now, and next to be freed.

        It waits in a batch for that.
        """
        if not page.flags & (pg.DIRTY | pg.LOCKED):
            self.activate(page)

    def add_drain(self, cpu: int) -> None:
        """lru_add_drain_cpu(): the batches of one CPU onto the lists."""
        self._drain(self.batches.get(cpu, []), self._added)
        self._drain(self.lazyfree_batches.get(cpu, []), self._lazyfree)
        self._drain(self.mlock_batches.get(cpu, []), self._mlocked)

    def _drain(self, batch: list[T], move: Callable[[T], Page]) -> None:
        """Empty one batch. ``move`` does what its entries wait for, and gives the page, which is let go."""
        while batch:
            with self.lock:
                if not batch:  # another path was draining it as well
                    break
                page = move(batch[0])
                del batch[0]
            put_page(page)

    def _added(self, page: Page) -> Page:
        self._place(page)
        page.mlock_count = 0  # locked mappings are counted by their own batch
        set_flags(page, pg.LRU)
        return page

    def _lazyfree(self, page: Page) -> Page:
        if page.flags & pg.LRU and _can_be_freed_lazily(page):
            clear_flags(page, pg.SWAPBACKED | pg.ACTIVE | pg.REFERENCED)
        return page

    def _mlocked(self, entry: tuple[Page, bool]) -> Page:
        page, lock = entry
        if lock:
            self._mlock(page)
        else:
            self._munlock(page)
        return page

    def _place(self, page: Page) -> None:
        """Onto the list that its state asks for (folio_evictable()). Under lru_lock."""
        mapping = page.mapping
        if page.flags & pg.MLOCKED or (isinstance(mapping, AddressSpace) and mapping.unevictable):
            clear_flags(page, pg.ACTIVE)
            set_flags(page, pg.UNEVICTABLE)
            page.mlock_count = int(bool(page.flags & pg.MLOCKED))
        else:
            clear_flags(page, pg.UNEVICTABLE)
        self.pages[page.pfn] = page

    def add_drain_all(self) -> None:
        """lru_add_drain_all(): the batches of every CPU. May sleep; no spinlock held."""
        for cpu in sorted(self.batches.keys() | self.mlock_batches.keys() | self.lazyfree_batches.keys()):
            self.add_drain(cpu)

    def move_unevictable(self, mapping: AddressSpace) -> None:
        """check_move_unevictable_folios(): pages of a file that may leave memory again."""
        self.add_drain_all()
        for page in list(mapping.pages.values()):
            if test_and_clear(page, pg.LRU):
                with self.lock:
                    self._place(page)
                set_flags(page, pg.LRU)

    def mark_lazyfree(self, page: Page) -> None:
        """folio_mark_lazyfree(): reclaim may throw the page away (MADV_FREE), once its batch is drained."""
        cpu = self.vm.paths.current.cpu
        self.add_drain(cpu)
        if page.flags & pg.LRU and _can_be_freed_lazily(page):
            get_page(page)
            self.lazyfree_batches.setdefault(cpu, []).append(page)
            if page.order:
                self.add_drain(cpu)

    def isolate(self, page: Page) -> bool:
        """folio_isolate_lru(): take the page off its list, with a reference; whether it was on one."""
        if not test_and_clear(page, pg.LRU):
            return False
        get_page(page)
        with self.lock:
            self.pages.pop(page.pfn, None)
        return True

    def putback(self, page: Page) -> None:
        """folio_putback_lru(): the reference of isolate() goes with it."""
        self.add(page)
        put_page(page)

    def move_back(self, page: Page) -> None:
        """move_folios_to_lru(): what reclaim could not free goes to its list at once."""
        with self.lock:
            self._place(page)
            set_flags(page, pg.LRU)
        put_page(page)

    def remove_last(self, page: Page) -> None:
        """The last reference is gone: off the list (__page_cache_release())."""
        with self.lock:
            self.pages.pop(page.pfn, None)
        page.flags &= ~(pg.LRU | pg.UNEVICTABLE | pg.ACTIVE | pg.MLOCKED)

    def mlock_folio(self, page: Page) -> None:
        """mlock_folio() (mm/mlock.c): marked at once, moved to the unevictable list when drained."""
        set_flags(page, pg.MLOCKED)
        self._queue_mlock(page, True)

    def munlock_folio(self, page: Page) -> None:
        """munlock_folio(): the mark goes, and the page moves back, when the batch is drained."""
        self._queue_mlock(page, False)

    def _queue_mlock(self, page: Page, lock: bool) -> None:
        get_page(page)
        cpu = self.vm.paths.current.cpu
        batch = self.mlock_batches.setdefault(cpu, [])
        batch.append((page, lock))
        if len(batch) >= BATCH or page.order:
            self.add_drain(cpu)

    def _mlock(self, page: Page) -> None:
        """__mlock_folio(): nothing can be done while the page is off the lists. Under lru_lock."""
        if not test_and_clear(page, pg.LRU):
            return
        if page.flags & pg.MLOCKED and page.flags & pg.UNEVICTABLE:
            page.mlock_count += 1
        else:
            self._place(page)
        set_flags(page, pg.LRU)

    def _munlock(self, page: Page) -> None:
        """__munlock_folio(): one locked mapping less; the last one clears the mark. Under lru_lock."""
        isolated = test_and_clear(page, pg.LRU)
        if isolated and page.flags & pg.UNEVICTABLE and page.mlock_count:
            page.mlock_count -= 1
        if not (isolated and page.flags & pg.UNEVICTABLE and page.mlock_count):
            clear_flags(page, pg.MLOCKED)
            if isolated:
                self._place(page)
        if isolated:
            set_flags(page, pg.LRU)

    def check(self) -> None:
        """Every page on a list has PG_lru and the other way round."""
        for pfn, page in self.pages.items():
            if not page.flags & pg.LRU:
                raise KernelBug(f"page {pfn:#x} is on a reclaim list without PG_lru")


def _can_be_freed_lazily(page: Page) -> bool:
    """lru_lazyfree(): anonymous memory that is not in swap."""
    return page.anon and bool(page.flags & pg.SWAPBACKED) and not page.flags & (pg.SWAPCACHE | pg.UNEVICTABLE)
