"""Swap: slots, the swap cache, bringing pages in, and switching it off (mm/swap_state.c, mm/swapfile.c).

A page in the swap cache has a slot (``page.private``) and one reference for it. ``swap_lock``
protects the slots' use counts and the cache. The count of a slot is the number of page table entries
(and tmpfs files) that name it; the cache itself keeps the slot too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult

from .filemap import folio_mark_dirty
from .inode import AddressSpace, SysError
from .locks import KernelBug, Lock
from .lost import lost_error
from .page import (
    ZEROS,
    Page,
    clear_flags,
    folio_lock,
    folio_put_last,
    folio_ref_freeze,
    folio_ref_unfreeze,
    folio_start_writeback,
    folio_try_get,
    folio_trylock,
    folio_unlock,
    folio_wait_writeback,
    get_page,
    put_page,
    set_flags,
)
from .pte import PoisonPte, Pte, SwapErrorPte, SwapPte
from .response import Response, delete_from_lru_cache
from .rmap import page_add_rmap

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import Vma


class SwapArea:
    """One swap area of ``slots`` pages; 0 slots: no swap. A swap entry is a slot number, from 1."""

    def __init__(self, vm: Machine, slots: int) -> None:
        self.vm = vm
        self.slots = slots
        self.lock = Lock(vm.paths, "swap_lock")
        self.count: dict[int, int] = {}  # slot → entries and files that name it
        self.cache: dict[int, Page] = {}  # the swap cache
        self.contents: dict[int, str] = {}  # what is on the device
        self.groups: dict[int, str] = {}  # the memory cgroup that pays for each page that is out

    def alloc_slot(self) -> int | None:
        """A free slot with a count of zero, kept by the cache entry that follows; None when swap is full."""
        with self.lock:
            for slot in range(1, self.slots + 1):
                if slot not in self.count and slot not in self.cache:
                    self.count[slot] = 0
                    return slot
        return None

    def drop_slot(self, slot: int) -> None:
        """Undo alloc_slot() when the slot was not needed after all."""
        with self.lock:
            self._forget(slot)

    def duplicate(self, slot: int) -> None:
        """swap_duplicate(): one more entry names the slot."""
        with self.lock:
            self.count[slot] += 1

    def free_entry(self, slot: int) -> Page | None:
        """swap_free(): one entry less names the slot. Returns the cached page if that was the last one."""
        with self.lock:
            if self.count[slot] < 1:
                raise KernelBug(f"swap slot {slot} is freed more often than used")
            self.count[slot] -= 1
            if self.count[slot]:
                return None
            page = self.cache.get(slot)
            if page is None:
                self._forget(slot)
            return page

    def free_entry_and_cache(self, slot: int) -> None:
        """free_swap_and_cache(): and a cached page that nobody needs any more leaves the cache if it can."""
        page = self.free_entry(slot)
        if page is not None:
            self._try_reclaim(page)

    def _try_reclaim(self, page: Page) -> None:
        """__try_to_reclaim_swap(): drop a cached page that nothing needs any more, unless it is locked."""
        if not folio_try_get(page):
            return
        if folio_trylock(page):
            if page.flags & pg.SWAPCACHE and not page.flags & pg.WRITEBACK and not page.mapped:
                self.delete_from_cache(page)
            folio_unlock(page)
        put_page(page)

    def _forget(self, slot: int) -> None:
        del self.count[slot]
        self.contents.pop(slot, None)
        self.groups.pop(slot, None)

    def add_to_cache(self, page: Page, slot: int) -> bool:
        """add_to_swap_cache(): the page is locked; the cache takes a reference. False: the slot has one."""
        get_page(page)
        with self.lock:
            taken = slot in self.cache or slot not in self.count
            if not taken:
                self.cache[slot] = page
                page.private = slot
                self.groups[slot] = page.memcg
        if taken:
            put_page(page)
            return False
        set_flags(page, pg.SWAPCACHE)
        return True

    def delete_from_cache(self, page: Page) -> None:
        """delete_from_swap_cache(): the page is locked and not under writeback."""
        slot = page.private
        if not isinstance(slot, int) or self.cache.get(slot) is not page:
            raise KernelBug(f"{page} is not in the swap cache")
        if page.flags & pg.WRITEBACK:
            raise KernelBug(f"{page} leaves the swap cache under writeback")
        self._uncache(page, slot)
        put_page(page)

    def _uncache(self, page: Page, slot: int) -> None:
        with self.lock:
            del self.cache[slot]
            page.private = None
            if self.count[slot] == 0:
                self._forget(slot)
        clear_flags(page, pg.SWAPCACHE)

    def free_swap_cache(self, page: Page) -> None:
        """The last entry of a cached page went: give up its slot, unless somebody works on the page."""
        if folio_trylock(page):
            self.free_slot_if_unused(page)
            folio_unlock(page)

    def free_slot_if_unused(self, page: Page) -> bool:
        """folio_free_swap(): give the slot back when no entry names it; the page, locked, becomes dirty."""
        slot = page.private
        if not page.flags & pg.SWAPCACHE or page.flags & pg.WRITEBACK or not isinstance(slot, int):
            return False
        if self.count[slot]:
            return False
        self.delete_from_cache(page)
        set_flags(page, pg.DIRTY)
        return True

    def free_slot_at_fault(self, page: Page, *, write: bool, owner: bool, locked: bool) -> None:
        """should_try_to_free_swap(), before the page is mapped. ``owner``: it was one process's alone."""
        rule = self.vm.traits.store_gives_slot_back
        wanted = write and rule != "never" and (page.refcount == 2 or (owner and rule == "owner"))
        if wanted or locked or page.flags & pg.MLOCKED:
            self.free_slot_if_unused(page)

    def lookup(self, slot: int) -> Page | None:
        """swap_cache_get_folio(): with a reference."""
        while (page := self.cache.get(slot)) is not None:
            if not folio_try_get(page):
                if self.cache.get(slot) is page:
                    self.vm.paths.relax()
            else:
                if self.cache.get(slot) is page:
                    return page
                put_page(page)  # it left the cache, and may be somebody else's by now
        return None

    def swapin(self, slot: int) -> Page | None:
        """The page of a slot, from the cache or the device, with a reference; None: the slot is free."""
        while True:
            page = self.lookup(slot)
            if page is not None:
                return page
            if slot not in self.count:
                return None
            page = self.vm.zone.alloc_pages()
            page.memcg = self.groups.get(slot, "")
            page.flags |= pg.SWAPBACKED
            folio_lock(page)
            if not self.add_to_cache(page, slot):
                folio_unlock(page)
                put_page(page)
                continue
            self.vm.lru.add(page)
            page.content = self.contents.get(slot, ZEROS)
            set_flags(page, pg.UPTODATE)
            folio_unlock(page)
            return page

    def writepage(self, page: Page) -> bool:
        """Write a locked page of the cache to its slot; unlocks it (swap_writeout()).

        False: it has only zeros, which are noted without a write, and is still locked.
        """
        slot = page.private
        if not isinstance(slot, int):
            raise KernelBug(f"{page} is written to swap without a slot")
        if self.vm.traits.swap_skips_zeros and page.content == ZEROS:
            self.contents[slot] = ZEROS
            return False

        def store(data: list[str] | None) -> None:
            if data is None:
                set_flags(page, pg.DIRTY)
            else:
                self.contents.update(enumerate(data, slot))

        folio_start_writeback(page)
        get_page(page)
        folio_unlock(page)
        self.vm.disk.submit_write(page, store)
        return True

    def remove_mapping(self, page: Page) -> bool:
        """__remove_mapping() for the swap cache: a locked, clean, unmapped page nobody else holds.

        On success the count is frozen at zero and the page belongs to the caller.
        """
        slot = page.private
        if not isinstance(slot, int) or not folio_ref_freeze(page, 2):
            return False
        if page.flags & pg.DIRTY:
            folio_ref_unfreeze(page, 2)
            return False
        self._uncache(page, slot)
        return True

    def free_file_range(self, mapping: AddressSpace, start: int, end: int) -> None:
        """Slots of tmpfs pages that are truncated while they are out."""
        for index in sorted(i for i in mapping.swap_entries if start <= i < end):
            with mapping.i_pages_lock:
                slot = mapping.swap_entries.pop(index, None)
            if slot is not None:
                self.free_entry_and_cache(slot)

    def swapoff(self) -> None:
        """swapoff(2): bring everything back to whoever names a slot (try_to_unuse())."""
        for inode in self.vm.inodes:
            self._unuse_file(inode.mapping)
        for task in list(self.vm.tasks.values()):
            mm = task.mm
            if mm is None:
                continue
            with mm.mmap_lock.read():
                for vma in list(mm.vmas):
                    self._unuse_vma(vma)
        for slot in sorted(self.cache):
            page = self.lookup(slot)
            if page is None:
                continue
            folio_lock(page)
            folio_wait_writeback(page)
            if page.flags & pg.SWAPCACHE:
                self.free_slot_if_unused(page)
            folio_unlock(page)
            put_page(page)
        self.slots = 0

    def _unuse_vma(self, vma: Vma) -> None:
        for vpn, table in vma.mm.populated(vma.start, vma.end):
            entry = table.entries.get(vpn)
            if not isinstance(entry, SwapPte):
                continue
            page = self.swapin(entry.entry)
            if page is None:
                continue
            folio_lock(page)
            folio_wait_writeback(page)
            self._unuse_pte(vma, vpn, entry, page)
            self.free_slot_if_unused(page)
            folio_unlock(page)
            put_page(page)

    def _unuse_pte(self, vma: Vma, vpn: int, entry: SwapPte, page: Page) -> None:
        """unuse_pte(): the entry gets the page, or a note that there is none to be had."""
        table = vma.mm.pte_alloc(vpn)
        with table.lock:
            if table.entries.get(vpn) != entry:
                return
            if page.flags & pg.HWPOISON and self.vm.traits.swapoff_leaves_poison_entry:
                table.entries[vpn] = PoisonPte(page.pfn)
            elif page.flags & pg.HWPOISON or not page.flags & pg.UPTODATE:
                table.entries[vpn] = SwapErrorPte()
            else:
                get_page(page)
                if page.mapping is None:
                    self.vm.make_anon(page, vma, vpn)
                page_add_rmap(page, vma)
                page.exclusive = entry.exclusive
                table.entries[vpn] = Pte(page, writable=False)
        self.free_entry(entry.entry)

    def _unuse_file(self, mapping: AddressSpace) -> None:
        for index in sorted(mapping.swap_entries):
            try:
                page = shmem_swapin_folio(mapping, index)
            except SysError:
                continue
            if page is not None:
                folio_unlock(page)
                put_page(page)


