"""Real pages with their real users: the victims are named as the host names them."""

from __future__ import annotations

import mmap
import os

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Consequence, PageLine, Setting
from hwpoison.abi.pagemap import present
from hwpoison.abi.problems import Problem, WrongUse
from hwpoison.abi.results import MfResult
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.kinds import SEVERAL, Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.pages import forecast_pages, users_of
from hwpoison.host.frames import FrameState
from hwpoison.host.owners import Mapping, process_frames
from hwpoison.host.proc import Host

from .conftest import PAGE, MadeHost

SETTING = Setting("test", handler=True, handler_evidence="", profile=NEWEST.name, profile_reason="")
MEMORY = pg.UPTODATE | pg.LRU | pg.ANON | pg.SWAPBACKED | pg.MMAP
SHARED = pg.UPTODATE | pg.DIRTY | pg.LRU | pg.SWAPBACKED | pg.MMAP
PRIVATE_AREA = "10000-12000 rw-p 00000000 00:00 0"
SHM_AREA = "20000-21000 rw-s 00000000 00:01 77 /dev/shm/segment"
FRAMES = [pg.RESERVED, MEMORY, SHARED, MEMORY, pg.BUDDY]
COUNTS = [0, 1, 1, 2, 0]


@pytest.fixture
def host(made: MadeHost) -> Host:
    made.frames(FRAMES, COUNTS)
    made.process(
        11, "database", [PRIVATE_AREA, SHM_AREA], {0x10000: present(1), 0x20000: present(2, file=True)}
    )
    made.process(12, "reader", [PRIVATE_AREA, SHM_AREA], {0x11000: present(3)})
    return made.host


def page(host: Host, oracle: Oracle, pfn: int) -> PageLine:
    (line,) = forecast_pages(host, oracle, SETTING, [pfn]).pages
    return line


def test_the_process_that_has_the_memory_is_the_victim_at_its_own_address(host: Host, newest: Oracle) -> None:
    line = page(host, newest, 1)
    assert line.answer.verdict is not None
    assert line.answer.verdict.pfn == 1
    (victim,) = line.answer.verdict.victims
    assert (victim.pid, victim.comm, victim.address) == (11, "database", 0x10000)
    assert line.answer.consequence is Consequence.ONE_PROCESS


def test_who_only_covers_the_place_of_a_file_page_is_a_victim_too(host: Host, newest: Oracle) -> None:
    line = page(host, newest, 2)
    assert [(p.pid, p.populated) for p in line.places] == [(11, True), (12, False)]
    assert line.answer.verdict is not None
    assert {(v.pid, v.comm, v.address) for v in line.answer.verdict.victims} == {
        (11, "database", 0x20000),
        (12, "reader", 0x20000),
    }


def test_users_that_were_counted_but_not_found_are_counted_as_victims_without_a_name(
    host: Host, newest: Oracle
) -> None:
    line = page(host, newest, 3)
    assert line.answer.consequence is Consequence.SEVERAL_PROCESSES
    assert line.answer.verdict is not None
    assert [victim.pid for victim in line.answer.verdict.victims] == [12]
    assert line.answer.conditions[-1] == "1 more that it hits could not be found on the host: not named here"


def test_a_free_page_has_no_victims(host: Host, newest: Oracle) -> None:
    line = page(host, newest, 4)
    assert line.places == ()
    assert line.answer.verdict is not None
    assert (line.answer.verdict.result, line.answer.verdict.victims) == (MfResult.RECOVERED, ())


def test_pages_come_in_the_order_asked_for(host: Host, newest: Oracle) -> None:
    assert [line.pfn for line in forecast_pages(host, newest, SETTING, [4, 1, 0]).pages] == [4, 1, 0]


@pytest.mark.parametrize("pfn", [5, 10**9, -1])
def test_a_frame_that_the_host_does_not_have_is_wrong_use(host: Host, newest: Oracle, pfn: int) -> None:
    with pytest.raises(WrongUse, match=str(pfn)):
        page(host, newest, pfn)


def test_a_process_that_vanishes_meanwhile_is_passed_over(host: Host, newest: Oracle) -> None:
    os.unlink(host.path("proc/11/pagemap"))
    line = page(host, newest, 1)
    assert line.places == ()
    assert "could not be found" in line.answer.conditions[-1]


def test_a_process_without_a_page_in_memory_is_not_asked_for_swap(
    host: Host, made: MadeHost, newest: Oracle
) -> None:
    swapped = MEMORY & ~pg.MMAP | pg.SWAPCACHE | pg.DIRTY
    made.frames([swapped], [0])
    line = page(host, newest, 0)
    assert line.answer.consequence is Consequence.ONE_PROCESS  # whoever has the swap entry
    assert line.answer.verdict is not None
    assert line.answer.verdict.victims == ()
    assert "not named here" in line.answer.conditions[-1]


@pytest.mark.parametrize(
    ("count", "found", "mappers", "users"),
    [
        (1, 1, 1, 1),
        (3, 1, SEVERAL, 3),
        (0, 0, 1, 1),
        (1, 2, SEVERAL, 2),
        (None, 0, None, 1),
        (None, 2, SEVERAL, 2),
    ],
)
def test_counted_and_found_users_are_brought_together(
    count: int | None, found: int, mappers: int | None, users: int
) -> None:
    mappings = [Mapping(pid, "x", PAGE, False, None, True) for pid in range(1, found + 1)]
    kind, all_users = users_of(FrameState(7, MEMORY, count), mappings)
    assert (kind, len(all_users)) == (Kind(MEMORY, mappers), users)


def test_a_page_of_this_very_process_names_it_if_this_machine_can_be_read(newest: Oracle) -> None:
    with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        try:
            frames = process_frames(Host(), os.getpid())
            lines = forecast_pages(Host(), newest, SETTING, frames.pfn[:50].tolist()).pages
        except Problem as problem:
            pytest.skip(str(problem))
    assert all(os.getpid() in {place.pid for place in line.places} for line in lines if line.flags & pg.MMAP)
