"""What compaction needs to move a page: free frames above it that are no large free blocks.

It fills the holes nearest to the end of a zone with pages from below (mm/compaction.c
suitable_migration_target()). The guest's first node is full of the guest's own pages, which would take all
holes; so a scenario with this step has its memory on the other node, which is nearly empty. Whether a
kernel hands out memory from the end or from the beginning of it differs, so the room for holes is taken on
both sides: before the scenario's own pages, and after them.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from hwpoison.abi import pagemap as pm

from . import frames
from .problems import CannotSetUp
from .quiet import put, write_once
from .syscalls import PAGE, call

SET_MEMPOLICY, MPOL_PREFERRED, NODE = 238, 1, 1
PAGEBLOCK = 512  # frames
RUN = 64  # pages of a hole: folios find room as well
BYTES = 8 << 20
LISTS = "/proc/sys/vm/percpu_pagelist_high_fraction"
SHORT_LISTS, USUAL_LISTS = ((LISTS, "1000000"),), ((LISTS, "0"),)
"""What is freed waits on a list of its CPU otherwise, where compaction does not look."""


class Room:
    """Made by the process of a scenario, before it has tasks: they get memory of the same node."""

    def __init__(self) -> None:
        mask = ctypes.c_ulong(1 << NODE)
        call(SET_MEMPOLICY, MPOL_PREFERRED, ctypes.addressof(mask), 8 * ctypes.sizeof(mask))
        self.before = [_take()]

    def compact(self, pfn: int | None) -> None:
        """Make holes, and compact all memory. CannotSetUp if none of them lies above this frame."""
        areas, self.before = [*self.before, _take()], []
        block = (pfn or 0) // PAGEBLOCK
        if not any(there // PAGEBLOCK > block for area in areas for there in _frames(area)):
            raise CannotSetUp("the allocator has no memory behind the page")
        put(SHORT_LISTS)
        for area in areas:
            for number, there in enumerate(_frames(area)):
                if there // PAGEBLOCK <= block or number // RUN % 2:  # what lies below would take the holes
                    area.madvise(mmap.MADV_DONTNEED, number * PAGE, PAGE)
        put(USUAL_LISTS)
        write_once("/proc/sys/vm/compact_memory", "1")
        for area in areas:
            area.close()


def _take() -> mmap.mmap:
    """Memory of this process alone, all of it there."""
    area = mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_DONTFORK)
    for start in range(0, BYTES, PAGE):
        area[start] = 1
    return area


def _frames(area: mmap.mmap) -> list[int]:
    """The frames that it has, page by page."""
    start = ctypes.c_char.from_buffer(area)
    first = ctypes.addressof(start) // PAGE
    del start  # an area with a pointer to it cannot be closed
    words = frames.words(f"/proc/{os.getpid()}/pagemap", first, BYTES // PAGE)
    return [pm.pfn_of(word) or 0 for word in words]
