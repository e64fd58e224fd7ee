"""The entries of /proc/PID/pagemap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwpoison.abi import pagemap

PFN = st.integers(0, (1 << 55) - 1)


def test_the_bits_are_those_of_the_documentation() -> None:
    """Documentation/admin-guide/mm/pagemap.rst."""
    bits = {
        "SOFT_DIRTY": 55,
        "EXCLUSIVE": 56,
        "UFFD_WP": 57,
        "GUARD": 58,
        "FILE": 61,
        "SWAPPED": 62,
        "PRESENT": 63,
    }
    assert {name: getattr(pagemap, name) for name in bits} == {name: 1 << bit for name, bit in bits.items()}
    assert pagemap.PFN_MASK == (1 << 55) - 1


@given(PFN, st.booleans())
def test_a_present_entry_gives_its_frame(pfn: int, file: bool) -> None:
    entry = pagemap.present(pfn, file=file)
    assert pagemap.pfn_of(entry) == pfn
    assert bool(entry & pagemap.FILE) == file
    assert not entry & pagemap.SWAPPED
    assert entry < 1 << 64


@given(st.integers(0, 31), st.integers(0, (1 << 50) - 1), st.booleans())
def test_a_swapped_entry_gives_type_and_offset_and_no_frame(swap_type: int, offset: int, file: bool) -> None:
    entry = pagemap.swapped(swap_type, offset, file=file)
    assert pagemap.pfn_of(entry) is None
    assert entry & pagemap.SWAP_TYPE_MASK == swap_type
    assert (entry & pagemap.PFN_MASK) >> pagemap.SWAP_OFFSET_SHIFT == offset
    assert bool(entry & pagemap.FILE) == file


def test_an_empty_entry_is_nowhere() -> None:
    assert pagemap.pfn_of(0) is None


def test_flags_beside_the_frame_do_not_change_it() -> None:
    entry = pagemap.present(42) | pagemap.SOFT_DIRTY | pagemap.EXCLUSIVE | pagemap.UFFD_WP | pagemap.GUARD
    assert pagemap.pfn_of(entry) == 42
