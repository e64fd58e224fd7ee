"""madvise(2) and its neighbours, one page at a time (mm/madvise.c; UFFDIO_POISON of mm/userfaultfd.c)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .inode import SysError
from .mmap import Mm
from .page import Page, clear_flags
from .pte import MarkerPte, MigrationPte, Pte
from .rmap import anon_vma_prepare, zap_entry
from .split import split_for_part


def madvise_free(mm: Mm, vpn: int) -> None:
    """MADV_FREE: the contents may be thrown away until somebody writes to the page again.

    Not of a page that others map, too. EINVAL for a file's memory, and for locked memory.
    """
    vma = mm.find_vma(vpn)
    if vma is None or vma.mapping is not None or vma.driver is not None or vma.pfnmap is not None:
        raise SysError(Errno.EINVAL, f"{vpn:#x} is no anonymous memory")
    if vma.locked or vma.hstate is not None:
        raise SysError(Errno.EINVAL, f"{vpn:#x} is locked, or a huge page of a pool")
    entry = mm.entry(vpn)
    if isinstance(entry, Pte) and entry.page.head.order and entry.page.anon and _splits(mm, vpn, entry.page):
        split_for_part(entry.page)
    table = mm.table(vpn)
    if table is None or table.huge is not None:
        return
    with mm.mmap_lock.read(), table.lock:
        entry = table.entries.get(vpn)
        if entry is not None and not isinstance(entry, Pte | MigrationPte):
            zap_entry(vma, vpn, table)  # a note of any kind: there is nothing to keep
            return
        if (
            not isinstance(entry, Pte)
            or not entry.page.anon
            or entry.page.head.order
            or entry.page.mapcount != 1
        ):
            return
        page = entry.page
        if page.flags & pg.SWAPCACHE and not mm.vm.swap.free_slot_if_unused(page):
            return
        clear_flags(page, pg.DIRTY)
        entry.dirty = entry.young = False
    mm.vm.lru.mark_lazyfree(page)


def _splits(mm: Mm, vpn: int, page: Page) -> bool:
    """Not on 6.1, if the first page of the huge page is mapped no more."""
    table = mm.table(vpn)
    whole = table is not None and table.huge is not None
    return whole or page.head.mapcount > 0 or not mm.vm.traits.free_needs_first_page


def uffd_poison(mm: Mm, vpn: int) -> None:
    """UFFDIO_POISON: an untouched page counts as bad. EEXIST if there is something; EINVAL before 6.6."""
    if not mm.vm.traits.knows_poison_markers:
        raise SysError(Errno.EINVAL, "this kernel does not know the feature")
    vma = mm.find_vma(vpn)
    if vma is not None and vma.hstate is not None:
        raise SysError(Errno.EINVAL, f"{vpn:#x} is a part of a huge page of a pool: only all of it can be")
    if vma is None or vma.driver is not None or (vma.mapping is not None and not vma.mapping.fs.userfault):
        raise SysError(Errno.EINVAL, f"{vpn:#x} is neither anonymous memory nor that of tmpfs")
    if vma.mapping is not None and vma.index_of(vpn) >= vma.mapping.host.size:
        raise SysError(Errno.EFAULT, f"{vpn:#x} is beyond the end of its file")
    if vma.mapping is None:
        anon_vma_prepare(vma)
    table = mm.pmd_alloc(vpn)
    with mm.mmap_lock.read(), table.lock:
        table.deposited = table.deposited and table.huge is not None
        if vpn in table.entries or table.huge is not None:
            raise SysError(Errno.EEXIST, f"{vpn:#x} is in use")
        table.entries[vpn] = MarkerPte()
