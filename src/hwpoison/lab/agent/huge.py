"""Pools of hugetlb pages of the guest, their frames, and files of them.

The pools are in /sys/kernel/mm/hugepages. A huge page that an earlier scenario left in use stays in the
counters, so they are told relative to what they were at the beginning.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm

from . import frames
from . import syscalls as nr
from .evidence import counters as counters_of_errors
from .problems import CannotSetUp, NeedsFreshBoot
from .quiet import write_once
from .syscalls import PAGE, libc

SHIFTS = {"2M": 21, "1G": 30}
MAP_HUGE_SHIFT = 26
COUNTERS = {
    "nr": "nr_hugepages",
    "free": "free_hugepages",
    "reserved": "resv_hugepages",
    "surplus": "surplus_hugepages",
}
FILE_SYSTEMS = {"hugetlbfs": "2M", "hugetlbfs-1G": "1G"}
PMD = 1 << SHIFTS["2M"]
MOST_BAD_BLOCKS = 16
THP = Path("/sys/kernel/mm/transparent_hugepage")
WORD_BITS = 64
NODE = Path("/sys/devices/system/node/node0/hugepages")
BLOCK = 512  # bytes, the unit of st_blocks


def _folder(size: str) -> Path:
    return Path(f"/sys/kernel/mm/hugepages/hugepages-{(1 << SHIFTS[size]) // 1024}kB")


def counters(size: str) -> dict[str, int]:
    """The pool's counters; all 0 for a size that this guest has not."""
    folder = _folder(size)
    if not folder.is_dir():
        return dict.fromkeys(COUNTERS, 0)
    return {name: _signed(int((folder / file).read_text())) for name, file in COUNTERS.items()}


def _signed(number: int) -> int:
    """A promise whose page somebody still holds when its owner goes makes a counter less than nothing."""
    return number - (1 << WORD_BITS) if number >> WORD_BITS - 1 else number


def all_counters() -> dict[str, dict[str, int]]:
    return {size: counters(size) for size in SHIFTS}


def on_node(size: str) -> int:
    """How many of its pages are on the first node."""
    name = NODE / _folder(size).name / "nr_hugepages"
    return int(name.read_text()) if name.exists() else 0


def set_pool(size: str, pages: int, surplus: int) -> None:
    """Ask for so many pages on the first node, where tasks run: a pool counts what is too many by node.

    CallFailed if it has no surplus ones; NeedsFreshBoot if memory is too fragmented by now.
    """
    folder = _folder(size)
    if not folder.is_dir():
        raise CannotSetUp(f"this guest has no huge pages of {size}")
    overcommit = folder / "nr_overcommit_hugepages"
    if int(overcommit.read_text()) != surplus:  # older kernels refuse it for 1 GiB pages, even 0
        _write(overcommit, str(surplus))
    name = NODE / folder.name / "nr_hugepages"
    write_once(str(name), str(pages))
    found = int(name.read_text())
    if found < pages:
        raise NeedsFreshBoot(f"only {found} of {pages} huge pages of {size} could be had")


def empty_pools() -> None:
    """Give back what nobody uses."""
    for size in SHIFTS:
        if _folder(size).is_dir():
            for file in ("nr_overcommit_hugepages", "nr_hugepages"):
                name = _folder(size) / file
                if int(name.read_text()):
                    write_once(str(name), "0")


def map_flags(size: str) -> int:
    """What to add to the flags of mmap(2)."""
    return 0x40000 | SHIFTS[size] << MAP_HUGE_SHIFT  # MAP_HUGETLB


def demote(size: str, pages: int) -> None:
    """Turn so many free ones of the first node into smaller ones. Raises CallFailed."""
    _write(NODE / _folder(size).name / "demote", str(pages))


def _write(file: Path, text: str) -> None:
    """Raises CallFailed: what the kernel refuses is to be seen."""
    try:
        write_once(str(file), text)
    except OSError as error:
        raise nr.CallFailed(error.errno, error.strerror) from None


def allow_folios(size: str) -> None:
    """Let memory that is marked for huge pages have folios of this size; kernels before 6.8 have none."""
    folder = THP / f"hugepages-{size[:-1]}kB"
    if folder.is_dir():
        write_once(str(folder / "enabled"), "madvise")


def keep_bad_blocks() -> None:
    """Take the blocks that have a frame which an earlier scenario left bad: the next one is not to have them.

    6.1 gives such a frame out again as a part of a larger block. They are ours until this process ends.
    """
    for _ in range(MOST_BAD_BLOCKS if counters_of_errors()["HardwareCorrupted"] else 0):
        area = int(libc.mmap(None, 2 * PMD, nr.PROT_RW, nr.MAP_PRIVATE | nr.MAP_ANONYMOUS, -1, 0))
        block = -(-area // PMD) * PMD
        nr.call(nr.MADVISE, block, PMD, nr.MADV_HUGEPAGE)
        ctypes.memset(block, 0, 1)
        first = pm.pfn_of(frames.entry(os.getpid(), block))
        found = frames.words("/proc/kpageflags", first, PMD // PAGE) if first else ()
        if not any(word & pg.HWPOISON for word in found):
            nr.unmap(area, 2 * PMD // PAGE)
            return


def free_huge_page(avoided: set[int]) -> int:
    """The first frame of a huge page that nobody maps, not known to be bad, and none of these."""
    for first, found in frames.downwards():
        for index, word in enumerate(found):
            head = word & pg.HUGE and word & pg.COMPOUND_HEAD
            if head and not word & (pg.MMAP | pg.HWPOISON) and first + index not in avoided:
                return first + index
    raise CannotSetUp("there is no huge page that nobody maps")


def cached(path: Path, index: int, size: int) -> bool:
    """Does the file have the huge page with this 4 KiB page? Told by its size in blocks (st_blocks)."""
    status = path.stat()
    if index * PAGE >= status.st_size:
        return False
    there, whole = status.st_blocks * BLOCK // size, -(-status.st_size // size)
    if there not in (0, whole):
        raise CannotSetUp(f"{there} of {whole} huge pages of {path.name} exist, nobody can tell which")
    return there > 0
