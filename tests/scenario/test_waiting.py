"""Scenarios that wait for their record on four kernels: the model does what they say, and breaks no promise.

``hwpoison verify tests/scenario/waiting/hugetlb.toml`` asks kernels. Recorded, they are for the catalogue.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import Scenario, catalogue, load_file
from hwpoison.scenario.model import run

WAITING = [
    scenario
    for path in sorted((Path(__file__).parent / "waiting").glob("*.toml"))
    for scenario in load_file(path)
]


@pytest.mark.parametrize("kernel", PROFILES)
@pytest.mark.parametrize("scenario", WAITING, ids=lambda scenario: scenario.name)
def test_the_model_does_what_the_scenario_says(scenario: Scenario, kernel: str) -> None:
    assert differences(scenario, run(scenario, PROFILES[kernel]).outcome) == []


def test_no_name_is_taken_in_the_catalogue() -> None:
    assert {scenario.name for scenario in WAITING} & set(catalogue()) == set()
