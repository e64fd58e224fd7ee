"""The order of locks is data: readable, without a cycle, and what the kernel's comments say."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hwpoison.mm.lockorder import CHAINS, LOCK_CLASSES, lock_classes


def allowed(outer: str, inner: str) -> bool:
    """May ``inner`` be taken while ``outer`` is held?"""
    return not LOCK_CLASSES[outer].bit & LOCK_CLASSES[inner].forbidden


def test_the_table_has_no_cycle() -> None:
    """By walking: from no class do the chains lead back to it."""
    after: dict[str, set[str]] = {}
    for chain in CHAINS:
        for outer, inner in pairwise(chain):
            after.setdefault(outer, set()).add(inner)
    for start in LOCK_CLASSES:
        reached, todo = set[str](), [start]
        while todo:
            for name in after.get(todo.pop(), ()):
                assert name != start
                if name not in reached:
                    reached.add(name)
                    todo.append(name)


def test_a_cycle_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cycle through a, b"):
        lock_classes((("a", "b"), ("b", "a")))


def test_a_lock_may_not_be_taken_twice_or_with_its_own_kind() -> None:
    assert not any(allowed(name, name) for name in LOCK_CLASSES)


def test_no_two_locks_may_be_taken_both_ways_round() -> None:
    both = [(a, b) for a in LOCK_CLASSES for b in LOCK_CLASSES if allowed(a, b) and allowed(b, a)]
    assert both == []


@pytest.mark.parametrize(
    "chain",
    [
        # mm/rmap.c
        "i_rwsem mmap_lock invalidate_lock folio_lock i_mmap_rwsem anon_vma ptl swap_lock i_pages lru_lock",
        # mm/filemap.c
        "i_mmap_rwsem swap_lock i_pages",
        "i_rwsem invalidate_lock i_mmap_rwsem",
        "mmap_lock i_mmap_rwsem ptl i_pages",
        "mmap_lock invalidate_lock folio_lock",
        # mm/memory-failure.c
        "mf_mutex folio_lock i_mmap_rwsem ptl",
        "mf_mutex folio_lock anon_vma ptl",
        "mf_mutex mmap_lock ptl",
        "mf_mutex pcp_batch_high_lock zone_lock",
        "mf_mutex folio_lock siglock",
        "folio_lock i_pages lru_lock",
    ],
)
def test_the_orders_of_the_kernels_comments_hold_and_their_reverses_do_not(chain: str) -> None:
    names = chain.split()
    for number, outer in enumerate(names):
        for inner in names[number + 1 :]:
            assert allowed(outer, inner), f"{inner} inside {outer}"
            assert not allowed(inner, outer), f"{outer} inside {inner}"
