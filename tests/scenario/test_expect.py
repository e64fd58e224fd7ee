"""Comparing what was seen with what a scenario says: complete from the first error on, in words."""

from __future__ import annotations

import pytest

from hwpoison.abi.records import Broken, Observation, Outcome
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import Scenario, load_text

STEPS = """\
name = "x"
steps = '''
task A
load m:0
inject m:0 via=sysfs
  => return code=0
  => [6.1] verdict type="dirty LRU page" result=Recovered
  => [not 6.1] verdict type="dirty LRU page" result=Failed
load m:0
  => signal A code=BUS_MCEERR_AR
  => signal A code=BUS_MCEERR_AR
look m:0
'''
"""
RETURN = Observation(3, "return", "m", {"code": "0"})
RECOVERED = Observation(3, "verdict", "", {"type": "dirty LRU page", "result": "Recovered"})
SIGNAL = Observation(4, "signal", "A", {"code": "BUS_MCEERR_AR", "page": "m:0", "lsb": 12})
RIGHT = (RETURN, RECOVERED, SIGNAL, SIGNAL)


def compared(
    *seen: Observation, breaks: str = "", broken: tuple[Broken, ...] = (), witness: str = "model"
) -> list[str]:
    scenario = scenario_with(breaks)
    return differences(scenario, Outcome("x", "6.1", witness, seen, broken))


def scenario_with(breaks: str) -> Scenario:
    (scenario,) = load_text(STEPS + (f"breaks = [{breaks!r}]\n" if breaks else ""), "x.toml")
    return scenario


def test_what_was_expected_and_seen_is_no_difference() -> None:
    assert compared(*RIGHT) == []


def test_expectations_of_other_kernels_do_not_count() -> None:
    scenario = scenario_with("")
    wrong = differences(scenario, Outcome("x", "7.3", "model", RIGHT))
    assert [line for line in wrong if "not seen" in line] == [
        "x.toml:8: not seen on 7.3: verdict type='dirty LRU page' result=Failed"
    ]
    assert [line for line in wrong if "not expected" in line and "Recovered" in line] != []


def test_what_was_not_seen_names_its_line_and_what_was_seen_instead() -> None:
    wrong = compared(RETURN, SIGNAL, SIGNAL)
    assert wrong[0] == "x.toml:7: not seen on 6.1: verdict type='dirty LRU page' result=Recovered"
    assert "inject m via=sysfs" in wrong[1].replace("m:0", "m")
    assert "return" in wrong[1]


def test_each_expectation_needs_an_observation_of_its_own() -> None:
    assert len([line for line in compared(RETURN, RECOVERED, SIGNAL) if "not seen" in line]) == 1


def test_values_that_are_not_written_down_are_not_compared_but_the_written_ones_are() -> None:
    other = Observation(4, "signal", "A", {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12})
    assert any("not seen" in line for line in compared(RETURN, RECOVERED, SIGNAL, other))


def test_who_it_happened_to_is_compared() -> None:
    other = Observation(4, "signal", "B", SIGNAL.value)
    assert any("not seen" in line for line in compared(RETURN, RECOVERED, SIGNAL, other))


@pytest.mark.parametrize(
    "extra",
    [
        Observation(4, "died", "A", {"signal": "SIGBUS"}),
        Observation(4, "call", "A", {"data": "new"}),
        Observation(4, "call", "A", {"errno": "EIO"}),
        Observation(5, "signal", "B", {"code": "BUS_MCEERR_AO"}),
        Observation(3, "panic", "", {"text": "end"}),
    ],
)
def test_what_happens_after_the_error_and_is_not_written_down_is_a_difference(extra: Observation) -> None:
    assert any("not expected" in line for line in compared(*RIGHT, extra))


@pytest.mark.parametrize(
    "extra",
    [
        Observation(2, "call", "A", {"data": "new"}),
        Observation(5, "pte", "m:0", {"entry": "poison"}),
        Observation(5, "call", "fd", {"data": "ok"}),
        Observation(5, "counter", "", {"HardwareCorrupted": 1}),
    ],
)
def test_what_comes_before_the_error_or_teaches_nothing_need_not_be_written_down(extra: Observation) -> None:
    assert compared(*RIGHT, extra) == []


def test_something_seen_at_a_step_that_the_scenario_does_not_have_is_a_difference() -> None:
    beyond = Observation(6, "signal", "A", {"code": "BUS_MCEERR_AO"})
    assert compared(*RIGHT, beyond) != []


def test_a_broken_promise_is_a_difference() -> None:
    wrong = compared(*RIGHT, broken=(Broken(4, "the verdict lies"),))
    assert wrong == ["x: promise 4 broken on 6.1: the verdict lies"]


def test_a_weakness_that_is_listed_is_expected() -> None:
    shown = (Broken(2, "old data", "stale-read"),)
    assert compared(*RIGHT, breaks="stale-read", broken=shown) == []
    assert compared(*RIGHT, breaks="stale-read 7.3", broken=shown) != []
    assert compared(*RIGHT, broken=shown) != []


def test_a_listed_weakness_must_show_in_the_model() -> None:
    (wrong,) = compared(*RIGHT, breaks="stale-read")
    assert "no longer shows on 6.1" in wrong
    assert compared(*RIGHT, breaks="stale-read", witness="6.1.192") == [], "no kernel tells of promises"
