"""Which handler judges, and under which settings."""

from __future__ import annotations

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.oracle import Policy
from hwpoison.forecast.setting import choose_profile, judge_of
from hwpoison.host.probe import HostFacts


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("6.12.3", "6.12"),
        ("6.12.117-amd64", "6.12"),
        ("6.1.0-18-amd64", "6.1"),
        ("6.1", "6.1"),
        ("7.3.0-rc7", "7.3"),
        ("7.2.13-1", "7.2"),
    ],
)
def test_a_release_that_begins_with_a_known_kernel_means_it(release: str, name: str) -> None:
    assert choose_profile(release, None)[0].name == name


@pytest.mark.parametrize("release", ["6.18.44-fc", "6.11.0", "5.15.0-generic", "6.123.1", "", "7.30.1"])
def test_a_release_that_is_not_known_is_judged_by_the_newest_and_that_is_said(release: str) -> None:
    profile, reason = choose_profile(release, None)
    assert profile is NEWEST
    assert "--kernel" in reason


def test_what_was_asked_for_is_taken_whatever_the_release() -> None:
    assert choose_profile("7.3.0", "6.1")[0].name == "6.1"


def test_a_kernel_that_does_not_exist_gets_the_near_ones_named() -> None:
    with pytest.raises(WrongUse, match=r"6\.12"):
        choose_profile("7.3.0", "6.13")


@pytest.mark.parametrize(
    ("early", "recovery", "policy"),
    [
        (None, None, Policy(early_kill=False, recovery=True)),
        (True, True, Policy(early_kill=True, recovery=True)),
        (False, False, Policy(early_kill=False, recovery=False)),
    ],
)
def test_the_sysctls_of_the_host_hold(early: bool | None, recovery: bool | None, policy: Policy) -> None:
    facts = HostFacts("7.3.1", 4096, True, "seen", early, recovery, None, True, {})
    oracle, setting = judge_of(facts)
    assert oracle.policy == policy
    assert (setting.release, setting.handler, setting.profile) == ("7.3.1", True, "7.3")
