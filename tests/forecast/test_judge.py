"""What the error comes to is seen, not known: who is hit, what is lost, who is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, SiCode
from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.judge import Seen, judge
from hwpoison.forecast.kinds import SEVERAL, Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.plant import NotReproduced, Planted, Situation, Wanted, plant, some_users
from hwpoison.forecast.recipes import recipes_for
from hwpoison.mm.memory import load
from hwpoison.mm.task import Signalled

LIST = pg.UPTODATE | pg.LRU
MEMORY = LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP
TMPFS = LIST | pg.SWAPBACKED


def planted(kind: Kind, situation: Situation = Situation()) -> Planted:
    for recipe in recipes_for(kind.flags):
        try:
            return plant(recipe, Wanted(kind, some_users(kind.mappers), situation, NEWEST.traits))
        except NotReproduced:
            continue
    raise NotReproduced(f"no recipe for {kind}")


@pytest.mark.parametrize("kind", EXAMPLES, ids=str)
def test_data_is_called_lost_only_if_nobody_gets_it_back(kind: Kind) -> None:
    """By other means than the judge's: the same page, struck, and then read by its users."""
    page = planted(kind)
    verdict, _seen = judge(page, NEWEST)
    again = planted(kind)
    judge_only_strikes = Oracle(NEWEST)  # the handler alone, without the judge's touching
    from hwpoison.failure import inject
    from hwpoison.failure.handler import MemoryFailure

    inject.deferred(MemoryFailure(again.vm, judge_only_strikes.profile), again.frame.pfn)
    contents = []
    for task, vpn, _user in again.users:
        try:
            contents.append(load(task, vpn))
        except Signalled:
            contents.append("")
    if again.content is not None and contents and not again.vm.exposures:
        assert (verdict.loss is not None) == (again.content not in contents)
