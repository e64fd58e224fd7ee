"""Which real kernels confirm what is said to differ between them.

A field of a profile is confirmed on a kernel by a scenario whose recorded answer the model gives with the
field's value, and does not give with the value of another kernel. So the records decide, not our reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from hwpoison.failure.profiles import NEWEST, PROFILES, Profile
from hwpoison.lab.compare import differences
from hwpoison.lab.records import Record, read
from hwpoison.mm.machine import Traits
from hwpoison.scenario.load import Scenario, catalogue
from hwpoison.scenario.model import run

RECORDED = Path(__file__).parent.parent / "recorded"
KEPT = Path(__file__).parent / "confirmed.json"
Confirmed = dict[str, dict[str, str]]
"""Field → kernel → the first scenario of the catalogue that confirms it there; none for some."""


@cache
def recorded(kernel: str) -> Record:
    return read(RECORDED / f"{kernel}.json")


def value(profile: Profile, name: str) -> Any:
    return getattr(profile if hasattr(profile, name) else profile.traits, name)


def flipped(profile: Profile, name: str, other: Any) -> Profile:
    """The same kernel, but for one field."""
    if hasattr(profile, name):
        return replace(profile, **{name: other})
    return replace(profile, traits=replace(profile.traits, **{name: other}))


def differing() -> list[str]:
    """The fields in which the kernels are not all alike."""
    names = [field.name for field in fields(Profile) if field.name not in ("name", "traits")]
    names += [field.name for field in fields(Traits)]
    return [
        name
        for name in names
        if any(value(profile, name) != value(NEWEST, name) for profile in PROFILES.values())
    ]


def confirms(scenario: Scenario, name: str, kernel: str) -> bool:
    """Would the model say something else than this kernel did, had the field the value of another kernel?"""
    entry, profile = recorded(kernel).scenarios.get(scenario.name), PROFILES[kernel]
    if entry is None or entry.outcome is None:
        return False
    others = [value(other, name) for other in PROFILES.values() if value(other, name) != value(profile, name)]
    outcome = entry.outcome
    return any(
        differences(run(scenario, flipped(profile, name, other)).outcome, outcome)
        for other in (one for number, one in enumerate(others) if one not in others[:number])
    )


def look_for(name: str, kernel: str) -> str | None:
    return next((each for each, s in catalogue().items() if confirms(s, name, kernel)), None)


def find_all() -> Iterator[tuple[str, str, str]]:
    for name in differing():
        for kernel in PROFILES:
            if (found := look_for(name, kernel)) is not None:
                yield name, kernel, found


def kept() -> Confirmed:
    found: Confirmed = json.loads(KEPT.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Look for all of them again, which takes a few minutes, and keep what was found."""
    table: Confirmed = {name: {} for name in differing()}
    for name, kernel, scenario in find_all():
        print(f"{name} on {kernel}: {scenario}", flush=True)
        table[name][kernel] = scenario
    KEPT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
