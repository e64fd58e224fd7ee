"""How many of the pages without a flag are no memory of the kernel's."""

from __future__ import annotations

import pytest

from hwpoison.forecast.unflagged import ZONEINFO, Zones, read_zones, unflagged_note

from .conftest import MadeHost

TWO_ZONES = """\
Node 0, zone      DMA
  pages free     3840
        spanned  4095
        present  3998
        managed  3840
Node 0, zone   Normal
        spanned  100000
        present  90000
        managed  60000
"""


def test_zones_are_added_up(made: MadeHost) -> None:
    made.text(ZONEINFO, TWO_ZONES)
    assert read_zones(made.host) == Zones(present=93998, managed=63840)


def test_without_zoneinfo_nothing_is_said(made: MadeHost) -> None:
    assert read_zones(made.host) is None
    assert unflagged_note(None, 10, 5, 0, 0) is None


def test_a_file_that_says_nothing_is_no_zone(made: MadeHost) -> None:
    made.text(ZONEINFO, "nothing of interest\n")
    assert read_zones(made.host) is None


@pytest.mark.parametrize(
    ("unflagged", "nopage", "reserved", "words"),
    [
        (1000, 0, 0, ("about 700 ", "100 holes", "600 not managed", "other 300 ", "100.0 %")),
        (1000, 100, 50, ("about 550 ", "0 holes", "550 not managed", "other 450 ")),
        (50, 0, 0, ("about 50 ", "50 holes", "0 not managed", "other 0 ", "0.0 %")),
    ],
)
def test_holes_and_unmanaged_pages_are_taken_off(
    unflagged: int, nopage: int, reserved: int, words: tuple[str, ...]
) -> None:
    note = unflagged_note(Zones(present=900, managed=300), 1000, unflagged, nopage, reserved)
    assert note is not None
    for word in words:
        assert word in note


def test_there_is_no_note_about_no_pages() -> None:
    assert unflagged_note(Zones(900, 300), 1000, 0, 0, 0) is None
