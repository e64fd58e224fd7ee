"""Swap: slots, the swap cache, bringing pages in, and switching it off (mm/swap_state.c, mm/swapfile.c).

A page in the swap cache has a slot (``page.private``) and one reference for it; a large folio has a row of
slots, of which its head knows the first, and as many references. ``swap_lock`` protects the slots' use counts
and the cache. The count of a slot is the number of page table entries (and tmpfs files) that name it; the
cache itself keeps the slot too.
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
    folio_put_refs,
    folio_ref_add,
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
from .rmap import new_anon_page, page_add_rmap, page_remove_rmap

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
        self.cache: dict[int, Page] = {}  # the swap cache: the page of each slot
        self.contents: dict[int, str] = {}  # what is on the device
        self.groups: dict[int, str] = {}  # the memory cgroup that pays for each page that is out

    def alloc_slots(self, count: int = 1) -> int | None:
        """The first of so many free slots in a row, with counts of zero; None when there are none.

        The cache entries that follow keep them.
        """
        with self.lock:
            for first in range(1, self.slots + 2 - count):
                slots = range(first, first + count)
                if not any(slot in self.count or slot in self.cache for slot in slots):
                    self.count.update(dict.fromkeys(slots, 0))
                    return first
        return None

    def drop_slot(self, slot: int) -> None:
        """Undo alloc_slots() when the slot was not needed after all."""
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
        folio = page.head
        if not folio_try_get(folio):
            return
        if folio_trylock(folio):
            unused = folio.flags & pg.SWAPCACHE and not folio.flags & pg.WRITEBACK and not folio.mapped
            if unused and not self._named(folio):
                self.delete_from_cache(folio)
            folio_unlock(folio)
        put_page(folio)

    def _named(self, folio: Page) -> bool:
        """folio_swapped(): does any entry name a slot of it?"""
        return any(self.count[slot] for slot in slots_of(folio))

    def _forget(self, slot: int) -> None:
        del self.count[slot]
        self.contents.pop(slot, None)
        self.groups.pop(slot, None)

    def add_to_cache(self, folio: Page, slot: int) -> bool:
        """add_to_swap_cache(): the folio is locked; the cache takes a reference for each page.

        False: the slot, which is not ours, has a page by now.
        """
        folio_ref_add(folio, folio.nr_pages)
        with self.lock:
            taken = slot in self.cache or slot not in self.count
            if not taken:
                folio.private = slot
                for there, page in enumerate(folio.pages(), slot):
                    self.cache[there] = page
                    self.groups[there] = folio.memcg
        if taken:
            folio_put_refs(folio, folio.nr_pages)
            return False
        set_flags(folio, pg.SWAPCACHE)
        return True

    def delete_from_cache(self, folio: Page) -> None:
        """delete_from_swap_cache(): the folio is locked and not under writeback."""
        if folio.flags & pg.WRITEBACK:
            raise KernelBug(f"{folio} leaves the swap cache under writeback")
        self._uncache(folio)
        folio_put_refs(folio, folio.nr_pages)

    def _uncache(self, folio: Page) -> None:
        slots = slots_of(folio)
        with self.lock:
            if not slots or self.cache.get(slots[0]) is not folio:
                raise KernelBug(f"{folio} is not in the swap cache")
            folio.private = None
            for slot in slots:
                del self.cache[slot]
                if self.count[slot] == 0:
                    self._forget(slot)
        clear_flags(folio, pg.SWAPCACHE)

    def free_swap_cache(self, page: Page) -> None:
        """The last entry of a cached page went: give up its slot, unless somebody works on the page."""
        if folio_trylock(page):
            self.free_slot_if_unused(page)
            folio_unlock(page)

    def free_slot_if_unused(self, page: Page) -> bool:
        """folio_free_swap(): give the slot back when no entry names it; the page, locked, becomes dirty."""
        folio = page.head
        if not folio.flags & pg.SWAPCACHE or folio.flags & pg.WRITEBACK or self._named(folio):
            return False
        self.delete_from_cache(folio)
        set_flags(folio, pg.DIRTY)
        return True

    def free_slot_at_fault(self, page: Page, *, write: bool, owner: bool, locked: bool) -> None:
        """should_try_to_free_swap(), before the page is mapped. ``owner``: it was one process's alone."""
        rule = self.vm.traits.store_gives_slot_back
        alone = page.head.refcount == 1 + page.head.nr_pages
        wanted = write and rule != "never" and (alone or (owner and rule == "owner"))
        if wanted or locked or page.head.flags & pg.MLOCKED:
            self.free_slot_if_unused(page)

    def lookup(self, slot: int) -> Page | None:
        """swap_cache_get_folio(): with a reference."""
        while (page := self.cache.get(slot)) is not None:
            if not folio_try_get(page.head):
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

    def writepage(self, folio: Page) -> bool:
        """Write a locked folio of the cache to its slots; unlocks it (swap_writeout()).

        False: it has only zeros, which are noted without a write, and is still locked.
        """
        slots = slots_of(folio)
        if not slots:
            raise KernelBug(f"{folio} is written to swap without a slot")
        if self.vm.traits.swap_skips_zeros and all(page.content == ZEROS for page in folio.pages()):
            self.contents.update(dict.fromkeys(slots, ZEROS))
            return False

        def store(data: list[str] | None) -> None:
            if data is None:
                set_flags(folio, pg.DIRTY)
            else:
                self.contents.update(zip(slots, data, strict=True))

        folio_start_writeback(folio)
        get_page(folio)
        folio_unlock(folio)
        self.vm.disk.submit_write(folio, store)
        return True

    def remove_mapping(self, folio: Page) -> bool:
        """__remove_mapping() for the swap cache: a locked, clean, unmapped folio nobody else holds.

        On success the count is frozen at zero and the folio belongs to the caller.
        """
        expected = 1 + folio.nr_pages
        if not folio_ref_freeze(folio, expected):
            return False
        if folio.flags & pg.DIRTY:
            folio_ref_unfreeze(folio, expected)
            return False
        self._uncache(folio)
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
            folio_wait_writeback(page.head)
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
            folio_wait_writeback(page.head)
            self._unuse_pte(vma, vpn, entry, page)
            self.free_slot_if_unused(page)
            folio_unlock(page)
            put_page(page)

    def _unuse_pte(self, vma: Vma, vpn: int, entry: SwapPte, page: Page) -> None:
        """unuse_pte(): the entry gets the page, or a note that there is none to be had."""
        table = vma.mm.pte_alloc(vpn)
        copy = copy_of_tail(vma, vpn, page)
        with table.lock:
            if table.entries.get(vpn) != entry:
                drop_copy(copy, vma)
                return
            if copy is not None:
                table.entries[vpn] = Pte(copy, writable=False)
            elif page.flags & pg.HWPOISON and self.vm.traits.swapoff_leaves_poison_entry:
                table.entries[vpn] = PoisonPte(page.pfn)
            elif page.flags & pg.HWPOISON or not page.head.flags & pg.UPTODATE:
                table.entries[vpn] = SwapErrorPte()
            else:
                get_page(page)
                if page.head.mapping is None:
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


def slots_of(folio: Page) -> range:
    """The slots of a folio in the swap cache; none if it is not there."""
    first = folio.private
    return range(first, first + folio.nr_pages) if isinstance(first, int) else range(0)


def copy_of_tail(vma: Vma, vpn: int, page: Page) -> Page | None:
    """ksm_might_need_to_copy() of 6.1, which takes any page but the first of a large folio for a merged one
    that came back: mapped, with one reference, and dirty. None: there is no need."""
    if page.head is page or not vma.mm.vm.traits.copies_swapped_tails:
        return None
    copy = new_anon_page(vma, vpn, vma.mm.vm.kernel_reads(page))
    set_flags(copy, pg.DIRTY)
    return copy


def drop_copy(copy: Page | None, vma: Vma) -> None:
    """Somebody else was faster."""
    if copy is not None:
        page_remove_rmap(copy, vma)
        put_page(copy)


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
