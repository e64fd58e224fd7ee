"""What can be seen of a page from outside, in words that a real kernel's witness can find out as well."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Value
from hwpoison.abi.results import MfResult
from hwpoison.mm.inode import Inode
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.proc import stable_page_flags
from hwpoison.mm.pte import MarkerPte, PoisonPte, Pte, SwapErrorPte, SwapPte
from hwpoison.mm.task import Task


def shows_bad(vm: Machine, page: Page) -> bool:
    """Does /proc/kpageflags show it as known to be bad?"""
    return bool(stable_page_flags(vm, page.pfn) & pg.HWPOISON)


def entry_view(vm: Machine, task: Task, vpn: int) -> dict[str, Value]:
    """A page table entry as pagemap shows it; poison has a swap type beyond all real ones."""
    entry = task.alive_mm().entry(vpn)
    if isinstance(entry, Pte):
        bad = shows_bad(vm, entry.page)
        return {"entry": "present", "bad": "yes" if bad else "no", **order_view(entry.page)}
    vma = task.alive_mm().find_vma(vpn)
    if isinstance(entry, PoisonPte) and vma is not None and vma.hstate is not None:
        return {"entry": "none"}  # pagemap does not show notes about huge pages
    if isinstance(entry, PoisonPte | SwapErrorPte | MarkerPte):
        return {"entry": "poison"}
    return {"entry": "swap" if isinstance(entry, SwapPte) else "none"}


def page_view(vm: Machine, inode: Inode, index: int) -> dict[str, Value]:
    """A page of a file: is it in the page cache, dirty, known to be bad?"""
    page = inode.mapping.frame(index) or _waiting_in_swap_cache(vm, inode, index)
    if page is None:
        return {"cached": "no"}
    dirty, bad = page.head.flags & pg.DIRTY, shows_bad(vm, page)
    words: dict[str, Value] = {
        "cached": "yes",
        "dirty": "yes" if dirty else "no",
        "bad": "yes" if bad else "no",
    }
    return {**words, **order_view(page)}


def _waiting_in_swap_cache(vm: Machine, inode: Inode, index: int) -> Page | None:
    """mincore(2) finds a page of tmpfs that is on its way out or back, too (filemap_get_incore_folio())."""
    slot = inode.mapping.swap_entries.get(index)
    page = None if slot is None else vm.swap.cache.get(slot)
    return page if page is not None and page.flags & pg.UPTODATE else None


def order_view(page: Page) -> dict[str, Value]:
    """How large the folio is that a page is a part of; nothing for a page of its own."""
    return {"order": page.head.order} if page.head.order else {}


def disk_view(inode: Inode, index: int) -> dict[str, Value]:
    """What is on the disk."""
    if inode.fs.dax:
        return {"data": inode.frames[index].content if index in inode.frames else ZEROS}
    return {"data": inode.blocks.get(index, ZEROS) if inode.fs.can_writeback else None}


def pool_view(vm: Machine, size: str) -> dict[str, Value]:
    """The counters of /sys/kernel/mm/hugepages."""
    h = vm.hugetlb.hstates[size]
    return {"nr": h.nr, "free": len(h.free_list), "reserved": h.reserved, "surplus": h.surplus}


def counters_view(vm: Machine, *, node: bool) -> dict[str, Value]:
    """HardwareCorrupted in pages, and the node's counters where the kernel has them."""
    view: dict[str, Value] = {"HardwareCorrupted": vm.counters.poisoned}
    if node:
        for result in MfResult:
            view[result.name.lower()] = vm.counters.results[result]
    return view
