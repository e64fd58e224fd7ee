"""The form of an answer, and the first thing most of them do."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import put_page
from hwpoison.mm.response import delete_from_lru_cache


@pytest.mark.parametrize("mark", [0, pg.ACTIVE, pg.UNEVICTABLE])
def test_a_page_is_taken_off_its_list_for_ever(vm: Machine, mark: int) -> None:
    page = vm.zone.alloc_pages()
    vm.lru.add(page)
    vm.lru.add_drain_all()
    page.flags |= mark
    assert delete_from_lru_cache(page)
    assert page.flags == 0
    assert page.refcount == 1, "the reference of the isolation is given back"
    assert page.pfn not in vm.lru.pages
    assert not delete_from_lru_cache(page)
    put_page(page)
