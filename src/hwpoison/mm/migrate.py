"""Moving a folio to other frames under the hands of its users (mm/migrate.c).

The folio, isolated from the reclaim lists, is locked; its entries become migration entries, at which a
fault waits for the lock (migrate_entries.py); then nobody but its cache and the caller may hold it, or it
stays; the cache gets the new folio, contents and flags are copied (migrate_folio.py), and the entries name
the new one. What is moved is freed by its last user, or kept for the caller who wants the frame itself
(MR_MEMORY_FAILURE). A large folio moves whole; it is split where there is no memory for that.

Locks: the folio locks of both folios throughout, the new one nested; below them those of the reverse map.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .hugetlb import is_huge
from .hugetlb_unmap import try_to_migrate_huge
from .inode import AddressSpace
from .locks import read_once
from .migrate_entries import remove_huge_migration_entries, remove_migration_ptes, try_to_migrate
from .migrate_folio import move_to_new_folio
from .page import (
    Page,
    clear_flags,
    folio_lock,
    folio_try_get,
    folio_unlock,
    folio_wait_writeback,
    put_page,
)
from .page_alloc import OutOfMemory
from .pte import Pte
from .split import split_folio

if TYPE_CHECKING:
    from .mmap import Mm

MAX_TRIES = 10
"""NR_MAX_MIGRATE_PAGES_RETRY: so often a page that is in use for a moment is tried."""


class Reason(Enum):
    """enum migrate_reason. MEMORY_FAILURE: the caller keeps the isolating reference, and so the frame."""

    MEMORY_FAILURE = "memory_failure"
    SYSCALL = "syscall_or_cpuset"
    MEMORY_HOTPLUG = "memory_hotplug"
    COMPACTION = "compaction"


def alloc_migration_target(folio: Page) -> Page:
    """Where to move a folio of the page allocator to, if nobody wants it somewhere; OutOfMemory."""
    return folio.vm.zone.alloc_pages(folio.order)


def isolate_folio(folio: Page) -> bool:
    """Off its list, or the pool's, with a reference of the isolation's own; the caller keeps his."""
    return folio.vm.hugetlb.isolate(folio) if is_huge(folio) else folio.vm.lru.isolate(folio)


def putback_movable_pages(folios: list[Page]) -> None:
    """Those that could not be moved go back to their lists."""
    for folio in folios:
        if is_huge(folio):
            folio.vm.hugetlb.putback(folio)
        else:
            folio.vm.lru.putback(folio)
    folios.clear()


def migrate_pages(
    folios: list[Page], reason: Reason, target: Callable[[Page], Page] = alloc_migration_target
) -> int:
    """Move isolated folios, waiting where that helps (MIGRATE_SYNC). Those that are not remain in the list.

    ``target`` gives the frames for a folio, or raises OutOfMemory; the pools give those of hugetlb pages.

    0: all were moved; above: how many were not; -ENOMEM: no frame to move to.
    """
    to_move = list(folios)
    folios.clear()
    while to_move:
        folio = to_move.pop(0)
        parts = _split(folio) if _is_partly_mapped(folio) else []
        result = 0 if parts else _try_to_move(folio, reason, target)
        if result == -Errno.ENOMEM:
            parts = _split(folio)
        to_move[:0] = parts
        if result and not parts:
            folios.append(folio)
            if result == -Errno.ENOMEM:
                folios += to_move
                return result
    return len(folios)


def _try_to_move(folio: Page, reason: Reason, target: Callable[[Page], Page]) -> int:
    """As many tries as somebody who has the folio for a moment may need."""
    for _attempt in range(MAX_TRIES):
        if is_huge(folio):
            result = unmap_and_move_huge_page(folio, reason)
        else:
            result = unmap_and_move(folio, reason, target)
        if result != -Errno.EAGAIN:
            break
    return result


def _is_partly_mapped(folio: Page) -> bool:
    """folio_test_partially_mapped(): a page of it is needed by nobody any more; asked by newer kernels."""
    asked = folio.order and folio.anon and not is_huge(folio)
    if not asked or folio.entire_mapcount or not folio.vm.traits.migration_splits_partly_mapped:
        return False
    return folio.mapped and not all(page.mapcount for page in folio.pages())


def _split(folio: Page) -> list[Page]:
    """try_split_folio(): its pages, each isolated; none if it cannot be split."""
    if not folio.order or is_huge(folio):
        return []
    pages = list(folio.pages())
    folio_lock(folio)
    error = split_folio(folio, keep=True)
    folio_unlock(folio)
    return [] if error else pages


def unmap_and_move(folio: Page, reason: Reason, target: Callable[[Page], Page]) -> int:
    """One try for one folio: 0, -EAGAIN (somebody holds it now), -ENOMEM, or -errno for good."""
    if read_once(folio, "refcount") == 1:  # freed by everybody else since it was isolated
        clear_flags(folio, pg.ACTIVE | pg.UNEVICTABLE)
        _done(folio, reason)
        return 0
    try:
        new = target(folio)
        new.memcg = folio.memcg  # mem_cgroup_migrate()
    except OutOfMemory:
        return -Errno.ENOMEM
    folio_lock(folio)
    folio_wait_writeback(folio)
    folio_lock(new, nested=True)
    mlocked = bool(folio.flags & pg.MLOCKED)
    mapped = folio.mapped
    if mapped:
        try_to_migrate(folio)
    result = -Errno.EAGAIN if folio.mapped else move_to_new_folio(new, folio)
    if result:
        if mapped:
            remove_migration_ptes(folio, folio)
        folio_unlock(new)
        folio_unlock(folio)
        put_page(new)
        return result
    folio.vm.lru.add(new)
    if mlocked:
        folio.vm.lru.add_drain(folio.paths.current.cpu)
    if mapped:
        remove_migration_ptes(folio, new)
    folio_unlock(new)
    put_page(new)
    folio_unlock(folio)
    _done(folio, reason)
    return 0


def _done(folio: Page, reason: Reason) -> None:
    """migrate_folio_done(): the isolating reference frees the frame, unless somebody wants just that one."""
    if reason is not Reason.MEMORY_FAILURE:
        put_page(folio)


def unmap_and_move_huge_page(head: Page, reason: Reason) -> int:
    """The same for a hugetlb page. The old one goes to its pool, or is freed if the new one was extra."""
    pools = head.vm.hugetlb
    if read_once(head, "refcount") == 1:
        pools.putback(head)
        return 0
    new = pools.alloc_for_migration(head, other_node=reason is Reason.SYSCALL)
    if new is None:
        return -Errno.ENOMEM
    folio_lock(head)
    folio_lock(new, nested=True)
    mapped = head.mapped
    if mapped:
        _unmap_huge_page(head)
    result = -Errno.EAGAIN if head.mapped else move_to_new_folio(new, head)
    if mapped:
        remove_huge_migration_entries(head, head if result else new)
    folio_unlock(new)
    if result == 0:
        pools.moved(head, new)
    folio_unlock(head)
    if result == 0:
        pools.putback(head)
        pools.putback(new)
    else:
        put_page(new)
    return result


def _unmap_huge_page(head: Page) -> None:
    """Of a file's page the list of areas is only tried: the usual order has it outside the folio lock."""
    if not isinstance(head.mapping, AddressSpace):
        try_to_migrate_huge(head)
        return
    sem = head.mapping.i_mmap_rwsem
    if sem.down_write_trylock():
        try_to_migrate_huge(head)
        sem.up_write()


