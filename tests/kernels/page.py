"""docs/kernels.md: what differs between the kernels, and what of it is confirmed (``make docs``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hwpoison.abi.records import Observation
from hwpoison.docs import field_docs, table
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.mm.machine import Traits
from hwpoison.scenario.load import catalogue
from hwpoison.scenario.model import run

from .confirm import Confirmed, differing, kept, recorded, value

DOCUMENT = "docs/kernels.md"
HEAD = """<!-- Printed from profiles and records by `make docs`; edit those, not this file. -->
# The kernels side by side

Four kernels of Debian have run the catalogue (`hwpoison verify`), and their answers are in `tests/recorded`.
This page says where each verdict was seen, what differs, and which difference is more than our reading.
"""
VERDICTS = """
## Verdicts

In how many scenarios a kernel gave this verdict. *model*: only the model did, where one cannot be set up.

"""
DIFFERENCES = """
## Differences

A value with a scenario is confirmed: with the value of another kernel the model would not say what this
kernel has said there (`tests/kernels`). One without is from the source alone.

"""
MISSING = """
## What cannot be set up

"""
Verdict = tuple[str, str]


def render() -> str:
    confirmed = kept()
    return "".join((HEAD, VERDICTS, verdicts(), DIFFERENCES, differences(confirmed), MISSING, missing()))


def _said(observations: Iterable[Observation]) -> set[Verdict]:
    return {(str(o.value["type"]), str(o.value["result"])) for o in observations if o.kind == "verdict"}


def verdicts() -> str:
    """A row for each type and result."""
    seen: dict[str, Counter[Verdict]] = {kernel: Counter() for kernel in PROFILES}
    modelled: dict[str, set[Verdict]] = {kernel: set() for kernel in PROFILES}
    for kernel, profile in PROFILES.items():
        for name, entry in recorded(kernel).scenarios.items():
            if entry.outcome is not None:
                seen[kernel].update(_said(entry.outcome.observations))
            else:
                modelled[kernel] |= _said(run(catalogue()[name], profile).outcome.observations)
    rows = sorted({verdict for kernel in PROFILES for verdict in (*seen[kernel], *modelled[kernel])})

    def cell(kernel: str, verdict: Verdict) -> str:
        count = seen[kernel][verdict]
        return str(count) if count else "model" if verdict in modelled[kernel] else "-"

    lines = [(verdict[0], verdict[1], *(cell(kernel, verdict) for kernel in PROFILES)) for verdict in rows]
    return table(("page", "result", *PROFILES), lines)


def differences(confirmed: Confirmed) -> str:
    """A row for each field, with the scenarios that confirm its values."""
    meaning = {**field_docs(Profile), **field_docs(Traits)}
    rows = []
    for name in differing():
        cells = [
            _cell(profile, name, confirmed.get(name, {}).get(profile.name)) for profile in PROFILES.values()
        ]
        rows.append((f"`{name}`", *cells, meaning.get(name, "")))
    cells_in_all = len(rows) * len(PROFILES)
    sure = sum(len(kernels) for kernels in confirmed.values())
    head = f"{sure} of {cells_in_all} values are confirmed.\n\n"
    return head + table(("field", *PROFILES, "what it means, and where from"), rows)


def _cell(profile: Profile, name: str, scenario: str | None) -> str:
    text = _plain(value(profile, name)) if name != "states" else f"{len(profile.states)} rows"
    return f"{text}: `{scenario}`" if scenario else text


def _plain(found: object) -> str:
    if isinstance(found, tuple):
        return ", ".join(map(str, found)) or "none"
    return str(
        getattr(found, "log", None) or getattr(found, "text", None) or getattr(found, "name", None) or found
    )


def missing() -> str:
    """Scenario, kernels, reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for kernel in PROFILES:
        for name, entry in recorded(kernel).scenarios.items():
            if entry.outcome is None:
                reasons.setdefault((name, entry.cannot), []).append(kernel)
    cells = sum(len(recorded(kernel).scenarios) for kernel in PROFILES)
    head = f"{sum(map(len, reasons.values()))} of {cells} cells.\n\n"
    rows = [(f"`{name}`", ", ".join(kernels), why) for (name, why), kernels in sorted(reasons.items())]
    return head + table(("scenario", "kernels", "why"), rows)


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    (root / DOCUMENT).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
