"""A small forecast of each sort, put together by hand: reports only read, so nothing needs to be true."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO

import pytest
from rich.console import Console

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import (
    Answer,
    Consequence,
    HostForecast,
    KindLine,
    PageLine,
    PagesForecast,
    Place,
    ProcessForecast,
    Setting,
)
from hwpoison.abi.records import Verdict, Victim
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import SiCode, Signal

LIST = pg.UPTODATE | pg.LRU
HIT = Victim(42, "da[ta]base", 0x7F00001000, Signal.SIGBUS, SiCode.BUS_MCEERR_AR, "on access")
FREE = Answer(Verdict(1, PageType.BUDDY, MfResult.RECOVERED, 0, reason="given up"), Consequence.NOTHING)
LOST = Answer(
    Verdict(
        9,
        PageType.DIRTY_LRU,
        MfResult.RECOVERED,
        0,
        victims=(HIT,),
        loss="what was new",
        told=("EIO from fsync(2)",),
        durable=True,
    ),
    Consequence.DATA_LOST,
    ("Failed instead of Recovered if pinned",),
)
DARK = Answer(None, Consequence.UNKNOWN, ("large folios are not in the model yet",))
STOP = Answer(Verdict(3, None, None, 0, stops="panic"), Consequence.MACHINE)

SETTING = Setting("6.12.3", True, "seen", "6.12", "by its release")
KINDS = (
    KindLine(pg.BUDDY, 0, 700, FREE),
    KindLine(LIST | pg.THP | pg.COMPOUND_TAIL, 0, 200, DARK),
    KindLine(LIST | pg.DIRTY | pg.MMAP, 1, 99, LOST),
    KindLine(pg.SLAB, 0, 1, STOP),
)
HOST = HostForecast(SETTING, 1000, KINDS, ("A note.",))
PROCESS = ProcessForecast(SETTING, 42, "da[ta]base", KINDS, (("nothing", 901), ("SIGBUS", 99)), 7, 8)
PAGE = PageLine(
    9, LIST | pg.DIRTY | pg.MMAP, 1, (Place(42, "da[ta]base", 0x7F00001000, "/srv/[data]", True),), LOST
)
PAGES = PagesForecast(SETTING, (PAGE, PageLine(10, 0, None, (), DARK)))


@dataclass
class Screen:
    """A console of fixed width, and what it shows."""

    console: Console

    @property
    def text(self) -> str:
        file = self.console.file
        assert isinstance(file, StringIO)
        return file.getvalue()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines()]


@pytest.fixture
def screen() -> Screen:
    return Screen(Console(file=StringIO(), width=100, highlight=False))
