from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pf
from hwpoison.abi.problems import WrongUse
from hwpoison.host import tally
from hwpoison.host.tally import ALL_BITS, UNKNOWN_COUNT, PairTally


def colliding(slot: int, how_many: int) -> list[int]:
    """Words that hash to this slot, with no bit where the counts are kept (cap 2 or less)."""
    inverse = pow(int(tally._MULTIPLIER), -1, 1 << 64)
    found: list[int] = []
    product = slot << 48
    while len(found) < how_many:
        product += 1
        word = product * inverse % (1 << 64)
        if word and not word >> 62:
            found.append(word)
    return found


COLLIDING = colliding(77, 12)
AT_ZERO = colliding(0, 4)
USUAL = [0, pf.BUDDY, pf.LRU | pf.UPTODATE, pf.LRU | pf.ANON | pf.MMAP, pf.RESERVED, 1 << 61]
words_of_flags = st.one_of(
    st.sampled_from(USUAL), st.sampled_from(COLLIDING), st.sampled_from(AT_ZERO), st.integers(0, ALL_BITS)
)
# Flags, count, and how often the pair is repeated: both the counting by runs and by pages must be met.
runs = st.lists(
    st.tuples(words_of_flags, st.one_of(st.integers(0, 4), st.integers(0, ALL_BITS)), st.integers(1, 40)),
    max_size=60,
)


def naive(flags: list[int], counts: list[int], mask: int, cap: int) -> Counter[tuple[int, int]]:
    padded = counts + [None] * (len(flags) - len(counts))
    return Counter(
        (flag & mask, UNKNOWN_COUNT if count is None else min(count, cap))
        for flag, count in zip(flags, padded, strict=True)
    )


def count(blocks: list[tuple[list[int], list[int]]], mask: int, cap: int) -> Counter[tuple[int, int]]:
    counter = PairTally(mask, cap)
    for flags, counts in blocks:
        counter.add(np.array(flags, np.uint64), np.array(counts, np.uint64))
    return counter.kinds()


@given(
    blocks=st.lists(runs.filter(len), max_size=4),
    mask=st.sampled_from([ALL_BITS, 0, pf.KNOWN, pf.LRU | pf.ANON]),
    cap=st.sampled_from([0, 1, 2, 3, 255, tally.LARGEST_CAP]),
    known=st.floats(0, 1),
)
def test_every_page_is_counted_once_whatever_the_words(
    blocks: list[list[tuple[int, int, int]]], mask: int, cap: int, known: float
) -> None:
    given_blocks = []
    expected: Counter[tuple[int, int]] = Counter()
    for block in blocks:
        flags = [flag for flag, _, pages in block for _ in range(pages)]
        counts = [amount for _, amount, pages in block for _ in range(pages)]
        counts = counts[: int(len(counts) * known)]
        given_blocks.append((flags, counts))
        expected += naive(flags, counts, mask, cap)
    assert count(given_blocks, mask, cap) == expected


@pytest.mark.parametrize("repeat", [1, 50])
def test_words_that_share_a_slot_are_counted_apart(repeat: int) -> None:
    flags = [word for word in COLLIDING for _ in range(repeat)]
    block = (flags, [0] * len(flags))
    assert count([block, block, block], ALL_BITS, 2) == {(word, 0): 3 * repeat for word in COLLIDING}


def test_no_word_takes_the_slot_of_pages_without_any_flag() -> None:
    block = ([0, AT_ZERO[0], 0, AT_ZERO[1]], [0] * 4)
    expected = {(0, 0): 4, (AT_ZERO[0], 0): 2, (AT_ZERO[1], 0): 2}
    assert count([block, block], ALL_BITS, 2) == expected


def test_a_flag_where_the_counts_are_kept_is_not_taken_for_a_count() -> None:
    flags = [1 << 62, 0, 1 << 63, 0, 3 << 62]
    assert count([(flags, [0, 1, 0, 2, 1])], ALL_BITS, 2) == {
        (1 << 62, 0): 1,
        (0, 1): 1,
        (1 << 63, 0): 1,
        (0, 2): 1,
        (3 << 62, 1): 1,
    }


def test_a_page_without_a_known_count_is_not_taken_for_one_mapped_often() -> None:
    assert count([([5, 5, 5], [9])], ALL_BITS, 2) == {(5, 2): 1, (5, UNKNOWN_COUNT): 2}


def test_nothing_given_is_nothing_counted() -> None:
    assert count([([], [])], ALL_BITS, 2) == {}


@pytest.mark.parametrize(("mask", "cap", "named"), [(-1, 2, "-0x1"), (1 << 64, 2, "mask"), (0, -1, "-1")])
def test_a_mask_or_cap_out_of_range_is_named(mask: int, cap: int, named: str) -> None:
    with pytest.raises(WrongUse, match=named):
        PairTally(mask, cap)
