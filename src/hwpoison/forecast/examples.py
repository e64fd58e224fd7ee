"""Page states that hosts really have, to explain a page type by; bits that decide nothing are left out.

Each must be reproduced by a recipe (tests/forecast/test_examples.py).
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.machine import Traits

from .kinds import SEVERAL, Kind

_LIST = pg.UPTODATE | pg.LRU
_MEMORY = _LIST | pg.ANON | pg.SWAPBACKED
_TMPFS = _LIST | pg.SWAPBACKED
_HUGE_HEAD = _MEMORY | pg.MMAP | pg.THP | pg.COMPOUND_HEAD | pg.DIRTY
_HUGE = pg.HUGE | pg.COMPOUND_HEAD
_LOCKED = pg.MLOCKED | pg.UNEVICTABLE

EXAMPLES: tuple[Kind, ...] = (
    Kind(pg.BUDDY),
    Kind(_MEMORY | pg.MMAP, 1),
    Kind(_MEMORY | pg.MMAP, SEVERAL),
    Kind(_MEMORY | pg.MMAP | pg.DIRTY, 1),
    Kind(_MEMORY | pg.MMAP | _LOCKED, 1),
    Kind(_MEMORY & ~pg.LRU | pg.MMAP, 1),
    Kind(_MEMORY | pg.MMAP | pg.SWAPCACHE, 1),
    Kind(_MEMORY | pg.MMAP | pg.SWAPCACHE | pg.DIRTY, 1),
    Kind(_MEMORY | pg.MMAP | pg.KSM | pg.DIRTY, SEVERAL),
    Kind(_LIST | pg.ANON | pg.MMAP, 1),
    Kind(_MEMORY | pg.SWAPCACHE),
    Kind(_MEMORY | pg.SWAPCACHE | pg.DIRTY),
    Kind(_MEMORY | pg.SWAPCACHE | pg.WRITEBACK),
    Kind(_LIST),
    Kind(_LIST | pg.MMAP, 1),
    Kind(_LIST | pg.MMAP, SEVERAL),
    Kind(_LIST | pg.MMAP | _LOCKED, 1),
    Kind(_LIST | pg.PRIVATE),
    Kind(pg.LRU | pg.PRIVATE),
    Kind(_LIST | pg.DIRTY),
    Kind(_LIST | pg.DIRTY | pg.PRIVATE),
    Kind(_LIST | pg.DIRTY | pg.PRIVATE | pg.MMAP, 1),
    Kind(_LIST | pg.WRITEBACK),
    Kind(_LIST | pg.WRITEBACK | pg.DIRTY | pg.PRIVATE),
    Kind(_TMPFS),
    Kind(_TMPFS | pg.DIRTY),
    Kind(_TMPFS | pg.DIRTY | pg.MMAP, 1),
    Kind(_TMPFS | pg.DIRTY | pg.MMAP, SEVERAL),
    Kind(_TMPFS | pg.MMAP, 1),
    Kind(_TMPFS | pg.DIRTY | pg.UNEVICTABLE),
    Kind(_TMPFS | pg.DIRTY | pg.MMAP | _LOCKED, 1),
    Kind(_TMPFS | pg.SWAPCACHE),
    Kind(_MEMORY | pg.SWAPCACHE | pg.THP | pg.COMPOUND_TAIL),
    Kind(_MEMORY | pg.SWAPCACHE | pg.MMAP | pg.THP | pg.COMPOUND_TAIL, 1),
    Kind(_MEMORY | pg.MMAP | pg.THP | pg.COMPOUND_TAIL, 1),
    Kind(_HUGE_HEAD, SEVERAL),
    Kind(_TMPFS | pg.DIRTY | pg.MMAP | pg.THP | pg.COMPOUND_TAIL, 1),
    Kind(_LIST | pg.THP | pg.COMPOUND_TAIL),
    Kind(_LIST | pg.PRIVATE | pg.THP | pg.COMPOUND_TAIL),
    Kind(_LIST | pg.DIRTY | pg.THP | pg.COMPOUND_TAIL),
    Kind(_LIST | pg.DIRTY | pg.PRIVATE | pg.THP | pg.COMPOUND_HEAD),
    Kind(_HUGE),
    Kind(_HUGE | pg.UPTODATE | pg.ANON | pg.MMAP, 1),
    Kind(_HUGE | pg.UPTODATE | pg.ANON | pg.MMAP, SEVERAL),
    Kind(_HUGE | pg.UPTODATE | pg.DIRTY),
    Kind(_HUGE | pg.UPTODATE | pg.DIRTY | pg.MMAP, 1),
    Kind(pg.SLAB),
    Kind(pg.SLAB | pg.COMPOUND_TAIL),
    Kind(pg.PGTABLE),
    Kind(pg.RESERVED),
    Kind(pg.RESERVED | pg.MMAP, 1),
    Kind(pg.RESERVED | pg.ZERO_PAGE),
    Kind(pg.OFFLINE),
    Kind(pg.COMPOUND_HEAD),
    Kind(pg.MMAP, 1),
    Kind(pg.HWPOISON),
)


def can_be(kind: Kind, traits: Traits) -> bool:
    """Whether a kernel has such pages: older ones show a tail's own word, and write no large folios."""
    return not kind.has(pg.THP) or traits.tails_show_folio or kind.flags == _HUGE_HEAD
