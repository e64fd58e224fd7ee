"""Collapsing small pages into a huge one (mm/khugepaged.c), for MADV_COLLAPSE; the daemon itself is off.

The old pages are copied, one by one, into a new folio, under mmap_lock for writing: nobody else changes
the memory of the process meanwhile.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .huge import new_anon_huge_folio
from .inode import SysError
from .mmap import Mm, PageTable, Vma
from .page import Page, put_page
from .page_alloc import OutOfMemory
from .pte import Entry, Pmd, Pte, SwapPte
from .rmap import HPAGE_NR, folio_add_rmap_pmd, zap_entry


def madvise_collapse(mm: Mm, vpn: int) -> None:
    """madvise(2) MADV_COLLAPSE of the 512 pages around an address; raises SysError."""
    first = vpn & -HPAGE_NR
    with mm.mmap_lock.write():
        vma = mm.find_vma(first)
        if vma is None or vma.end < first + HPAGE_NR or vma.mapping is not None:
            raise SysError(Errno.EINVAL, f"no huge page fits at {vpn:#x}")
        table = mm.table(first)
        if table is not None and isinstance(table.huge, Pmd):
            return
        if table is None or not table.entries:
            raise SysError(Errno.EINVAL, f"nothing is mapped at {first:#x}")
        _collapse(vma, first, table)


def _collapse(vma: Vma, first: int, table: PageTable) -> None:
    """collapse_huge_page(): a poison note, or a page that somebody else holds, ends it."""
    vm = vma.mm.vm
    for vpn in range(first, first + HPAGE_NR):
        _check(vma, table.entries.get(vpn))
    try:
        folio = new_anon_huge_folio(vma, first)
    except OutOfMemory:
        raise SysError(Errno.ENOMEM, "no memory for a huge page") from None
    with table.lock:
        for page in folio.pages():
            entry = table.entries.get(first + page.offset)
            if isinstance(entry, Pte) and entry.page is not vm.zero_page:
                content = vm.copy_mc(entry.page)
                if content is None:
                    break
                page.content = content
        else:
            for vpn in range(first, first + HPAGE_NR):
                if vpn in table.entries:
                    zap_entry(vma, vpn, table)
            table.deposited = True
            table.huge = Pmd(folio, writable=vma.writable, dirty=True)
            folio_add_rmap_pmd(folio, vma)
            return
    put_page(folio)
    raise SysError(Errno.EINVAL, "the copy met bad memory")


def _check(vma: Vma, entry: Entry | None) -> None:
    """__collapse_huge_page_isolate(): raises SysError for an entry that cannot be collapsed."""
    if isinstance(entry, Pte):
        page: Page = entry.page
        if page is vma.mm.vm.zero_page:
            return
        page.vm.lru.add_drain(page.paths.current.cpu)
        if page.head.order or page.refcount != page.mapcount + bool(page.flags & pg.SWAPCACHE):
            raise SysError(Errno.EAGAIN, f"somebody else holds {page}")
    elif isinstance(entry, SwapPte):
        raise SysError(Errno.EAGAIN, "a page is in swap")
    elif entry is not None:
        raise SysError(Errno.EINVAL, "a page was bad memory")
