"""The page allocator: free blocks of 2^order pages, per-CPU lists, and no bad page ever (mm/page_alloc.c).

``zone.lock`` protects the free blocks, ``pcp_lock`` the per-CPU lists. ``pcp_batch_high_lock`` is
held by whoever has the per-CPU lists switched off (zone_pcp_disable()).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .locks import KernelBug, Lock, atomic_add, test_and_clear
from .page import PAGE_FLAGS_CHECK_AT_FREE, ZEROS, Page

if TYPE_CHECKING:
    from .machine import Machine

MAX_PAGE_ORDER = 10
MAGIC_HWPOISON = "taken off the buddy lists because it is bad"
"""page.private of a page removed by take_page_off_buddy() (mm/internal.h)."""
PCP_HIGH = 32
"""Pages on one CPU's list before half of them go back to the buddy lists."""
PCP_ORDERS = (0, 1, 2, 3)
"""Blocks of these orders stay on a CPU's lists: only who asks for as much gets them (pcp_allowed_order())."""


class OutOfMemory(Exception):
    """No free page: an outcome, not a bug."""


class Zone:
    """One zone of page frames 0 .. ``frames``-1; those below ``reserved`` belong to firmware and kernel."""

    def __init__(self, vm: Machine, frames: int, reserved: int) -> None:
        self.vm = vm
        self.frames = frames
        self.reserved = reserved
        self.pages: dict[int, Page] = {}  # those that somebody looked at
        self.free_area: list[dict[int, None]] = [{} for _ in range(MAX_PAGE_ORDER + 1)]
        self.lock = Lock(vm.paths, "zone_lock")
        self.pcp_lock = Lock(vm.paths, "pcp_lock")
        self.pcp_batch_high_lock = Lock(vm.paths, "pcp_batch_high_lock")
        self.pcp: dict[int, list[Page]] = {}  # cpu → pages, last freed first out
        self.pcp_blocks: dict[
            tuple[int, int], list[Page]
        ] = {}  # the same of blocks: (cpu, order) → first pages
        self.pcp_disabled = 0
        self.isolated: set[int] = set()  # free frames that nobody gets (MIGRATE_ISOLATE)
        self.offline: set[int] = set()  # frames that were taken out of the machine
        self.bad_inside: set[int] = set()  # bad frames that were freed within a larger block; under lock
        self.refused: list[int] = []  # bad frames that were about to be handed out
        self.sparse: dict[int, Page] = {}  # by first frame: folios whose frames exist once they are looked at
        self._give_range(reserved, frames)

    def _give_range(self, start: int, end: int) -> None:
        """Put frames start .. end-1 into the free lists as the largest aligned blocks."""
        while start < end:
            order = min(MAX_PAGE_ORDER, (end - start).bit_length() - 1)
            if start:
                order = min(order, (start & -start).bit_length() - 1)
            self.free_area[order][start] = None
            start += 1 << order

    def online(self, pfn: int) -> bool:
        """pfn_to_online_page(): is there a struct page that may be looked at?"""
        return 0 <= pfn < self.frames and pfn not in self.offline

    def page(self, pfn: int) -> Page:
        """pfn_to_page(). Raises KernelBug for a frame that is not online: ask online() first."""
        page = self.pages.get(pfn)
        if page is None:
            if not 0 <= pfn < self.frames:
                if (device := self.vm.pmem.device(pfn)) is not None and device.has_page(pfn):
                    return device.page(pfn)
                raise KernelBug(f"pfn {pfn:#x} has no struct page (the machine has {self.frames:#x})")
            page = self.pages[pfn] = Page(self.vm, pfn)
            for head in self.sparse.values():
                if head.pfn <= pfn < head.pfn + head.nr_pages:
                    page.head = head
            if pfn < self.reserved:
                page.flags = pg.RESERVED
                page.refcount = 1
        return page

    def free_block_of(self, pfn: int) -> tuple[int, int] | None:
        """(first pfn, order) of the free block that holds this frame; None if it is not in one."""
        if pfn in self.isolated:
            return pfn, 0
        for order, blocks in enumerate(self.free_area):
            start = pfn & -(1 << order)
            if start in blocks:
                return start, order
        return None

    def is_free_buddy_page(self, pfn: int) -> bool:
        """is_free_buddy_page(): without the zone lock only good for a guess."""
        return self.free_block_of(pfn) is not None

    def take_page_off_buddy(self, page: Page) -> bool:
        """Remove one frame from the free lists, whatever block it is in; whether it was there."""
        with self.lock:
            block = self.free_block_of(page.pfn)
            if block is None:
                return False
            self._take_out(page.pfn, *block)
            page.private = MAGIC_HWPOISON
            return True

    def _take_out(self, pfn: int, start: int, order: int) -> None:
        if pfn in self.isolated:
            self.isolated.discard(pfn)
        else:
            del self.free_area[order][start]
            self._break_down(start, order, pfn)

    def isolate(self, start: int, end: int) -> None:
        """set_migratetype_isolate(): free frames start .. end-1 are free, but nobody gets them."""
        with self.lock:
            for pfn in range(start, end):
                block = self.free_block_of(pfn)
                if block is not None and pfn not in self.isolated:
                    self._take_out(pfn, *block)
                    self.isolated.add(pfn)

    def unisolate(self, start: int, end: int) -> None:
        """unset_migratetype_isolate(): those that are still free can be had again."""
        with self.lock:
            for pfn in sorted(pfn for pfn in self.isolated if start <= pfn < end):
                self.isolated.discard(pfn)
                self._free_block(pfn, 0)

    def add_memory(self, start: int, end: int) -> None:
        """Frames that were offline are free."""
        with self.lock:
            for pfn in range(start, end):
                self._free_block(pfn, 0)

    def put_page_back_buddy(self, page: Page) -> bool:
        """Undo take_page_off_buddy(): the taker's reference and both marks go; whether it was bad."""
        with self.lock:
            if atomic_add(page, "refcount", -1):
                return False
            page.private = None
            self._free_block(page.pfn, 0)
            return test_and_clear(page, pg.HWPOISON)

    def _break_down(self, start: int, size: int, pfn: int, order: int = 0) -> None:
        """Give back a block without the part of this order that begins at, or holds, the frame."""
        while size > order:
            size -= 1
            half = start + (1 << size)
            if pfn >= half:
                self.free_area[size][start] = None
                start = half
            else:
                self.free_area[size][half] = None

    def alloc_pages(self, order: int = 0, *, frozen: bool = False) -> Page:
        """A block of free pages with one reference; content as it was left. Raises OutOfMemory.

        ``frozen``: without a reference, so that nobody else can take one (alloc_frozen_pages())."""
        while True:
            page = self._take_from_pcp(order)
            if page is None:
                page = self._take_from_buddy(order)
            if self._check_new_pages(page, order):
                break
        self._prep_new_page(page, order)
        page.refcount = 0 if frozen else 1
        return page

    def alloc_contig_pages(self, order: int) -> Page:
        """More than any block has, where all is free already; without a reference. Raises OutOfMemory.

        A real kernel moves away what can be moved.
        """
        self.drain_all_pages()
        with self.lock:
            blocks, step = self.free_area[MAX_PAGE_ORDER], 1 << MAX_PAGE_ORDER
            for start in range(0, self.frames, 1 << order):
                parts = range(start, start + (1 << order), step)
                bad = any(start <= pfn < start + (1 << order) for pfn in self.bad_inside)
                if all(block in blocks for block in parts) and not bad:
                    break
            else:
                raise OutOfMemory(f"no {1 << order} free frames in one piece")
            for block in parts:
                del blocks[block]
        return self.make_sparse(start, order)

    def make_sparse(self, start: int, order: int) -> Page:
        """prep_compound_page() of frames that belong to the caller."""
        page = self.page(start)
        page.order, page.refcount = order, 0
        page.flags |= pg.COMPOUND_HEAD
        self.sparse[start] = page
        for part in self.known(page):
            part.head = page
        return page

    def known(self, folio: Page) -> list[Page]:
        """The frames of a folio that somebody looked at, its head first: the others are like new."""
        end = folio.pfn + folio.nr_pages
        return sorted((p for pfn, p in self.pages.items() if folio.pfn <= pfn < end), key=lambda p: p.pfn)

    def free_contig_range(self, folio: Page) -> None:
        """free_gigantic_folio(): blocks again, with the bad frames inside, or frame by frame without them."""
        parts, end = self.known(folio), folio.pfn + folio.nr_pages
        for part in parts:
            _free_page_prepare(part)
        del self.sparse[folio.pfn]
        folio.order = 0
        with self.lock:
            bad = [part.pfn for part in parts if part.flags & pg.HWPOISON]
            if not self.vm.traits.frees_gigantic_whole:
                for start, stop in pairwise([folio.pfn - 1, *bad, end]):
                    self._give_range(start + 1, stop)
                return
            for pfn in bad:
                self.bad_inside.add(pfn)
            self._give_range(folio.pfn, end)

    def take_last_free(self, order: int, above: int) -> Page | None:
        """The last free block of this order that begins after a frame, for compaction; with one reference.

        What is free in one piece already is not taken apart (suitable_migration_target()), and nobody looks
        whether what is taken is bad (check_new_pages()).
        """
        with self.lock:
            ends = (
                block + (1 << size)
                for size in range(order, self.vm.pmd_order)
                for block in self.free_area[size]
            )
            start = max(ends, default=0) - (1 << order)
            block = self.free_block_of(start)
            if start <= above or block is None:
                return None
            del self.free_area[block[1]][block[0]]
            self._break_down(*block, start, order)
        page = self.page(start)
        self._prep_new_page(page, order)
        page.refcount = 1
        return page

    def _prep_new_page(self, page: Page, order: int) -> None:
        page.memcg = self.vm.paths.current.group
        page.order = order
        if order:
            page.flags |= pg.COMPOUND_HEAD
            for tail in range(page.pfn + 1, page.pfn + (1 << order)):
                self.page(tail).head = page

    def alloc_zeroed(self, order: int = 0) -> Page:
        folio = self.alloc_pages(order)
        for page in folio.pages():
            page.content = ZEROS
        return folio

    def _take_from_pcp(self, order: int) -> Page | None:
        if order not in PCP_ORDERS:
            return None
        cpu = self.vm.paths.current.cpu
        with self.pcp_lock:
            pages = self.pcp_blocks.get((cpu, order)) if order else self.pcp.get(cpu)
            return pages.pop() if pages else None

    def _take_from_buddy(self, order: int) -> Page:
        with self.lock:
            for size in range(order, MAX_PAGE_ORDER + 1):
                for block in self.free_area[size]:
                    if (start := self._clean_part(block, size, order)) is not None:
                        del self.free_area[size][block]
                        self._break_down(block, size, start, order)
                        return self.page(start)
        if self.pcp or self.pcp_blocks or self.bad_inside:
            self.bad_inside.clear()
            self.drain_all_pages()
            if any(self.free_area[order:]):
                return self._take_from_buddy(order)
        raise OutOfMemory(f"no free block of order {order} in {self.frames} frames")

    def _clean_part(self, block: int, size: int, order: int) -> int | None:
        """The first part of so many pages of a free block that has no bad frame in it.

        Those with one wait until there is nothing else: a real machine has so much other memory that their
        turn is far away.
        """
        for start in range(block, block + (1 << size), 1 << order):
            if not self.bad_inside or not any(start <= pfn < start + (1 << order) for pfn in self.bad_inside):
                return start
        return None

    def _check_new_pages(self, first: Page, order: int) -> bool:
        """check_new_pages(): a block with a bad page is not handed out, and not put back either."""
        if not self.vm.traits.checks_new_pages:
            return True
        bad = [
            pfn
            for pfn in range(first.pfn, first.pfn + (1 << order))
            if (page := self.pages.get(pfn)) is not None and page.flags & pg.HWPOISON
        ]
        self.refused += bad
        return not bad

    def free_pages(self, page: Page, order: int = 0) -> None:
        """The last reference is gone. A bad single page stays out of the lists for ever.

        One that is bad within a larger block goes back with it: nobody looks at the parts. Of a small block,
        who asks for as much next gets it.
        """
        parts = tuple(page.pages()) if order else (page,)
        for part in parts:
            _free_page_prepare(part)
        if page.pfn in self.sparse:
            del self.sparse[page.pfn]
        page.order = 0
        page.has_hwpoisoned = False
        if order == 0 and page.flags & pg.HWPOISON:
            return
        if order and (bad := {part.pfn for part in parts if part.flags & pg.HWPOISON}):
            with self.lock:
                for pfn in bad:
                    self.bad_inside.add(pfn)
        if order in PCP_ORDERS and self._free_to_pcp(page, order):
            return
        with self.lock:
            self._free_block(page.pfn, order)

    def _free_to_pcp(self, page: Page, order: int) -> bool:
        """Onto this CPU's list, unless the lists are off; whether it was put there."""
        cpu = self.vm.paths.current.cpu
        with self.pcp_lock:
            if self.pcp_disabled:
                return False
            if order:
                self.pcp_blocks.setdefault((cpu, order), []).append(page)
                return True
            pages = self.pcp.setdefault(cpu, [])
            pages.append(page)
            if len(pages) > PCP_HIGH:
                with self.lock:
                    for old in pages[: PCP_HIGH // 2]:
                        self._free_block(old.pfn, 0)
                del pages[: PCP_HIGH // 2]
            return True

    def _free_block(self, pfn: int, order: int) -> None:
        """__free_one_page(): join with free neighbours. Under the zone lock."""
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            if buddy not in self.free_area[order]:
                break
            del self.free_area[order][buddy]
            pfn = min(pfn, buddy)
            order += 1
        self.free_area[order][pfn] = None

    def drain_all_pages(self) -> None:
        """Give the pages of all per-CPU lists back to the free lists."""
        if not self.pcp and not self.pcp_blocks:
            return
        with self.pcp_lock, self.lock:
            for pages in self.pcp.values():
                for page in pages:
                    self._free_block(page.pfn, 0)
            for (_cpu, order), blocks in self.pcp_blocks.items():
                for block in blocks:
                    self._free_block(block.pfn, order)
            self.pcp.clear()
            self.pcp_blocks.clear()

    @contextmanager
    def pcp_lists_disabled(self) -> Iterator[None]:
        """zone_pcp_disable() … zone_pcp_enable(): every free page is in the buddy lists meanwhile."""
        with self.pcp_batch_high_lock:
            self.pcp_disabled += 1
            self.drain_all_pages()
            yield
            self.pcp_disabled -= 1

    def free_pfns(self) -> Iterator[int]:
        """Every free frame, for checks."""
        for order, blocks in enumerate(self.free_area):
            for start in blocks:
                yield from range(start, start + (1 << order))
        for pages in self.pcp.values():
            yield from (page.pfn for page in pages)
        for (_cpu, order), heads in self.pcp_blocks.items():
            for head in heads:
                yield from range(head.pfn, head.pfn + (1 << order))


def _free_page_prepare(page: Page) -> None:
    """free_pages_prepare() of one page: it must not be in use; it belongs to nobody, and to no folio."""
    wrong = page.flags & PAGE_FLAGS_CHECK_AT_FREE
    if wrong or page.mapcount or page.large_mapcount or page.entire_mapcount or page.refcount:
        raise KernelBug(
            f"freeing {page} with flags {pg.names(wrong)}, "
            f"mapcount {page.mapcount or page.large_mapcount}, refcount {page.refcount}"
        )
    page.mapping = None
    page.private = None
    page.memcg = ""
    page.exclusive = False
    page.flags &= pg.HWPOISON
    page.head = page
