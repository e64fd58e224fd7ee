"""The recipes by what they are for, and the reasons by what they are not for."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.forecast.recipes import NOT_MODELLED, RECIPES, recipes_for, why_not


def test_no_recipe_or_reason_asks_for_a_flag_outside_its_mask() -> None:
    for mask, value in [(r.mask, r.value) for r in RECIPES] + [(m, v) for m, v, _why in NOT_MODELLED]:
        assert value & ~mask == 0


@pytest.mark.parametrize("flags", [pg.BUDDY, pg.SLAB, pg.PGTABLE, pg.OFFLINE, pg.RESERVED, pg.HWPOISON])
def test_a_page_with_an_owner_has_one_recipe(flags: int) -> None:
    assert len(recipes_for(flags)) == 1


def test_a_page_without_any_mark_can_be_of_three_sorts() -> None:
    assert len(recipes_for(0)) == 3


def test_there_is_no_reason_against_a_page_that_is_well_known() -> None:
    assert why_not(pg.UPTODATE | pg.LRU | pg.DIRTY) is None


def test_a_flag_of_an_unknown_kernel_is_named() -> None:
    assert why_not(pg.LRU | 1 << 60) == "it carries BIT60, which no kernel known here has"
