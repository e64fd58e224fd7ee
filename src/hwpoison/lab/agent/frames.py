"""Page frames seen from outside: /proc/kpageflags, /proc/PID/pagemap, and frames of the kernel found by them.

These files refuse reads that are not multiples of 8 bytes, so they are read with pread.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm

from .problems import CannotSetUp, EndedEarly
from .syscalls import BPF, IO_URING_SETUP, MAP_ANONYMOUS, MAP_PRIVATE, PAGE, call, libc, map_file, unmap

CHUNK = 4096  # frames
MAX_ORDER = 9  # of a compound page: a guest is too small for larger ones
GIGANTIC_ORDER = 18  # of a page of 1 GiB
FREE_RUN = 64  # a free frame is taken from the middle of so many: such blocks are used last
SETTLED = 0.5  # seconds after which the page tables of a program that was replaced are free
REAL_SWAP_TYPES = 16  # one swap area is in use, its type is near 0; those of the kernel are 23 and more
SQES = 0x10000000  # IORING_OFF_SQES: a page that is all zeros as long as the ring is idle
REGISTER = 0xFEB00000 // PAGE  # of a device, for all that the kernel knows; reads as zeros
FIRMWARE = range(1, 8)  # all zeros
MMAPABLE = 1 << 10  # BPF_F_MMAPABLE: an array in vmalloc memory that can be mapped


def words(path: str, first: int, count: int = 1) -> array[int]:
    """64-bit words of one of these files; fewer at its end."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return array("Q", os.pread(descriptor, count * 8, first * 8))
    finally:
        os.close(descriptor)


def flags(pfn: int) -> int:
    """The flags of a frame; NOPAGE beyond the end."""
    found = words("/proc/kpageflags", pfn)
    return found[0] if found else pg.NOPAGE


def head_of(pfn: int) -> int:
    """The first frame of the compound page that a frame belongs to; itself if to none."""
    while flags(pfn) & pg.COMPOUND_TAIL:
        pfn -= 1
    return pfn


def order_of(pfn: int) -> int:
    """The order of the compound page that a frame belongs to."""
    head = head_of(pfn)
    if not flags(head) & pg.COMPOUND_HEAD:
        return 0
    larger = flags(head) & pg.HUGE and flags(head + (1 << MAX_ORDER)) & pg.COMPOUND_TAIL
    most = GIGANTIC_ORDER if larger else MAX_ORDER
    behind = words("/proc/kpageflags", head + 1, (1 << most) - 1)
    tails = next((n for n, word in enumerate(behind) if not word & pg.COMPOUND_TAIL), len(behind))
    return (tails + 1).bit_length() - 1


def order_view(pfn: int) -> dict[str, str | int | None]:
    """How large the folio is that a page is a part of; nothing for a page of its own."""
    order = order_of(pfn)
    return {"order": order} if order else {}


def is_bad(pfn: int) -> bool:
    return bool(flags(pfn) & pg.HWPOISON)


def on_lists(pfn: int) -> bool:
    """Is its folio still on the lists of reclaim?"""
    return bool(flags(head_of(pfn)) & pg.LRU)


