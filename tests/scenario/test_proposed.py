"""What docs/proposed.md argues for, on the whole catalogue: fewer promises broken, and no others."""

from __future__ import annotations

from functools import cache

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.abi.records import Outcome
from hwpoison.failure.profiles import NEWEST, PROFILES, PROPOSED, profile_named
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import catalogue, load_text
from hwpoison.scenario.model import run

BESIDE = [name for name, scenario in catalogue().items() if scenario.origin == "proposed.toml"]


@cache
def proposed(name: str) -> Outcome:
    return run(catalogue()[name], PROPOSED).outcome


@pytest.mark.parametrize("name", catalogue())
def test_nothing_is_broken_that_the_newest_kernel_keeps(name: str) -> None:
    broken = {(b.promise, b.deviation) for b in proposed(name).broken}
    today = {(b.promise, b.deviation) for b in run(catalogue()[name], NEWEST).outcome.broken}
    assert broken <= today
    assert not {deviation for _promise, deviation in broken} & PROPOSED.mends
    assert differences(catalogue()[name], proposed(name)) == []


@pytest.mark.parametrize("name", BESIDE)
def test_each_scenario_beside_todays_kernels_says_what_is_new(name: str) -> None:
    """Or, for a clean page, that nothing else is."""
    today = run(catalogue()[name], NEWEST).outcome
    assert proposed(name).observations != today.observations


def test_nobody_is_signalled_who_is_not_today_except_for_lost_contents() -> None:
    for name in catalogue():
        today = [o for o in run(catalogue()[name], NEWEST).outcome.observations if o.kind == "signal"]
        more = [o for o in proposed(name).observations if o.kind == "signal" and o not in today]
        assert all(o.value["code"] == "BUS_MCEERR_AR" for o in more), name


def test_a_proposal_is_no_kernel() -> None:
    assert PROPOSED.name not in PROFILES
    assert profile_named(PROPOSED.name) is PROPOSED
    with pytest.raises(WrongUse, match="did you mean proposed"):
        profile_named("propose")


def scenario(expected: str) -> str:
    return f'''name = "x"
steps = """
file db
open fd file=db
write fd:0 data=new
inject db:0 via=sysfs
  => return code=0
  => verdict type="dirty LRU page" result=Recovered
read fd:0
{expected}
"""
breaks = ["stale-read"]
'''


def test_a_scenario_that_names_no_proposal_expects_nothing_of_one() -> None:
    (found,) = load_text(scenario("  => [not 6.1] data=db:0:old\n  => [6.1] data=db:0:old"), "x.toml")
    assert differences(found, run(found, PROPOSED).outcome) == []


def test_a_scenario_that_names_one_is_held_to_it() -> None:
    today = "  => [not proposed] data=db:0:old\n"
    (right,) = load_text(scenario(today + "  => [proposed] errno=EHWPOISON"), "x.toml")
    assert differences(right, run(right, PROPOSED).outcome) == []
    assert differences(right, run(right, NEWEST).outcome) == []
    (wrong,) = load_text(scenario(today + "  => [proposed] errno=EIO"), "x.toml")
    assert differences(wrong, run(wrong, PROPOSED).outcome) != []