def shmem_swapin_folio(mapping: AddressSpace, index: int) -> Page | None:
    """Bring a tmpfs page back from swap into its file (mm/shmem.c); locked, with a reference.

    None: it is not out. A page that went bad in the swap cache is not up to date: SysError EIO.
    """
    swap = mapping.vm.swap
    slot = mapping.swap_entries.get(index)
    if slot is None:
        return None
    page = swap.swapin(slot)
    if page is None:
        return None
    folio_lock(page)
    if mapping.swap_entries.get(index) == slot == page.private and not page.flags & pg.UPTODATE:
        folio_unlock(page)
        put_page(page)
        raise SysError(lost_error(mapping), f"page {index} of {mapping.host.name} was lost in swap")
    folio_wait_writeback(page)
    with mapping.i_pages_lock:
        still = mapping.swap_entries.get(index) == slot == page.private
        if still:
            del mapping.swap_entries[index]
            mapping.pages[index] = page
            page.mapping = mapping
            page.index = index
    if not still:  # truncated, or brought in by somebody else, while we waited
        folio_unlock(page)
        put_page(page)
        return None
    get_page(page)
    swap.delete_from_cache(page)
    folio_mark_dirty(page)
    swap.free_entry(slot)
    return page


def release_frozen(page: Page) -> None:
    """Free a page whose count remove_mapping() froze at zero."""
    folio_put_last(page)


def give_up_dirty_swapcache(page: Page) -> Response:
    """me_swapcache_dirty(): the slot has old contents or none, so the page stays, to stop whoever comes.

    It is no longer dirty, so it will not be written over the slot; nor up to date, so it cannot be read.
    """
    source = "mm/memory-failure.c me_swapcache_dirty()"
    clear_flags(page, pg.DIRTY)
    clear_flags(page, pg.UPTODATE)
    if delete_from_lru_cache(page):
        return Response(MfResult.DELAYED, 1, "kept in the swap cache: whoever swaps it in is stopped", source)
    return Response(MfResult.FAILED, 0, "the page was not on a reclaim list", source)


def give_up_clean_swapcache(page: Page) -> Response:
    """me_swapcache_clean(): the slot has the same contents, so the page just goes."""
    source = "mm/memory-failure.c me_swapcache_clean()"
    page.vm.swap.delete_from_cache(page)
    if delete_from_lru_cache(page):
        return Response(MfResult.RECOVERED, 0, "dropped: its contents are safe in swap", source)
    return Response(MfResult.FAILED, 0, "the page was not on a reclaim list", source)
