"""Every scenario of the catalogue comes out as written on every kernel; together they cover the handler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.abi.results import PageType
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.handler import Event
from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import Scenario, catalogue
from hwpoison.scenario.model import Model, Run
from hwpoison.scenario.verbs import VERBS

NEVER_IN_SEQUENCE = "unmapping clears the mark before the table is asked: never seen on real kernels"
ONLY_UNDER_A_RACE = "the page must lose its mark between two looks at it"
UNREACHED_ROWS: dict[tuple[str, PageType], str] = {
    ("7.2", PageType.KERNEL): "pages that come with a reference are classified first, and refused there",
    ("6.1", PageType.SLAB): "a slab page is on no reclaim list, so no reference is taken of it",
    ("7.2", PageType.UNKNOWN): "only pages on a reclaim list get to the table, and those have a row",
    ("7.3", PageType.UNKNOWN): "only pages on a reclaim list get to the table, and those have a row",
    **{(kernel, PageType.DIRTY_MLOCKED_LRU): NEVER_IN_SEQUENCE for kernel in PROFILES},
    **{(kernel, PageType.CLEAN_MLOCKED_LRU): NEVER_IN_SEQUENCE for kernel in PROFILES},
}
"""Rows of the state table that no scenario reaches: (kernel, row), and the reason."""

LARGE = "large pages have their own issue"
UNREACHED_TYPES: dict[PageType, str] = {
    PageType.KERNEL_HIGH_ORDER: ONLY_UNDER_A_RACE,
    PageType.SLAB: UNREACHED_ROWS["6.1", PageType.SLAB],
    PageType.DIFFERENT_COMPOUND: LARGE,
    PageType.DIRTY_MLOCKED_LRU: NEVER_IN_SEQUENCE,
    PageType.CLEAN_MLOCKED_LRU: NEVER_IN_SEQUENCE,
}
"""Verdicts that no scenario gets on any kernel, and the reason."""

UNSHOWN_WEAKNESSES: dict[str, str] = {
    "isolated-mlocked": ONLY_UNDER_A_RACE,
    "touched-too-early": ONLY_UNDER_A_RACE,
    "bad-page-allocated": "the allocator must come between two steps of the handler",
}
"""Deviations that no scenario shows, and the reason."""


@cache
def ran(name: str, kernel: str) -> tuple[Run, tuple[Event, ...]]:
    """One run of a scenario, with the handler's verdicts; WrongUse if it names what is not there."""
    model = Model(catalogue()[name], PROFILES[kernel], None)
    return model.run(), tuple(model.failure.events)


def all_runs() -> Iterator[tuple[Scenario, str, Run, tuple[Event, ...]]]:
    """Every scenario on every kernel; those that cannot run fail in a test of their own."""
    for scenario in catalogue().values():
        for kernel in PROFILES:
            try:
                yield scenario, kernel, *ran(scenario.name, kernel)
            except WrongUse:
                continue


@pytest.mark.parametrize("kernel", PROFILES)
@pytest.mark.parametrize("name", catalogue())
def test_a_scenario_comes_out_as_written(name: str, kernel: str) -> None:
    run, _events = ran(name, kernel)
    wrong = differences(catalogue()[name], run.outcome)
    assert wrong == [], "\n".join([*wrong, f"repeat: hwpoison simulate {name} --kernel {kernel}"])


def test_there_are_enough_scenarios_and_each_says_what_and_why() -> None:
    scenarios = catalogue()
    assert len(scenarios) >= 40
    assert [s.name for s in scenarios.values() if not s.title or not s.source] == []
    assert [s.name for s in scenarios.values() if s.title.endswith(".")] == [], "titles are headlines"
    titles = [s.title for s in scenarios.values()]
    assert len(set(titles)) == len(titles)


def test_every_scenario_has_an_expectation_for_every_kernel() -> None:
    silent = [
        (scenario.name, kernel)
        for scenario in catalogue().values()
        for kernel in PROFILES
        if not any(e.applies_to(kernel) for step in scenario.steps for e in step.expects)
    ]
    assert silent == []


@pytest.mark.parametrize("kernel", PROFILES)
def test_every_row_of_the_state_table_is_reached(kernel: str) -> None:
    table = PROFILES[kernel].states
    reached = {
        table[event.row - 1].type
        for _scenario, ran_on, _run, events in all_runs()
        for event in events
        if ran_on == kernel and event.row is not None
    }
    allowed = {row for on, row in UNREACHED_ROWS if on == kernel}
    assert {row.type for row in table} - reached - allowed == set()
    assert allowed & reached == set(), "take it off the list"


def test_every_verdict_is_given_somewhere() -> None:
    given = {event.type for _scenario, _kernel, _run, events in all_runs() for event in events}
    assert set(PageType) - given - set(UNREACHED_TYPES) == set()
    assert given & set(UNREACHED_TYPES) == set(), "take it off the list"


def test_every_return_code_is_seen() -> None:
    codes = {
        seen.value["code"]
        for _scenario, _kernel, run, _events in all_runs()
        for seen in run.outcome.observations
        if seen.kind == "return"
    }
    # -EFAULT needs a consumer without memory of its own: a kernel thread. -EOPNOTSUPP is for the filter, and
    # every way in that gives a code to somebody makes it 0.
    # -EUCLEAN is the file system's own word for a block that it needs itself.
    handler = {"0", "-EBUSY", "-ENXIO", "-EHWPOISON", "-EUCLEAN"}
    soft_offline = {"-EIO", "-ENOTRECOVERABLE", "-EOPNOTSUPP", "-ENOMEM"}
    assert codes == handler | soft_offline


def test_every_step_of_the_language_is_used() -> None:
    used = {step.verb for scenario in catalogue().values() for step in scenario.steps}
    assert set(VERBS) - used == set()


def test_every_choice_of_the_language_is_used() -> None:
    taken = {
        (step.verb, key, value)
        for scenario in catalogue().values()
        for step in scenario.steps
        for key, value in [("", step.subject), *step.args.items()]
    }
    offered = {
        (verb.name, name, choice)
        for verb in VERBS.values()
        for name, choices in [("", verb.choices), *((p.name, p.choices) for p in verb.parameters)]
        for choice in choices
    }
    assert offered - taken == set()


def test_every_known_weakness_is_shown() -> None:
    shown = {
        broken.deviation
        for _scenario, _kernel, run, _events in all_runs()
        for broken in run.outcome.broken
        if broken.deviation is not None
    }
    assert set(DEVIATIONS) - shown - set(UNSHOWN_WEAKNESSES) == set()
    assert shown & set(UNSHOWN_WEAKNESSES) == set(), "take it off the list"


def test_a_run_repeats_itself() -> None:
    for name in ("file-dirty-two-mappers", "swap-dirty-forked", "consumed-shared"):
        for kernel, profile in PROFILES.items():
            again = Model(catalogue()[name], profile, None).run()
            assert again.outcome == ran(name, kernel)[0].outcome
