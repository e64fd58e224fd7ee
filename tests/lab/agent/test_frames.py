"""Page table entries in the words of the model, made up and of this process."""

from __future__ import annotations

import ctypes
import os

import pytest

from hwpoison.abi import pagemap as pm
from hwpoison.lab.agent import frames
from hwpoison.lab.agent.problems import EndedEarly

POISON_TYPES = {"6.1": 26, "6.12": 27, "7.3": 24, "marker": 31}
"""Swap types of poison entries, seen on these kernels."""


@pytest.mark.parametrize("swap_type", POISON_TYPES.values(), ids=POISON_TYPES)
def test_a_swap_type_beyond_all_real_ones_is_poison(swap_type: int) -> None:
    assert frames.entry_view(pm.swapped(swap_type, 0x1234)) == {"entry": "poison"}
    assert frames.poisoned(pm.swapped(swap_type, 0x1234, file=True)) == 0x1234


def test_other_entries_have_their_names() -> None:
    assert frames.entry_view(pm.swapped(0, 7)) == {"entry": "swap"}
    assert frames.entry_view(0) == {"entry": "none"}
    assert [frames.poisoned(word) for word in (0, pm.swapped(0, 7), pm.present(7))] == [None] * 3


def test_two_swap_entries_are_told_apart_by_their_slot() -> None:
    assert frames.swap_slot(pm.swapped(0, 7)) == frames.swap_slot(pm.swapped(0, 7) | pm.SOFT_DIRTY)
    assert frames.swap_slot(pm.swapped(0, 7)) != frames.swap_slot(pm.swapped(0, 8))
    assert [frames.swap_slot(word) for word in (0, pm.swapped(26, 7))] == [None, None]


def test_a_present_entry_says_whether_its_frame_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "is_bad", lambda pfn: pfn == 5)
    assert frames.entry_view(pm.present(5)) == {"entry": "present", "bad": "yes"}
    assert frames.entry_view(pm.present(6)) == {"entry": "present", "bad": "no"}


def test_the_entry_of_memory_in_use_is_present() -> None:
    memory = ctypes.create_string_buffer(b"used", 64)
    assert frames.entry(os.getpid(), ctypes.addressof(memory)) & pm.PRESENT


def test_a_process_that_is_gone_ends_the_run() -> None:
    with pytest.raises(EndedEarly, match="no memory any more"):
        frames.entry(1 << 22, 0)
