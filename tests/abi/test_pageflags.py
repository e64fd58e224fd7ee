"""Page flags: the bits of /proc/kpageflags and the letters of page-types."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg

# include/uapi/linux/kernel-page-flags.h, and include/linux/kernel-page-flags.h from 32 on: first bit, names.
HEADERS = """
0 LOCKED ERROR REFERENCED UPTODATE DIRTY LRU ACTIVE SLAB WRITEBACK RECLAIM BUDDY MMAP ANON SWAPCACHE
14 SWAPBACKED COMPOUND_HEAD COMPOUND_TAIL HUGE UNEVICTABLE HWPOISON NOPAGE KSM THP OFFLINE ZERO_PAGE IDLE
26 PGTABLE
32 RESERVED MLOCKED OWNER_2 PRIVATE PRIVATE_2 OWNER_PRIVATE ARCH UNCACHED SOFTDIRTY ARCH_2 ARCH_3
"""
BITS = {
    bit: name
    for first, *names in map(str.split, HEADERS.strip().splitlines())
    for bit, name in enumerate(names, int(first))
}


def test_every_bit_has_the_kernels_name() -> None:
    assert {flag.bit: flag.name for flag in pg.PAGE_FLAGS} == BITS


def test_flags_are_listed_in_the_order_of_their_bits() -> None:
    bits = [flag.bit for flag in pg.PAGE_FLAGS]
    assert bits == sorted(set(bits))


@pytest.mark.parametrize("flag", pg.PAGE_FLAGS, ids=lambda flag: flag.name)
def test_each_flag_is_a_constant_of_its_own_name(flag: pg.PageFlag) -> None:
    assert getattr(pg, flag.name) == flag.mask == 1 << flag.bit
    assert pg.BY_NAME[flag.name] is flag
    assert flag.meaning


def test_the_letters_are_those_of_page_types() -> None:
    """tools/mm/page-types.c: bits 0 to 26, then those from 32 on that it knows."""
    letters = "".join(flag.letter for flag in pg.PAGE_FLAGS)
    assert letters.startswith("LERUDlASWIBMasbHTGuXnxtozig")
    assert letters[27:34] == "rmdPpOh"


def test_what_the_kernel_works_out_is_told_from_what_it_copies() -> None:
    """fs/proc/page.c stable_page_flags()."""
    synthetic = {flag.name for flag in pg.PAGE_FLAGS if flag.synthetic}
    expected = (
        "SLAB BUDDY MMAP ANON SWAPCACHE COMPOUND_TAIL HUGE NOPAGE KSM THP OFFLINE ZERO_PAGE IDLE PGTABLE"
    )
    assert synthetic == {*expected.split(), "SOFTDIRTY"}
    assert pg.KNOWN & ~sum(pg.BY_NAME[name].mask for name in synthetic) == pg.RAW


def test_all_masks_together_are_what_is_known() -> None:
    assert sum(1 << bit for bit in BITS) == pg.KNOWN


@given(st.sets(st.sampled_from(pg.PAGE_FLAGS)))
def test_a_word_and_its_names_say_the_same(flags: set[pg.PageFlag]) -> None:
    word = sum(flag.mask for flag in flags)
    names = pg.names(word)
    assert pg.parse(names) == word
    assert [pg.BY_NAME[name].bit for name in names] == sorted(flag.bit for flag in flags)


@given(st.integers(0, (1 << 64) - 1))
@example(1 << 63)
@example(0)
def test_every_bit_of_any_word_is_named(word: int) -> None:
    names = pg.names(word)
    assert len(names) == len(set(names)) == word.bit_count()
    assert all(f"BIT{bit}" in names for bit in range(64) if word >> bit & 1 and bit not in BITS)


@given(st.integers(0, (1 << 64) - 1))
def test_a_word_has_one_letter_or_gap_for_each_flag(word: int) -> None:
    letters = pg.letters(word)
    assert len(letters) == len(pg.PAGE_FLAGS)
    assert [letter != "_" for letter in letters] == [bool(word & flag.mask) for flag in pg.PAGE_FLAGS]


def test_a_name_that_is_no_flag_is_refused() -> None:
    with pytest.raises(KeyError, match="DIRTTY"):
        pg.parse(["LRU", "DIRTTY"])
