"""A page type or a page state in plain words, from the tables and from runs of the handler."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse
from hwpoison.abi.results import PageType
from hwpoison.failure.profiles import PROFILES
from hwpoison.forecast.explain import NOT_MODELLED, explain, parse_flags

LIST = pg.UPTODATE | pg.LRU


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("LRU", pg.LRU),
        ("lru,dirty", pg.LRU | pg.DIRTY),
        ("UPTODATE LRU | mmap + ANON;SWAPBACKED", LIST | pg.MMAP | pg.ANON | pg.SWAPBACKED),
        ("___UDl_____M____________________________", LIST | pg.DIRTY | pg.MMAP),
        ("UlMab", LIST | pg.MMAP | pg.ANON | pg.SWAPBACKED),
        ("slab", pg.SLAB),  # the name of a flag before the letters of four
        ("H", pg.COMPOUND_HEAD),  # two flags have this letter, each at its place
        ("HTH", pg.COMPOUND_HEAD | pg.COMPOUND_TAIL | pg.ARCH_2),
        ("MU", None),  # not in the order of page-types
        ("LRU DRTY", None),
        ("nonsense!", None),
        ("", None),
        ("___", None),
    ],
)
def test_flags_are_read_by_name_or_by_letter(text: str, flags: int | None) -> None:
    assert parse_flags(text) == flags


@pytest.mark.parametrize("text", ["dirty LRU page", "dirty lru", "Dirty  LRU"])
def test_a_page_type_is_found_by_its_name_in_the_log(text: str) -> None:
    explained = explain(text)
    assert explained.title == '"dirty LRU page"'
    assert explained.states
    assert "newer than the disk" in explained.rules[0]


def test_every_kernel_stands_beside_the_others() -> None:
    for state in explain("reserved kernel page").states:
        assert [name for name, _answer in state.answers] == list(PROFILES)


def test_every_state_that_is_shown_is_called_so_by_some_kernel() -> None:
    for state in explain("get hwpoison page").states:
        verdicts = [answer.verdict for _name, answer in state.answers]
        assert any(v is not None and v.page_type is PageType.GET_HWPOISON for v in verdicts)


def test_the_story_is_that_of_a_kernel_that_calls_it_so() -> None:
    assert "unknown page: Ignored" in explain("unknown page").notes[-1].text


def test_a_type_that_only_a_hidden_fact_leads_to_says_which() -> None:
    explained = explain("already truncated LRU page")
    assert explained.states == ()
    assert any("if its file has let go of it" in rule for rule in explained.rules)


@pytest.mark.parametrize("text", ["dax page"])
def test_a_type_that_is_not_modelled_is_said_to_be(text: str) -> None:
    assert explain(text).rules[-1] == NOT_MODELLED


@pytest.mark.parametrize("page_type", PageType, ids=lambda page_type: page_type.name)
def test_every_page_type_has_an_explanation(page_type: PageType) -> None:
    assert explain(page_type.log).rules


def test_a_mapped_state_is_shown_for_one_and_for_several() -> None:
    explained = explain("UPTODATE LRU MMAP ANON SWAPBACKED ACTIVE")
    assert [state.mappers for state in explained.states] == [1, 2]
    assert explained.rules[0] == "ACTIVE decides nothing here."
    assert any(rule.startswith("State table of") for rule in explained.rules)


@pytest.mark.parametrize(
    ("text", "near"),
    [("dirti lru", "dirty LRU page"), ("free budy page", "free buddy page"), ("SLAP", "SLAB")],
)
def test_what_is_unknown_gets_the_near_ones_named(text: str, near: str) -> None:
    with pytest.raises(WrongUse, match=near):
        explain(text)
