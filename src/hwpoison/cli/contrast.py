"""What the commands that ask real kernels have in common: kernels, the model, the contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwpoison.abi.problems import NotPossible
from hwpoison.abi.records import Outcome
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.forecast.setting import choose_profile
from hwpoison.lab import kernels as known_kernels
from hwpoison.lab import records
from hwpoison.lab.answers import Answer
from hwpoison.lab.compare import Difference, differences
from hwpoison.lab.kernels import KNOWN, Kernel
from hwpoison.report.matrix import Cell, Contrast
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.model import run as run_model

Known = Mapping[tuple[str, str], str]
"""(scenario, kernel) to the reason why they are known to differ."""


def chosen_kernels(names: Sequence[str]) -> list[Kernel]:
    """The kernels of these names or paths; without any, all that are here."""
    if names:
        return [known_kernels.find(name) for name in dict.fromkeys(names)]
    found = [kernel for name in KNOWN if (kernel := known_kernels.present(name))]
    if not found:
        raise NotPossible(f"no kernel is here: get some with hwpoison kernels fetch {' '.join(KNOWN)}")
    return found


def fitting_profile(kernel: Kernel) -> Profile:
    """The profile that the model takes for a kernel."""
    profile, _why = choose_profile(kernel.release, kernel.name if kernel.name in PROFILES else None)
    return profile


def model_outcomes(kernel: Kernel, scenarios: Sequence[Scenario]) -> dict[str, Outcome]:
    """What the model says of each scenario, with the profile that fits the kernel."""
    profile = fitting_profile(kernel)
    return {scenario.name: run_model(scenario, profile).outcome for scenario in scenarios}


def known_to_differ() -> Known:
    """The named exceptions of the checkout (tests/recorded/exceptions.toml)."""
    try:
        return records.exceptions(records.directory() / "exceptions.toml")
    except NotPossible:  # an installed package has no tests beside it
        return {}


def cell(scenario: Scenario, model: Outcome, answer: Answer, known: str | None) -> Cell:
    """What came out of one scenario on one kernel."""
    if answer.outcome is None:
        if answer.failed:
            return Cell("failed", answer.failed, answer.note, last_lines=answer.last_lines)
        return Cell("cannot", answer.cannot)
    found = contrasts(scenario, differences(model, answer.outcome))
    if not found:
        return Cell("same", note=answer.note)
    if known is not None:
        return Cell("known", known, answer.note, found)
    return Cell("differs", "", answer.note, found, answer.last_lines)


def contrasts(scenario: Scenario, found: Sequence[Difference]) -> tuple[Contrast, ...]:
    """Differences with the steps at which they were seen."""
    return tuple(
        Contrast(
            d.step,
            scenario.steps[d.step - 1].text() if 0 < d.step <= len(scenario.steps) else "",
            f"{d.kind} {d.who}".strip(),
            " then ".join(d.model),
            " then ".join(d.kernel),
        )
        for d in found
    )
