"""The books of a quiet machine must balance: references, map counts, lists, slots, locks (promise 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .page import Page
from .pte import Pmd, Pte, SwapPte

if TYPE_CHECKING:
    from .machine import Machine


def imbalances(vm: Machine) -> list[str]:
    """Each thing that does not add up, one sentence. Only meaningful while no path is under way."""
    return [
        *_map_counts(vm),
        *_free_pages(vm),
        *_lists(vm),
        *_references(vm),
        *_slots(vm),
        *_caches(vm),
        *_locks(vm),
    ]


def _entries(vm: Machine) -> Iterator[tuple[str, int, object]]:
    seen = set()
    for task in vm.tasks.values():
        if task.mm is not None and id(task.mm) not in seen:
            seen.add(id(task.mm))
            for table in task.mm.tables.values():
                for vpn, entry in table.entries.items():
                    yield task.mm.name, vpn, entry


def _huge_entries(vm: Machine) -> Counter[int]:
    """How many entries map each large folio whole, by the pfn of its head."""
    memories = {id(task.mm): task.mm for task in vm.tasks.values() if task.mm is not None}.values()
    count = Counter(
        table.huge.page.pfn
        for mm in memories
        for table in mm.tables.values()
        if isinstance(table.huge, Pmd) and table.huge.page is not vm.huge_zero_folio
    )
    count.update(pmd.page.pfn for mm in memories for pmd in mm.hugetlb.values() if isinstance(pmd, Pmd))
    return count


def _mapped(vm: Machine) -> Counter[int]:
    return Counter(
        entry.page.pfn
        for _mm, _vpn, entry in _entries(vm)
        if isinstance(entry, Pte) and entry.page is not vm.zero_page
    )


def _map_counts(vm: Machine) -> Iterator[str]:
    mapped, huge = _mapped(vm), _huge_entries(vm)
    of_folio: Counter[int] = Counter()
    for pfn, count in mapped.items():
        of_folio[vm.zone.page(pfn).head.pfn] += count
    for page in vm.zone.pages.values():
        if page.mapcount != mapped[page.pfn]:
            yield f"{page} has map count {page.mapcount}, {mapped[page.pfn]} entries map it"
        if page.entire_mapcount != huge[page.pfn]:
            yield f"{page} is mapped whole {page.entire_mapcount} times, {huge[page.pfn]} entries do"
        parts = of_folio[page.pfn] + huge[page.pfn] if page.order else 0
        if page.large_mapcount != parts:
            yield f"{page} has a map count of {page.large_mapcount} in all, {parts} entries map parts of it"


def _free_pages(vm: Machine) -> Iterator[str]:
    seen = Counter(vm.zone.free_pfns())
    for pfn, times in seen.items():
        page = vm.zone.pages.get(pfn)
        if times > 1:
            yield f"page {pfn:#x} is in the free lists {times} times"
        if page is not None and (page.refcount or page.mapcount or page.mapping is not None):
            yield f"{page} is free with refcount {page.refcount}, map count {page.mapcount}"


def _lists(vm: Machine) -> Iterator[str]:
    for page in vm.zone.pages.values():
        listed = page.pfn in vm.lru.pages
        if bool(page.flags & pg.LRU) != listed:
            yield f"{page} {'has' if not listed else 'lacks'} PG_lru but is {'' if listed else 'not '}listed"


def known_references(vm: Machine) -> Counter[int]:
    """What each folio's count should be at least: mappings, caches, buffers, batches."""
    known = _huge_entries(vm)
    for pfn, count in _mapped(vm).items():
        known[vm.zone.page(pfn).head.pfn] += count
    for inode in vm.inodes:
        for page in inode.mapping.pages.values():
            known[page.head.pfn] += 1
    for page in vm.zone.pages.values():
        known[page.pfn] += bool(page.flags & pg.PRIVATE)
    for page in vm.swap.cache.values():
        known[page.head.pfn] += 1
    known.update(pfn for pfn in vm.zone.pages if vm.pmem.has_page(pfn))  # the device's own
    known.update(page.pfn for page, _store in vm.disk.under_way)
    for batch in (*vm.lru.batches.values(), *vm.lru.lazyfree_batches.values()):
        known.update(page.pfn for page in batch)
    for queue in vm.lru.mlock_batches.values():
        known.update(page.pfn for page, _ in queue)
    return known


def _references(vm: Machine) -> Iterator[str]:
    """Pages in use: their count is covered; what is above is a pin, the kernel's own, or the handler's."""
    known = known_references(vm)
    for page in vm.zone.pages.values():
        if page.refcount < known[page.pfn]:
            yield f"{page} has refcount {page.refcount}, its users hold {known[page.pfn]}"
        extra = page.refcount - known[page.pfn]
        owned = page.flags & (pg.RESERVED | pg.SLAB | pg.PGTABLE | pg.OFFLINE | pg.HWPOISON)
        explained = known[page.pfn] or page.mapping is not None  # else it is some page of the kernel's own
        owned = owned or page.pincount
        if extra and explained and not owned and not page.maybe_dma_pinned and page.pfn not in vm.held:
            yield f"{page} has refcount {page.refcount}, but its users hold only {known[page.pfn]}"


def _slots(vm: Machine) -> Iterator[str]:
    named = Counter(entry.entry for _mm, _vpn, entry in _entries(vm) if isinstance(entry, SwapPte))
    for inode in vm.inodes:
        named.update(inode.mapping.swap_entries.values())
    for slot, count in vm.swap.count.items():
        if count != named[slot]:
            yield f"swap slot {slot} has count {count}, {named[slot]} entries name it"
    for slot in named.keys() - vm.swap.count.keys():
        yield f"swap slot {slot} is named by {named[slot]} entries but free"


def _caches(vm: Machine) -> Iterator[str]:
    owner: dict[int, str] = {}
    for inode in vm.inodes:
        for index, page in inode.mapping.pages.items():
            here = f"{inode.name}:{index}"
            if page.head.mapping is not inode.mapping or page.file_index != index:
                yield f"{page} is at {here} but points elsewhere"
            if page.pfn in owner:
                yield f"{page} is at {here} and at {owner[page.pfn]}"
            owner[page.pfn] = here
            if page.head is page and bool(page.flags & pg.DIRTY) != (index in inode.mapping.dirty):
                yield f"{page} at {here} disagrees with its dirty tag"


def _locks(vm: Machine) -> Iterator[str]:
    for path in vm.paths.alive:
        if path.held:
            yield f"{path} still holds {', '.join(held.describe() for held in path.held)}"


def page_users(vm: Machine, page: Page) -> list[tuple[str, int]]:
    """(memory, page number) of every entry that maps a page."""
    return [(mm, vpn) for mm, vpn, entry in _entries(vm) if isinstance(entry, Pte) and entry.page is page]
