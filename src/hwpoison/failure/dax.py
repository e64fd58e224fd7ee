"""An error in persistent memory: memory_failure_dev_pagemap(), mf_generic_kill_procs(), mf_dax_kill_procs().

There is no other frame to put in place of a bad one, and no copy that a fault could find. So whoever is told
is told at once, and the frame is unmapped for that; but it is unmapped only if somebody is told, and nobody
who comes later is stopped. Under ``mf_mutex``; ``page`` is locked meanwhile, for the entry of its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno
from hwpoison.mm.dax import Device, piece_of
from hwpoison.mm.hugetlb import SHIFTS
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.page import Page, folio_lock, folio_unlock, put_page, set_flags
from hwpoison.mm.pte import Pte
from hwpoison.mm.rmap import areas, unmap_mapping_range

from .flags import MF_ACTION_REQUIRED, MF_COUNT_INCREASED, MF_MUST_KILL
from .kill import ToKill, add_to_kill, kill_procs, oldest_first, users_to_tell

if TYPE_CHECKING:
    from hwpoison.mm.mmap import Vma

    from .handler import MemoryFailure

HUGE_SHIFT = SHIFTS["2M"]
SOURCE = "mm/memory-failure.c mf_generic_kill_procs()"


def memory_failure_dev_pagemap(failure: MemoryFailure, device: Device, pfn: int, flags: int) -> int:
    """0, -EBUSY (nobody has mapped it), -ENXIO (the driver's notes), -EOPNOTSUPP (filtered), or what the
    file system says that was asked whose frame it is.
    """
    returned = -int(Errno.ENXIO)
    reason = "the driver's notes about the device are there"
    if device.has_page(pfn):
        page = device.page(pfn)
        if flags & MF_COUNT_INCREASED:
            put_page(page)
        if device.fs.finds_owner:
            returned, reason = notify_failure(failure, device, page, flags)
        else:
            returned, reason = mf_generic_kill_procs(failure, page, flags)
    if returned != -Errno.EOPNOTSUPP or failure.profile.reports_filtered_dax:
        result = MfResult.FAILED if returned else MfResult.RECOVERED
        failure.action_result(pfn, PageType.DAX, result, reason=reason)
    return returned


def mf_generic_kill_procs(failure: MemoryFailure, page: Page, flags: int) -> tuple[int, str]:
    """The frame itself says whose it is, if somebody has mapped it: (what is returned, why)."""
    folio_lock(page)
    mapping = page.mapping
    if not isinstance(mapping, AddressSpace):  # dax_lock_folio()
        folio_unlock(page)
        return -Errno.EBUSY, "nobody has mapped it, so it does not say whose it is"
    if failure.filter.refuses(failure.vm, page.pfn):
        folio_unlock(page)
        return -Errno.EOPNOTSUPP, "filtered"
    reason = _mark_and_tell(failure, page, mapping, page.index, flags)
    folio_unlock(page)
    return 0, reason


def notify_failure(failure: MemoryFailure, device: Device, page: Page, flags: int) -> tuple[int, str]:
    """xfs_dax_notify_failure(): the file system looks up whose the block is; its own is the end of it."""
    if page.pfn == device.superblock:
        device.shut_down = True
        failure.tell("the block is the file system's own, which shuts down", "fs/xfs/xfs_notify_failure.c")
        return -Errno.EUCLEAN, "the file system needs it itself"
    owner = device.owner(page)
    if owner is None:
        return 0, "the block is free"
    inode, index = owner
    folio_lock(page)
    reason = f"nobody has mapped page {index} of the {inode}"
    if page.mapping is not None:  # dax_lock_mapping_entry(): the file has an entry there
        reason = _mark_and_tell(failure, page, inode.mapping, index, flags)
    folio_unlock(page)
    return 0, reason


def _mark_and_tell(failure: MemoryFailure, page: Page, mapping: AddressSpace, index: int, flags: int) -> str:
    """unmap_and_kill(): only what somebody is told about is taken away, then from everybody."""
    set_flags(page, pg.HWPOISON)
    flags |= MF_ACTION_REQUIRED | MF_MUST_KILL
    victims = collect_procs_dax(failure, page, mapping, index, flags)
    if not victims:
        return "nobody is told, so nobody loses it"
    lost = piece_of(mapping, index)
    unmap_mapping_range(mapping, lost.start, lost.stop, even_cows=False)
    failure.tell("taken away from everybody who maps it", SOURCE)
    kill_procs(failure, victims, page.pfn, flags, unmapped=True)
    return "whoever is to be told is told; it can be mapped again"


def collect_procs_dax(
    failure: MemoryFailure, page: Page, mapping: AddressSpace, index: int, flags: int
) -> list[ToKill]:
    """collect_procs_file() and collect_procs_fsdax(): as for any file, but only where it is mapped now.

    The size of what is lost is that of the mapping there, and the address where it begins; without one there
    is nothing to be told (B31).
    """
    found: list[tuple[int, ToKill]] = []
    lost = piece_of(mapping, index)
    with mapping.i_mmap_rwsem.read():
        for vma, vpn in areas(mapping, index):
            for leader, thread in users_to_tell(failure, vma, flags):
                if (shift := _mapping_shift(failure, page, vma, vpn)) is not None:
                    start = vpn - (index - lost.start)
                    found.append((leader.pid, add_to_kill(failure, thread, start, shift)))
    return oldest_first(found)


def _mapping_shift(failure: MemoryFailure, page: Page, vma: Vma, vpn: int) -> int | None:
    """dev_pagemap_mapping_shift(): log2 of the bytes that are mapped there; None: no entry that counts."""
    table = vma.mm.table(vpn)
    if table is None:
        return None
    with table.lock:
        entry = table.entries.get(vpn)
        own_copy = isinstance(entry, Pte) and entry.page is not page
        if not isinstance(entry, Pte) or (own_copy and not failure.profile.tells_holders_of_dax_copies):
            return None
        return HUGE_SHIFT if vma.mapping is not None and vma.mapping.fs.character else PAGE_SHIFT
