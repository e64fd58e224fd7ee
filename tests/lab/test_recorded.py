"""The model says what real kernels have said: every scenario of the catalogue, on every recorded kernel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from hwpoison.failure.profiles import PROFILES
from hwpoison.lab.compare import differences
from hwpoison.lab.records import Record, digest, exceptions, read
from hwpoison.scenario.load import catalogue
from hwpoison.scenario.model import run

FOLDER = Path(__file__).parent.parent / "recorded"
KERNELS = sorted(path.stem for path in FOLDER.glob("*.json"))
EXCEPTIONS = exceptions(FOLDER / "exceptions.toml")


@cache
def recorded(kernel: str) -> Record:
    return read(FOLDER / f"{kernel}.json")


def again(name: str, kernel: str) -> str:
    return f"record it again: hwpoison verify {name} --kernel {kernel} --record"


@pytest.mark.parametrize(("name", "kernel"), [(name, kernel) for kernel in KERNELS for name in catalogue()])
def test_the_model_says_what_the_kernel_said(name: str, kernel: str) -> None:
    scenario, entry = catalogue()[name], recorded(kernel).scenarios.get(name)
    assert entry is not None, f"{name} is not recorded on {kernel}; {again(name, kernel)}"
    assert entry.steps == digest(scenario), f"the steps have changed since; {again(name, kernel)}"
    if entry.outcome is None:
        assert entry.cannot
        return
    found = differences(run(scenario, PROFILES[kernel]).outcome, entry.outcome)
    known = EXCEPTIONS.get((name, kernel))
    if known is None:
        look = f"look at it: hwpoison verify {name} --kernel {kernel}"
        assert found == (), "\n".join([*(difference.text() for difference in found), look])
    else:
        assert found != (), f"strike {name} on {kernel} from exceptions.toml: it no longer differs ({known})"


def test_only_known_kernels_and_scenarios_are_recorded() -> None:
    assert set(KERNELS) <= set(PROFILES)
    strangers = {(name, kernel) for kernel in KERNELS for name in recorded(kernel).scenarios} - {
        (name, kernel) for kernel in KERNELS for name in catalogue()
    }
    assert strangers == set()


def test_every_exception_is_about_a_recorded_answer() -> None:
    answered = {
        (name, kernel)
        for kernel in KERNELS
        for name, entry in recorded(kernel).scenarios.items()
        if entry.outcome is not None
    }
    assert set(EXCEPTIONS) - answered == set()


@pytest.mark.parametrize("kernel", KERNELS)
def test_most_of_the_catalogue_can_be_set_up(kernel: str) -> None:
    entries = recorded(kernel).scenarios
    cannot = {name: entry.cannot for name, entry in entries.items() if entry.outcome is None}
    assert len(cannot) < len(entries) / 4, "\n".join(f"{name}: {why}" for name, why in cannot.items())
