"""Locking areas in memory (mm/mlock.c); the pages' own marks and counts are kept in lru.py."""

from __future__ import annotations

from hwpoison.abi.signals import Errno

from .gup import touch_user_page
from .inode import SysError
from .mmap import Mm, Vma
from .pte import Pmd, Pte


def mlock(mm: Mm, vma: Vma, *, on: bool = True) -> None:
    """mlock(2) or munlock(2) of an area: its pages are brought in and marked.

    A page that cannot be brought in, as one that was lost, is ENOMEM; the area stays locked. So is an area
    that another thread has given up meanwhile.
    """
    with mm.mmap_lock.write():
        if vma not in mm.vmas:
            raise SysError(Errno.ENOMEM, f"{vma} is there no more")
        special = (
            vma.driver is not None
            or vma.pfnmap is not None
            or (vma.mapping is not None and vma.mapping.fs.dax)
        )
        if vma.locked != on and not special:  # VM_SPECIAL, vma_is_dax()
            vma.locked = on
            _mark_pages(mm, vma, on=on)
    mm.vm.lru.add_drain_all()
    if on:
        populate(mm, vma)


def _mark_pages(mm: Mm, vma: Vma, *, on: bool) -> None:
    for _first, table in mm.huge_tables(vma.start, vma.end):
        with table.lock:
            if isinstance(table.huge, Pmd) and table.huge.page is not mm.vm.huge_zero_folio:
                if on:
                    mm.vm.lru.mlock_folio(table.huge.page)
                else:
                    mm.vm.lru.munlock_folio(table.huge.page)
    for table, covered in mm.tables_between(vma.start, vma.end):
        with table.lock:
            for vpn in table.present(covered):
                entry = table.entries[vpn]
                if isinstance(entry, Pte) and entry.page is not mm.vm.zero_page and not entry.page.head.order:
                    if on:
                        mm.vm.lru.mlock_folio(entry.page)
                    else:
                        mm.vm.lru.munlock_folio(entry.page)


def populate(mm: Mm, vma: Vma) -> None:
    """__mm_populate(): touch every page; private writable ones as by a store, so that they are their own."""
    write = vma.writable and not vma.shared
    task = next(iter(mm.users), None) or mm.paths.current.task  # whose process may have ended meanwhile
    vpn = vma.start
    while vpn < vma.end:
        try:
            vpn += touch_user_page(task, vpn, write=write)
        except SysError as error:
            raise SysError(Errno.ENOMEM, f"cannot lock {vma}: {error}") from None
