"""Which recipe for which page, and what is known not to be in the model.

All recipes whose flags fit are tried. Where several reproduce the same page, /proc cannot tell these
pages apart, and only what all of them come to can be told.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg

from . import plant_file, plant_folio, plant_hugetlb, plant_kernel, plant_memory
from .plant import Recipe

_MARKS = pg.SLAB | pg.PGTABLE | pg.OFFLINE | pg.RESERVED | pg.BUDDY | pg.HWPOISON | pg.NOPAGE
_COMPOUND = pg.COMPOUND_HEAD | pg.COMPOUND_TAIL
_OF_USERS = pg.LRU | pg.ANON | pg.SWAPBACKED | pg.SWAPCACHE | pg.MLOCKED | pg.UNEVICTABLE

_HUGE = pg.HUGE | pg.HWPOISON

RECIPES: tuple[Recipe, ...] = (
    Recipe(pg.HWPOISON, pg.HWPOISON, "it was taken out of use", plant_kernel.known_bad),
    Recipe(pg.BUDDY, pg.BUDDY, "it is free", plant_kernel.free_page),
    Recipe(pg.SLAB, pg.SLAB, "it holds objects of the kernel", plant_kernel.slab),
    Recipe(pg.PGTABLE, pg.PGTABLE, "it is a page table", plant_kernel.page_table),
    Recipe(pg.OFFLINE, pg.OFFLINE, "the hypervisor has it", plant_kernel.balloon),
    Recipe(pg.ZERO_PAGE, pg.ZERO_PAGE, "it is the page of zeros", plant_kernel.zero_page),
    Recipe(pg.RESERVED | pg.ZERO_PAGE, pg.RESERVED, "the kernel reserved it", plant_kernel.reserved),
    # No owner to be seen. With a mapper it is a driver's; without, it may also be free or on its way.
    Recipe(
        _MARKS | _OF_USERS | pg.HUGE,
        0,
        "the kernel uses it (vmalloc, stacks, per-CPU data)",
        plant_kernel.unmarked,
    ),
    Recipe(
        ~0, 0, "it is free, on the list of a CPU that keeps it for itself", plant_kernel.free_on_a_cpu_list
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.LRU | pg.ANON | pg.SWAPBACKED,
        0,
        "it is a file's, in the batch of a CPU on its way to a reclaim list",
        plant_file.disk_file,
    ),
    # Huge pages. Up to 6.6 /proc shows the flags of later frames themselves, which say next to nothing.
    Recipe(_HUGE | pg.ANON, pg.HUGE | pg.ANON, "it is huge memory of a process", plant_hugetlb.huge_memory),
    Recipe(_HUGE | pg.ANON, pg.HUGE, "it is a huge page of a file", plant_hugetlb.huge_file),
    Recipe(
        _HUGE | pg.ANON | pg.MMAP | pg.DIRTY, pg.HUGE, "it is free, in the pool", plant_hugetlb.free_huge_page
    ),
    # On the reclaim lists, or swap backed and so on its way there.
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED | pg.KSM,
        pg.ANON | pg.SWAPBACKED,
        "it is memory of a process",
        plant_memory.anonymous,
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED | pg.KSM | pg.SWAPCACHE,
        pg.ANON | pg.SWAPBACKED | pg.KSM,
        "it was merged by KSM",
        plant_memory.merged,
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED | pg.KSM | pg.SWAPCACHE,
        pg.ANON,
        "it may be thrown away (MADV_FREE)",
        plant_memory.lazily_freed,
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED, pg.SWAPBACKED, "it is tmpfs's", plant_file.tmpfs_file
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED | pg.SWAPCACHE | pg.MMAP,
        pg.SWAPBACKED | pg.SWAPCACHE,
        "it was read ahead from swap",
        plant_memory.read_ahead_from_swap,
    ),
    Recipe(
        _MARKS | _COMPOUND | pg.ANON | pg.SWAPBACKED | pg.LRU,
        pg.LRU,
        "it is a file's",
        plant_file.disk_file,
    ),
    # Parts of large folios: of memory, of tmpfs, of a file; up to 6.11 tails show neither list nor owner.
    Recipe(
        _MARKS | pg.THP | pg.HUGE | pg.ANON | pg.SWAPCACHE,
        pg.THP | pg.ANON,
        "it is memory of a process, in a huge page",
        plant_folio.huge_memory,
    ),
    Recipe(
        _MARKS | pg.THP | pg.HUGE | pg.ANON | pg.SWAPCACHE,
        pg.THP | pg.ANON | pg.SWAPCACHE,
        "it is memory of a process, in a huge page that has slots in swap",
        plant_folio.huge_swapped,
    ),
    Recipe(
        _MARKS | pg.THP | pg.HUGE | pg.ANON | pg.SWAPBACKED | pg.SWAPCACHE,
        pg.THP | pg.SWAPBACKED,
        "it is tmpfs's, in a huge page",
        plant_folio.huge_tmpfs,
    ),
    Recipe(
        ~(pg.MMAP | pg.UPTODATE),
        pg.THP | pg.COMPOUND_TAIL,
        "it is tmpfs's, in a huge page",
        plant_folio.huge_tmpfs,
    ),
    Recipe(
        ~(pg.MMAP | pg.UPTODATE),
        pg.THP | pg.COMPOUND_TAIL,
        "it is a file's, in a large folio",
        plant_folio.disk_folio,
    ),
    Recipe(
        _MARKS | pg.THP | pg.HUGE | pg.ANON | pg.SWAPBACKED | pg.LRU,
        pg.THP | pg.LRU,
        "it is a file's, in a large folio",
        plant_folio.disk_folio,
    ),
)

NOT_MODELLED: tuple[tuple[int, int, str], ...] = (
    # mask, value, why: for a page with these flags that no recipe reproduces.
    (pg.NOPAGE, pg.NOPAGE, "there is no memory here that the kernel manages, or it is a device's (DAX)"),
    (pg.KSM | pg.MMAP, pg.KSM, "it was merged (KSM), and nobody maps it any more"),
    (pg.KSM | pg.SWAPCACHE, pg.KSM | pg.SWAPCACHE, "merged pages (KSM) in swap are not in the model yet"),
    (
        pg.THP | pg.SWAPCACHE,
        pg.THP | pg.SWAPCACHE,
        "a large folio in swap in a state that is not in the model yet",
    ),
    (pg.THP | pg.ANON | pg.MMAP, pg.THP | pg.ANON, "nobody maps it: its folio is on its way out of memory"),
    (pg.THP, pg.THP, "large folios in this state are not in the model yet"),
    (pg.LRU | pg.COMPOUND_HEAD, pg.LRU | pg.COMPOUND_HEAD, "a compound page of an unknown owner"),
    (pg.LRU | pg.COMPOUND_TAIL, pg.LRU | pg.COMPOUND_TAIL, "a compound page of an unknown owner"),
    (pg.ANON | pg.SWAPBACKED | pg.MMAP, pg.ANON, "memory that may be thrown away (MADV_FREE), on its way"),
    (
        pg.UNEVICTABLE | pg.MLOCKED | pg.SWAPBACKED,
        pg.UNEVICTABLE,
        "files that keep their pages in memory (ramfs, memfd_secret) are not in the model yet",
    ),
    (pg.MLOCKED | pg.LRU, pg.MLOCKED, "it is on its way between the reclaim lists"),
)


def recipes_for(flags: int) -> list[Recipe]:
    """The recipes to be tried for a page with these folded flags."""
    return [recipe for recipe in RECIPES if flags & recipe.mask == recipe.value]


def why_not(flags: int) -> str | None:
    """Why no recipe can be expected to reproduce such a page, if there is a known reason."""
    unknown = flags & ~pg.KNOWN
    if unknown:
        return f"it carries {' and '.join(pg.names(unknown))}, which no kernel known here has"
    return next((why for mask, value, why in NOT_MODELLED if flags & mask == value), None)