def entry(pid: int, address: int) -> int:
    """The pagemap word of an address. EndedEarly if the process is gone."""
    try:
        return words(f"/proc/{pid}/pagemap", address // PAGE)[0]
    except (OSError, IndexError):
        raise EndedEarly(f"process {pid} has no memory any more") from None


def entry_view(word: int) -> dict[str, str | int | None]:
    """A page table entry in the words of the model (scenario/views.py)."""
    pfn = pm.pfn_of(word)
    if pfn is not None:
        return {"entry": "present", "bad": "yes" if is_bad(pfn) else "no", **order_view(pfn)}
    if is_empty(word):
        return {"entry": "none"}
    return {"entry": "swap" if _in_swap(word) else "poison"}


def _in_swap(word: int) -> bool:
    """Of an entry that is not present, and not empty."""
    return word & pm.SWAP_TYPE_MASK < REAL_SWAP_TYPES


def is_empty(word: int) -> bool:
    """Has nothing been put into this entry? It may be marked soft-dirty all the same."""
    return not word & (pm.PRESENT | pm.SWAPPED)


def swap_slot(word: int) -> int | None:
    """What tells the swap entries of pagemap apart; None if it is something else."""
    absent = pm.pfn_of(word) is None and not is_empty(word)
    return word & pm.PFN_MASK if absent and _in_swap(word) else None


def poisoned(word: int) -> int | None:
    """The frame that a poison entry names."""
    bad = entry_view(word) == {"entry": "poison"}
    return (word & pm.PFN_MASK) >> pm.SWAP_OFFSET_SHIFT if bad else None


@functools.cache
def zero_page() -> int:
    """The machine's page of zeros; it stays the same."""
    address = libc.mmap(None, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    ctypes.string_at(address, 1)
    pfn = pm.pfn_of(entry(os.getpid(), address))
    unmap(address, 1)
    if pfn is None or not flags(pfn) & pg.ZERO_PAGE:
        raise CannotSetUp("reading untouched memory does not map the page of zeros")
    return pfn


def end_of_memory() -> int:
    """The first frame beyond all RAM."""
    ends = [
        int(line.split("-")[1].split()[0], 16)
        for line in Path("/proc/iomem").read_text().splitlines()
        if line.endswith(": System RAM")
    ]
    return (max(ends) + 1) // PAGE


def downwards(path: str = "/proc/kpageflags") -> Iterator[tuple[int, array[int]]]:
    """Chunks of the flags of all frames, from the end of memory down."""
    for first in range(end_of_memory() // CHUNK * CHUNK, -1, -CHUNK):
        yield first, words(path, first, CHUNK)


def free_frame() -> int:
    """A frame in the middle of free memory."""
    for first, found in downwards():
        run = 0
        for index, word in enumerate(found):
            run = run + 1 if word & pg.BUDDY and not word & pg.HWPOISON else 0
            if run == FREE_RUN:
                return first + index - FREE_RUN // 2
    raise CannotSetUp(f"nowhere in memory are {FREE_RUN} frames free in a row")


def frame_with(wanted: int, avoided: set[int]) -> int:
    """A frame with this flag that is not known to be bad, nor the page of zeros, nor one of these."""
    for first, found in downwards():
        for index, word in enumerate(found):
            if word & wanted and not word & (pg.HWPOISON | pg.ZERO_PAGE) and first + index not in avoided:
                return first + index
    raise CannotSetUp("no frame has this flag")


def mapped_by_everybody() -> set[int]:
    """The frames of the vDSO and its data: were they bad, every process started later would die."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(("[vdso]", "[vvar]", "[vvar_vclock]")):
            first, end = (int(part, 16) for part in line.split()[0].split("-"))
            entries = words("/proc/self/pagemap", first // PAGE, (end - first) // PAGE)
            found |= {pfn for word in entries if (pfn := pm.pfn_of(word))}
    return found


def snapshot() -> dict[int, bytes]:
    """The flags of all frames, as they are; to be compared by newly()."""
    return {first: found.tobytes() for first, found in downwards()}


def newly(flag: int, before: dict[int, bytes]) -> list[int]:
    """The frames that have got this flag since then."""
    new = []
    for first, found in downwards():
        if found.tobytes() != before[first]:
            for index, old in enumerate(struct.unpack(f"<{len(found)}Q", before[first])):
                if found[index] & flag and not old & flag:
                    new.append(first + index)
    return new


def new_page_table(before: dict[int, bytes]) -> int:
    """A frame that has become a page table since then, and has stayed one."""
    new = newly(pg.PGTABLE, before)
    time.sleep(SETTLED)
    for pfn in new:
        if flags(pfn) & pg.PGTABLE:
            return pfn
    raise CannotSetUp("no new page table was seen in /proc/kpageflags")


def driver_memory() -> tuple[int, int]:
    """(descriptor, offset) to map one page of kernel memory that has no mark: the ring of an io_uring."""
    return call(IO_URING_SETUP, 4, ctypes.create_string_buffer(120)), SQES


def vmalloc_memory() -> tuple[int, int]:
    """(descriptor, offset) to map one page of vmalloc memory: an array of BPF."""
    attributes = struct.pack("<5I", 2, 4, PAGE, 1, MMAPABLE).ljust(128, b"\0")
    return call(BPF, 0, ctypes.create_string_buffer(attributes, 128), 128), 0


def firmware_frame() -> int:
    """A page of the lowest memory, which belongs to the firmware and which /dev/mem lets us map."""
    for pfn in FIRMWARE:
        if flags(pfn) & pg.RESERVED and not is_bad(pfn):
            return pfn
    raise CannotSetUp("all pages of the firmware that the lab may use are known to be bad in this boot")


def by_number(pfn: int) -> tuple[int, int]:
    """(descriptor, offset) to map a frame by its number (STRICT_DEVMEM: it is no memory of the kernel's)."""
    return os.open("/dev/mem", os.O_RDWR | os.O_SYNC), pfn * PAGE


def frame_of(descriptor: int, offset: int) -> int:
    """The frame that is mapped from there."""
    address = map_file(descriptor, 1, offset)
    ctypes.string_at(address, 1)
    pfn = pm.pfn_of(entry(os.getpid(), address))
    unmap(address, 1)
    if not pfn:
        raise CannotSetUp("a page of the kernel's is mapped, but pagemap does not say which")
    return pfn
