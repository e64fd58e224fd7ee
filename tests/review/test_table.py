"""The page state table is written once and read by all (R19); the log names what follows (R3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hwpoison import docs
from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import PageType
from hwpoison.failure import states
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.forecast.explain import explain
from hwpoison.forecast.kinds import Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.mm import lockorder
from hwpoison.scenario.load import catalogue, load_text
from hwpoison.scenario.model import Model, run

from . import ways
from .rows import CONSEQUENCES

ANOTHER = PageType.DAX
"""A type that no row has."""
CLEAN = Kind(pg.UPTODATE | pg.LRU | pg.MMAP, 1)


@pytest.fixture
def changed() -> Iterator[Profile]:
    """The newest kernel, with a type of its own for clean pages of files."""
    before = NEWEST.states
    rows = tuple(replace(row, type=ANOTHER) if row.type is PageType.CLEAN_LRU else row for row in before)
    object.__setattr__(NEWEST, "states", rows)
    try:
        yield NEWEST
    finally:
        object.__setattr__(NEWEST, "states", before)


def test_r19_a_change_of_the_table_is_seen_by_the_handler(changed: Profile) -> None:
    steps = "task app\nfile f fs=ext4\nopen fd file=f\nmap m task=app file=fd\nload m:0\ninject m:0 via=sysfs"
    (scenario,) = load_text(f"name = 'it'\nsteps = '''\n{steps}\n'''", "it")
    verdicts = [o.value["type"] for o in run(scenario, changed).outcome.observations if o.kind == "verdict"]
    assert verdicts == [ANOTHER.log]


def test_r19_a_change_of_the_table_is_seen_by_the_forecast(changed: Profile) -> None:
    verdict = Oracle(changed).of_kind(CLEAN).verdict
    assert verdict is not None
    assert verdict.page_type is ANOTHER
    assert explain(ANOTHER.log, changed.name).states


def test_r19_a_change_of_the_table_is_seen_in_the_documents(changed: Profile) -> None:
    assert f"| {ANOTHER.log} |" in docs.page_states()


def test_r19_without_the_change_nobody_says_so() -> None:
    assert f"| {ANOTHER.log} |" not in docs.page_states()
    assert ANOTHER not in {row.type for row in NEWEST.states}
    assert states.identify(NEWEST.states, pg.LRU, 0)[1].type is PageType.CLEAN_LRU


def test_r3_a_line_about_an_inner_step_is_followed_by_what_it_means() -> None:
    for name, scenario in catalogue().items():
        verbs = {step.verb for step in scenario.steps}
        if not verbs & {"inject", "break"} or "soft-offline" in verbs:
            continue  # soft offline speaks for itself
        model = Model(scenario, NEWEST, None)
        model.run()
        said = [line for line in model.vm.log if line.startswith("Memory failure:")]
        if said:
            assert CONSEQUENCES.search(said[-1]), f"{said[-1]!r} is the last word: hwpoison simulate {name}"


def test_r7_both_ways_cannot_be_written_into_the_lock_order() -> None:
    both = (("i_mmap_rwsem", "anon_vma"), (ways.TASKLIST, "i_mmap_rwsem"), ("anon_vma", ways.TASKLIST))
    with pytest.raises(ValueError, match="the lock order has a cycle"):
        lockorder.lock_classes((*lockorder.CHAINS, *both))
    assert ways.TASKLIST in lockorder.lock_classes((*lockorder.CHAINS, ways.WRITTEN))
