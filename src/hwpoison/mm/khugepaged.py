"""Collapsing small pages into a huge one (mm/khugepaged.c), for MADV_COLLAPSE; the daemon itself is off.

The memory is looked over first, and what is in swap brought in. Then, under mmap_lock for writing, the page
table is taken away, so that nobody gets at the old pages but by their locks, which the collapse holds; they
are copied, one by one, into a new folio. Whatever goes wrong puts the table back as it was.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .fault import Fault
from .huge import make_anon_huge
from .inode import SysError
from .memory import do_swap_page
from .mmap import Mm, PageTable, Vma
from .page import Page, folio_mapcount, folio_trylock, folio_unlock, put_page
from .page_alloc import OutOfMemory
from .pte import Entry, Pmd, Pte
from .rmap import anon_vma_prepare, folio_add_rmap_pmd, page_remove_rmap
from .split import cache_references


def madvise_collapse(mm: Mm, vpn: int) -> None:
    """madvise(2) MADV_COLLAPSE of the 512 pages around an address; raises SysError."""
    first = vpn & -mm.ptrs_per_pte
    mm.vm.lru.add_drain_all()
    with mm.mmap_lock.read():
        vma, table = _find(mm, first)
        if isinstance(table.huge, Pmd):
            return
        _scan(vma, first, table)
    try:
        folio = mm.vm.zone.alloc_zeroed(mm.vm.pmd_order)
        folio.memcg = mm.group
        with mm.mmap_lock.read():
            _swap_in(first, *_find(mm, first))
    except OutOfMemory:
        raise SysError(Errno.ENOMEM, "no memory for a huge page") from None
    except SysError:
        put_page(folio)
        raise
    with mm.mmap_lock.write():
        try:
            _collapse(*_find(mm, first), first, folio)
        except SysError:
            put_page(folio)
            raise


def _find(mm: Mm, first: int) -> tuple[Vma, PageTable]:
    """hugepage_vma_revalidate(): the area, which must hold a whole huge page, and its page table."""
    vma, table = mm.find_vma(first), mm.table(first)
    if vma is None:
        raise SysError(Errno.ENOMEM, f"nothing is mapped at {first:#x}")
    if vma.end < first + mm.ptrs_per_pte or vma.mapping is not None or vma.hstate is not None:
        raise SysError(Errno.EINVAL, f"no huge page fits at {first:#x}")
    if table is None or not (table.entries or table.huge):
        raise SysError(Errno.EINVAL, f"nothing is mapped at {first:#x}")
    return vma, table


def _is_data(vma: Vma, entry: Entry | None) -> bool:
    return isinstance(entry, Pte) and entry.page is not vma.mm.vm.zero_page


def _is_refcount_suitable(page: Page) -> bool:
    """Nobody holds the folio but its entries and the swap cache."""
    folio = page.head
    return folio.refcount == folio_mapcount(folio) + (
        cache_references(folio) if folio.flags & pg.SWAPCACHE else 0
    )


def _scan(vma: Vma, first: int, table: PageTable) -> None:
    """hpage_collapse_scan_pmd(): is there anything in the way? What is not present is seen to later."""
    writable = False
    with table.lock:
        for vpn in range(first, first + vma.mm.ptrs_per_pte):
            entry = table.entries.get(vpn)
            if isinstance(entry, Pte) and _is_data(vma, entry):
                writable = writable or entry.writable
                _check(entry.page)
    if not writable and not vma.mm.vm.traits.collapses_read_only:
        raise SysError(Errno.EINVAL, "no page may be written to")


def _check(page: Page) -> None:
    """Raises SysError for a page that cannot be moved to another place."""
    if not page.anon:
        raise SysError(Errno.EINVAL, f"{page} is not anonymous")
    if not page.head.flags & pg.LRU or not _is_refcount_suitable(page):
        raise SysError(Errno.EAGAIN, f"somebody else holds {page}")


def _swap_in(first: int, vma: Vma, table: PageTable) -> None:
    """__collapse_huge_page_swapin(): a touch of what is not present; a note of bad memory is the end."""
    for vpn in range(first, first + vma.mm.ptrs_per_pte):
        entry = table.entries.get(vpn)
        if entry is None or isinstance(entry, Pte):
            continue
        result = do_swap_page(vma, vpn, table, entry, write=False)
        if result is Fault.RETRY:
            raise SysError(Errno.EAGAIN, "a page came, or went, at the same time")
        if result is not Fault.DONE:
            raise SysError(Errno.EINVAL, f"a page cannot be brought in: {result.value}")
    vma.mm.vm.lru.add_drain(vma.mm.paths.current.cpu)


def _collapse(vma: Vma, table: PageTable, first: int, folio: Page) -> None:
    """collapse_huge_page(), from the moment when nobody else can change the memory of the process."""
    if table.huge is not None:
        raise SysError(Errno.EINVAL, "it is a huge page by now")
    vm, isolated = vma.mm.vm, list[Page]()
    with anon_vma_prepare(vma).rwsem.write():
        with table.lock:
            entries, table.entries = table.entries, {}
        try:
            for vpn in range(first, first + vma.mm.ptrs_per_pte):
                _isolate(vma, entries.get(vpn), isolated)
        except SysError:
            _put_back(table, entries, isolated)
            raise
    for page in folio.pages():
        entry = entries.get(first + page.offset)
        if isinstance(entry, Pte) and _is_data(vma, entry):
            content = vm.copy_mc(entry.page) if vm.traits.collapse_survives_errors else None
            if content is None and not vm.traits.collapse_survives_errors:
                content = vm.kernel_reads(entry.page)
            if content is None:
                _put_back(table, entries, isolated)
                raise SysError(Errno.EINVAL, "the copy met bad memory")
            page.content = content
    for entry in entries.values():
        if isinstance(entry, Pte) and _is_data(vma, entry):
            page_remove_rmap(entry.page, vma)
            put_page(entry.page)
    _release(isolated)
    make_anon_huge(vma, first, folio)
    with table.lock:
        table.deposited = True
        table.huge = Pmd(folio, writable=vma.writable, dirty=True)
        folio_add_rmap_pmd(folio, vma)


def _isolate(vma: Vma, entry: Entry | None, isolated: list[Page]) -> None:
    """__collapse_huge_page_isolate() of one entry: its folio is locked and taken off its list, once."""
    if entry is None:
        return
    if not isinstance(entry, Pte):
        raise SysError(Errno.EINVAL, "a page is not there any more")
    if not _is_data(vma, entry):
        return
    folio = entry.page.head
    if folio.order and folio in isolated:
        return
    if not folio_trylock(folio):
        raise SysError(Errno.EAGAIN, f"{folio} is locked, or is here twice")
    if not _is_refcount_suitable(folio) or not folio.vm.lru.isolate(folio):
        folio_unlock(folio)
        raise SysError(Errno.EAGAIN, f"somebody else holds {folio}")
    isolated.append(folio)


def _put_back(table: PageTable, entries: dict[int, Entry], isolated: list[Page]) -> None:
    with table.lock:
        table.entries = entries
    _release(isolated)


def _release(isolated: list[Page]) -> None:
    """release_pte_folio(): unlocked, and back on their lists if anybody needs them."""
    for folio in isolated:
        if folio.flags & pg.SWAPCACHE and not folio.mapped:
            folio.vm.swap.free_slot_if_unused(folio)
        folio_unlock(folio)
        folio.vm.lru.putback(folio)
    if isolated:
        isolated[0].vm.lru.add_drain(isolated[0].paths.current.cpu)
