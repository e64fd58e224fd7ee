"""The lock order of the VM as data, checked at every acquisition.

Source: the header comments of mm/rmap.c and mm/filemap.c (7.3), and for the handler's own locks the
order in which mm/memory-failure.c takes them. A lock may be taken while another is held only if the
table, read as "left before right" and followed transitively, puts the held one first. Two locks of
the same class may nest only where the caller says so (``nested=True``) and gives its own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

CHAINS: tuple[tuple[str, ...], ...] = (
    # mm/rmap.c, outermost first.
    ("i_rwsem", "mmap_lock", "invalidate_lock", "folio_lock", "i_mmap_rwsem", "anon_vma", "ptl"),
    ("ptl", "swap_lock", "i_pages", "lru_lock"),
    ("folio_lock", "swap_lock"),
    # mm/rmap.c, hugetlbfs: the fault mutex, then the area's lock, then the folio's.
    ("i_rwsem", "hugetlb_fault_mutex"),
    ("mmap_lock", "hugetlb_fault_mutex", "hugetlb_vma_lock", "folio_lock"),
    # mm/memory-failure.c: one error at a time; the reference is taken with per-CPU lists disabled.
    ("mf_mutex", "mmap_lock"),
    ("mf_mutex", "pcp_batch_high_lock", "lru_lock"),
    # mm/ksm.c: one scan at a time.
    ("ksm_thread_mutex", "mmap_lock"),
    # include/linux/sched/signal.h: signals are queued with any of the above held.
    ("ptl", "siglock"),
    # mm/page_alloc.c: pages are allocated and freed with almost anything held.
    ("lru_lock", "pcp_lock", "zone_lock"),
    # mm/hugetlb.c: counters and free lists, with no memory allocated or freed meanwhile.
    ("lru_lock", "hugetlb_lock"),
    ("pcp_batch_high_lock", "hugetlb_lock"),
)
SOURCE = "mm/rmap.c, mm/filemap.c, mm/memory-failure.c"


@dataclass(frozen=True, slots=True)
class LockClass:
    """A kind of lock: its own bit, and the bits of the classes that must not be held when it is taken."""

    name: str
    bit: int
    forbidden: int


def _closure(chains: tuple[tuple[str, ...], ...]) -> dict[str, set[str]]:
    """For each class, all classes that come before it."""
    before: dict[str, set[str]] = {}
    for chain in chains:
        for name in chain:
            before.setdefault(name, set())
        for outer, inner in pairwise(chain):
            before[inner].add(outer)
    changed = True
    while changed:
        changed = False
        for outers in before.values():
            grown = outers.union(*(before[outer] for outer in outers))
            if len(grown) > len(outers):
                outers |= grown
                changed = True
    return before


def lock_classes(chains: tuple[tuple[str, ...], ...]) -> dict[str, LockClass]:
    """Every kind of lock that the chains name; ValueError if they go round in a circle."""
    before = _closure(chains)
    cycle = [name for name, outers in before.items() if name in outers]
    if cycle:
        raise ValueError(f"the lock order has a cycle through {', '.join(cycle)}")
    bits = {name: 1 << index for index, name in enumerate(before)}
    everything = sum(bits.values())
    return {
        name: LockClass(name, bits[name], everything & ~sum(bits[outer] for outer in outers))
        for name, outers in before.items()
    }


LOCK_CLASSES: dict[str, LockClass] = lock_classes(CHAINS)
