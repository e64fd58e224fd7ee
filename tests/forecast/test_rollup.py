"""A whole host: every page of it is counted exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Consequence, Setting
from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.rollup import forecast_host
from hwpoison.host.proc import Host

from .conftest import MadeHost

SETTING = Setting("test", handler=True, handler_evidence="", profile=NEWEST.name, profile_reason="")
LIST = pg.UPTODATE | pg.LRU
ONE = Oracle(NEWEST)

flags = st.sampled_from(
    [0, pg.BUDDY, LIST, LIST | pg.MMAP | pg.ACTIVE, pg.SLAB | pg.ANON, pg.THP | LIST, 1 << 60]
)


@given(
    words=st.lists(st.tuples(flags, st.integers(0, 4)), min_size=1, max_size=50), missing=st.integers(0, 3)
)
def test_the_table_adds_up_to_the_entries_that_were_read(words: list[tuple[int, int]], missing: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "proc").mkdir()
        counts = [count for _flags, count in words][: max(0, len(words) - missing)]
        np.array([word for word, _count in words], np.uint64).tofile(root / "proc/kpageflags")
        np.array(counts, np.uint64).tofile(root / "proc/kpagecount")
        found = forecast_host(Host(root), ONE, SETTING)
    assert found.entries == len(words)
    assert sum(line.pages for line in found.kinds) == len(words)
    assert len({(line.flags, line.mappers) for line in found.kinds}) == len(found.kinds)
    assert [line.pages for line in found.kinds] == sorted((line.pages for line in found.kinds), reverse=True)


def test_pages_that_differ_in_nothing_that_matters_are_one_kind(made: MadeHost, newest: Oracle) -> None:
    made.frames([LIST | pg.MMAP, LIST | pg.MMAP | pg.ACTIVE | pg.REFERENCED], [2, 30])
    (line,) = forecast_host(made.host, newest, SETTING).kinds
    assert (line.pages, line.flags, line.mappers) == (2, LIST | pg.MMAP, 2)
    assert line.answer.consequence is Consequence.NOTHING


def test_a_host_without_map_counts_is_forecast_all_the_same(made: MadeHost, newest: Oracle) -> None:
    made.frames([LIST | pg.MMAP | pg.ANON | pg.SWAPBACKED])
    (line,) = forecast_host(made.host, newest, SETTING).kinds
    assert line.mappers is None
    assert any("nobody counted" in condition for condition in line.answer.conditions)


def test_a_flags_file_that_ends_within_an_entry_is_refused(made: MadeHost, newest: Oracle) -> None:
    made.frames([LIST, LIST])
    with made.host.path("proc/kpageflags").open("ab") as file:
        file.write(b"abc")
    with pytest.raises(WrongUse, match="3 bytes into an entry"):
        forecast_host(made.host, newest, SETTING)


def test_a_host_that_cannot_be_read_is_not_forecast(made: MadeHost, newest: Oracle) -> None:
    with pytest.raises(NotPossible, match="kpageflags"):
        forecast_host(made.host, newest, SETTING)
