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
from .problems import NeedsFreshBoot
from .quiet import put, write_once
from .syscalls import PAGE, call

MADV_POPULATE_WRITE = 23
SET_MEMPOLICY, MPOL_PREFERRED, NODE = 238, 1, 1
PAGEBLOCK = 512  # frames
RUN = 64  # pages of a hole: folios find room as well
BYTES = 8 << 20
MOST = 48  # pieces of memory that are taken; a node has little more
ABOVE = 1024  # frames of them that are to lie above the page, so that there are holes for folios
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
        """Make holes, and compact all memory. NeedsFreshBoot if too few of them lie above this frame."""
        block, room = (pfn or 0) // PAGEBLOCK, 0
        areas, self.before = self.before, []
        taken: list[tuple[mmap.mmap, list[int]]] = []
        while not taken or room < ABOVE:
            if len(taken) == MOST:
                raise NeedsFreshBoot("the allocator has no memory behind the page")
            area = areas.pop() if areas else _take()
            taken.append((area, _frames(area)))
            room += sum(there // PAGEBLOCK > block for there in taken[-1][1])
        put(SHORT_LISTS)
        for area, frames_of in taken:
            for number, there in enumerate(frames_of):
                if there // PAGEBLOCK <= block or number // RUN % 2:  # what lies below would take the holes
                    area.madvise(mmap.MADV_DONTNEED, number * PAGE, PAGE)
        put(USUAL_LISTS)
        write_once("/proc/sys/vm/compact_memory", "1")
        for area, _frames_of in taken:
            area.close()


def _take() -> mmap.mmap:
    """Memory of this process alone, all of it there."""
    area = mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_DONTFORK)
    area.madvise(MADV_POPULATE_WRITE)
    return area


def _frames(area: mmap.mmap) -> list[int]:
    """The frames that it has, page by page."""
    start = ctypes.c_char.from_buffer(area)
    first = ctypes.addressof(start) // PAGE
    del start  # an area with a pointer to it cannot be closed
    words = frames.words(f"/proc/{os.getpid()}/pagemap", first, BYTES // PAGE)
    return [pm.pfn_of(word) or 0 for word in words]
