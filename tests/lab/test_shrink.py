"""Scenarios are made short in few rounds, whatever it is that they have to show."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.failure.profiles import PROFILES
from hwpoison.lab.shrink import MOST_CANDIDATES, needing, shrinking
from hwpoison.scenario.drawing.draw import draw
from hwpoison.scenario.drawing.world import drawable
from hwpoison.scenario.load import Scenario, load_text

LONG = """
task A sigbus=handler policy=early
task B
fork A as=C
file f fs=xfs pages=3
open fd file=f
open more file=f
map m task=A file=fd pages=3 shared=yes
load m:1
store m:2 data=x
prctl B policy=late
write fd:0 data=y
map other task=B
store other:0 data=z
fsync fd
inject m:2 via=debugfs
look f:2
load other:0
counters all
"""


def scenario(steps: str) -> Scenario:
    (one,) = load_text(f"name = 'x'\nsteps = '''{steps}'''", "x")
    return one


def drive(start: Scenario, shows: Callable[[Scenario], bool]) -> tuple[Scenario, int]:
    """The shortest, and after how many rounds."""
    line = shrinking(start, lambda candidate: drawable(candidate, PROFILES["7.3"]))
    candidates, rounds = next(line), 1
    while True:
        assert len(candidates) <= MOST_CANDIDATES
        assert len({candidate.name for candidate in candidates}) == len(candidates)
        try:
            candidates, rounds = line.send([shows(candidate) for candidate in candidates]), rounds + 1
        except StopIteration as end:
            found: Scenario = end.value
            return found, rounds


def has(verb: str, **args: str) -> Callable[[Scenario], bool]:
    return lambda s: any(step.verb == verb and args.items() <= step.args.items() for step in s.steps)


def texts(found: Scenario) -> list[str]:
    return [step.text() for step in found.steps]


def test_only_what_is_needed_stays() -> None:
    found, rounds = drive(scenario(LONG), has("inject"))
    assert texts(found)[-1].startswith("inject ")
    assert len(found.steps) <= 6
    assert rounds <= 12


def test_two_things_that_are_needed_together_both_stay() -> None:
    def shows(s: Scenario) -> bool:
        return has("counters")(s) and has("prctl", policy="late")(s)

    found, _rounds = drive(scenario(LONG), shows)
    assert texts(found) == ["task B", "prctl B policy=late", "counters all"]


def test_arguments_are_given_up() -> None:
    found, _rounds = drive(scenario(LONG), has("file"))
    assert texts(found) == ["file f"]


def test_what_shows_only_as_it_is_stays_as_it_is() -> None:
    start = scenario(LONG)
    found, rounds = drive(start, lambda s: len(s.steps) == len(start.steps) and has("file", fs="xfs")(s))
    assert len(found.steps) == len(start.steps)
    assert rounds <= 12


@pytest.mark.parametrize("number", range(5))
def test_a_drawn_scenario_gets_short(number: int) -> None:
    found, _rounds = drive(draw(5, number), has("inject"))
    assert len(found.steps) <= 6
    assert drawable(found, PROFILES["7.3"])


def test_steps_that_name_what_is_left_out_go_with_it() -> None:
    steps = scenario("task A\nfork A as=B\nmap m task=B\nload m:0\ntask C\n").steps
    assert needing(steps, {0}) == {0, 1, 2, 3}
    assert needing(steps, {1}) == {1, 2, 3}
    assert needing(steps, {4}) == {4}
