"""A quick part of the race catalogue, every order of it; bench/bench_explore.py --races does the rest."""

from __future__ import annotations

import pytest

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.race import Race
from hwpoison.explore.search import Search, Status
from hwpoison.scenario.load import races, triples

QUICK = ("load", "fork", "exec", "exit", "unmap", "unpin", "hold", "again", "elsewhere", "read", "drop")
QUICK += ("soft-offline", "unpoison", "make-good", "offline", "unmerge")
BUDGET = 3_000
LARGE = ("thp", "small", "ext4-folio", "hugetlb", "hugetlbfs", "pool")
"""Victims of many pages take longer; these of their races have found mistakes in the model:"""
TELLING = ("hugetlb+fork", "hugetlb+store", "ext4-folio+reclaim", "hugetlbfs+sibling")
QUICK_TRIPLES = ("forked+unmap+fork", "anon+again+unpoison")
VICTIMS = list(dict.fromkeys(name.split("+")[0] for name in races()))


@pytest.mark.parametrize("victim", VICTIMS)
def test_no_order_breaks_a_promise_but_by_the_weaknesses_that_are_listed(victim: str) -> None:
    for name, scenario in races().items():
        struck, rival = name.split("+")
        if struck != victim or not (name in TELLING or (rival in QUICK and victim not in LARGE)):
            continue
        race = Race(scenario)
        explorer = Explorer(race)
        with explorer.open():
            result = Search(explorer, BUDGET).run("dpor")
        assert result.failures == [], f"{name}: hwpoison explore {name}"
        assert result.status is Status.EXHAUSTED, name
        assert {found.failure.known for found in result.known} == race.expected, name


@pytest.mark.parametrize("name", QUICK_TRIPLES)
def test_no_order_of_three_paths_breaks_one_either(name: str) -> None:
    explorer = Explorer(Race(triples()[name]))
    with explorer.open():
        result = Search(explorer, BUDGET).run("dpor")
    assert result.failures == [], f"{name}: hwpoison explore {name}"
    assert result.status is Status.EXHAUSTED
