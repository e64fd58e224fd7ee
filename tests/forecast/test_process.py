"""All pages of one process, and what it would meet itself."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Consequence, Setting
from hwpoison.abi.pagemap import present, swapped
from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.kinds import Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.process import forecast_process, suffering

from .conftest import MadeHost

SETTING = Setting("test", handler=True, handler_evidence="", profile=NEWEST.name, profile_reason="")
LIST = pg.UPTODATE | pg.LRU
MEMORY = LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP
AREA = "10000-16000 rw-p 00000000 00:00 0"


@pytest.fixture
def process(made: MadeHost) -> MadeHost:
    """Two pages of memory, one of them mapped twice; one of a file; one in swap; one never touched."""
    made.frames([pg.RESERVED, MEMORY, MEMORY, LIST | pg.MMAP], [0, 1, 2, 9])
    made.process(
        5,
        "worker",
        [AREA],
        {
            0x10000: present(1),
            0x11000: present(2),
            0x12000: present(2),
            0x13000: present(3, file=True),
            0x14000: swapped(0, 4),
        },
    )
    return made


def test_each_page_of_the_process_counts_once(process: MadeHost, newest: Oracle) -> None:
    found = forecast_process(process.host, newest, SETTING, 5)
    assert (found.pid, found.comm) == (5, "worker")
    assert {(line.flags, line.mappers): line.pages for line in found.kinds} == {
        (MEMORY, 1): 1,
        (MEMORY, 2): 1,
        (LIST | pg.MMAP, 2): 1,
    }
    assert (found.swapped, found.not_present) == (1, 1)


def test_what_the_process_meets_is_added_up(process: MadeHost, newest: Oracle) -> None:
    found = forecast_process(process.host, newest, SETTING, 5)
    assert dict(found.suffers) == {"SIGBUS BUS_MCEERR_AR on access": 2, "nothing": 1}


@pytest.mark.parametrize(
    ("kind", "meets"),
    [
        (Kind(MEMORY, 1), "SIGBUS BUS_MCEERR_AR on access"),
        (Kind(LIST | pg.MMAP, 1), "nothing"),
        (Kind(LIST | pg.DIRTY), "nothing itself, but its file loses data"),
        (Kind(pg.RESERVED), Consequence.MACHINE.label),
        (Kind(0), Consequence.UNKNOWN.label),
    ],
)
def test_what_a_user_of_such_a_page_meets(kind: Kind, meets: str, newest: Oracle) -> None:
    assert suffering(newest.of_kind(kind)) == meets


def test_a_process_that_does_not_exist_is_wrong_use(process: MadeHost, newest: Oracle) -> None:
    with pytest.raises(WrongUse, match="no process 6"):
        forecast_process(process.host, newest, SETTING, 6)


def test_a_process_that_ends_while_it_is_read_is_told(process: MadeHost, newest: Oracle) -> None:
    process.process(7, "short", [AREA])
    process.host.path("proc/7/pagemap").write_bytes(b"")
    with pytest.raises(NotPossible, match="process 7 ended"):
        forecast_process(process.host, newest, SETTING, 7)


def test_a_kernel_thread_has_no_pages(process: MadeHost, newest: Oracle) -> None:
    process.process(2, "kthreadd", [])
    found = forecast_process(process.host, newest, SETTING, 2)
    assert (found.kinds, found.suffers) == ((), ())
