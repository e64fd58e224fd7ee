"""Removing pages from the page cache: what the raw way breaks (R10), and that there is one way (R12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.page import Page
from hwpoison.mm.truncate import truncate_inode_folio

from .. import undone
from ..undone import Undone
from . import ways
from .rows import FILE, ROWS, TRUNCATE

RIVALS = {
    "load": "load m:0",
    "store": "store m:0 data=y",
    "read": "read fd:0",
    "write": "write fd:0 data=z",
    "truncate": "truncate f pages=0",
    "drop": "drop f",
    "fsync": "fsync fd",
    "pin": "pin m:0 as=p",
    "reclaim": "swapout m:0",
}


def row(rival: str, way: object) -> Undone:
    (r10,) = [row for row in ROWS if row.name == "R10"]
    steps = f"{FILE}load m:0\ntogether\n rival: {RIVALS[rival]}\n mce: inject m:0 via=sysfs\nend"
    known = ("stale-read", "touched-too-early")
    return replace(r10, steps=steps, patches=((f"{TRUNCATE}:give_up_clean_folio", way),), known=known)


@pytest.mark.parametrize("rival", RIVALS)
def test_r10_the_raw_removal_under_the_folio_lock_breaks_nothing(rival: str) -> None:
    outcome = undone.explore(row(rival, ways.removes_raw), "dpor")
    assert (outcome.word, outcome.failure) == ("exhausted", "")


def test_r10_without_the_lock_truncation_removes_the_page_as_well() -> None:
    outcome = undone.explore(row("truncate", ways.removes_raw_unlocked))
    assert outcome.failure.startswith("assertion: "), outcome


@pytest.mark.parametrize("step", ["truncate f pages=0", "punch f:0", "inject f:0 via=sysfs"])
def test_r12_truncation_holes_and_the_handler_remove_by_one_function(step: str) -> None:
    removed = []

    def counted(mapping: AddressSpace, page: Page) -> int:
        removed.append(page.index)
        return truncate_inode_folio(mapping, page)

    steps = f"file f fs=ext4\nopen fd file=f\nread fd:0\n{step}"
    patches = (("hwpoison.mm.truncate:truncate_inode_folio", counted),)
    done = undone.run(replace(row("load", ways.removes_raw), steps=steps, patches=patches))
    assert removed == [0]
    assert not done.run.outcome.broken