def move_page_of(mm: Mm, vpn: int) -> int:
    """move_pages(2) of one page to another node: 0, 1 if it could not be moved, or its status, -errno.

    A large folio moves with it.
    """
    mm.vm.lru.add_drain_all()
    entry = mm.entry(vpn)
    if not isinstance(entry, Pte):
        vma = mm.find_vma(vpn)
        anonymous = vma is not None and vma.mapping is None and vma.hstate is None and mm.table(vpn) is None
        return -Errno.EFAULT if anonymous and mm.vm.traits.no_page_table_is_efault else -Errno.ENOENT
    folio = entry.page.head
    if folio in (mm.vm.zero_page, mm.vm.huge_zero_folio):
        return -Errno.EFAULT
    if is_huge(folio) and entry.page is not folio and mm.vm.traits.moves_huge_page_by_its_head:
        return -Errno.EACCES
    if mm.vm.pmem.has_page(folio.pfn) or not folio_try_get(folio):
        return -Errno.ENOENT
    isolated = isolate_folio(folio)
    put_page(folio)
    if not isolated:
        return -Errno.EBUSY
    folios = [folio]
    left = migrate_pages(folios, Reason.SYSCALL)
    putback_movable_pages(folios)
    mm.vm.lru.add_drain_all()  # the call does without batches (lru_cache_disable())
    return left
