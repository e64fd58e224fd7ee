"""A planted page shows what the host's page shows, on a machine whose books balance."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.forecast.conditions import VARIANTS
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.kinds import SEVERAL, Kind
from hwpoison.forecast.plant import NotReproduced, Situation, User, shown, some_users
from hwpoison.forecast.recipes import RECIPES, recipes_for

from .conftest import Builder

LIST = pg.UPTODATE | pg.LRU


def test_the_planted_page_shows_what_was_asked_for(build: Builder, example: Kind) -> None:
    assert shown(build(example)) == example


def test_the_machine_of_a_plant_balances(build: Builder, example: Kind) -> None:
    vm = build(example).vm
    vm.disk.release()  # the books are of quiet machines: no write may be under way
    assert vm.check() == []


def test_what_proc_does_not_show_does_not_show(build: Builder, example: Kind) -> None:
    for variant in VARIANTS:
        try:
            other = build(example, variant.of(Situation()))
        except NotReproduced:
            continue
        assert shown(other) == example, variant.when


def test_every_recipe_is_needed_for_some_example_or_for_a_page_that_shows_nothing() -> None:
    used = {recipe.what for kind in (*EXAMPLES, Kind(0)) for recipe in recipes_for(kind.flags)}
    assert used | {"it was read ahead from swap"} == {recipe.what for recipe in RECIPES}


def test_users_of_a_memory_page_really_share_it(build: Builder) -> None:
    page = build(Kind(LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP, SEVERAL), users=some_users(7))
    assert page.frame.mapcount == 7
    assert len({task.pid for task, _vpn, _user in page.users}) == 7


def test_a_process_that_maps_a_file_page_twice_is_one_process(build: Builder) -> None:
    users = (User(4, address=0x1000), User(4, address=0x9000), User(5, populated=False, address=0x1000))
    page = build(Kind(LIST | pg.MMAP, SEVERAL), users=users)
    assert page.frame.mapcount == 2
    assert len({task.pid for task, _vpn, _user in page.users}) == 2


@pytest.mark.parametrize(
    ("flags", "last"),
    [
        (LIST, False),
        (LIST | pg.DIRTY, True),
        (LIST | pg.PRIVATE, False),
        (pg.LRU | pg.PRIVATE, False),
        (LIST | pg.SWAPBACKED | pg.DIRTY, True),
        (LIST | pg.SWAPBACKED | pg.ANON | pg.SWAPCACHE, False),
        (LIST | pg.SWAPBACKED | pg.ANON | pg.SWAPCACHE | pg.DIRTY, True),
        (LIST | pg.WRITEBACK, True),
        (pg.BUDDY, False),
        (pg.SLAB, False),
    ],
)
def test_it_is_known_whether_the_contents_exist_elsewhere(build: Builder, flags: int, last: bool) -> None:
    assert build(Kind(flags)).last_copy is last


def test_a_free_page_cannot_be_held(build: Builder) -> None:
    with pytest.raises(NotReproduced, match="free"):
        build(Kind(pg.BUDDY), Situation(held=True))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind(LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP | pg.PRIVATE, 1), "no page of the model has PRIVATE"),
        (Kind(LIST | pg.MLOCKED | pg.MMAP, 1), "every such page of the model has UNEVICTABLE as well"),
    ],
)
def test_flags_that_never_go_together_are_named(build: Builder, kind: Kind, words: str) -> None:
    with pytest.raises(NotReproduced, match=words):
        build(kind)
