"""Pages of the kernel itself: nobody maps them, and nobody can be told."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.mm.machine import Machine
from hwpoison.mm.slab import MARKS, give_up_kernel_page, kernel_page


@pytest.mark.parametrize("kind", MARKS)
def test_a_page_of_the_kernel_is_held_marked_and_on_no_list(vm: Machine, kind: str) -> None:
    page = kernel_page(vm, kind)
    vm.lru.add_drain_all()
    assert page.refcount == 1
    assert page.flags == MARKS[kind]
    assert page.mapping is None


def test_unmarked_pages_cannot_be_told_from_each_other(vm: Machine) -> None:
    """Neither by the handler nor in /proc."""
    assert MARKS["vmalloc"] == MARKS["driver"] == 0


def test_nothing_is_done_about_a_bad_one(vm: Machine) -> None:
    page = kernel_page(vm, "reserved")
    response = give_up_kernel_page(page)
    assert (response.result, response.kept) == (MfResult.IGNORED, None)
    assert page.flags == pg.RESERVED
    assert page.refcount == 1
