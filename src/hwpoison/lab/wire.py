"""What goes into a guest and what comes back: scenarios as JSON, one line of JSON a result.

A line of the results file is one of (``scenario`` is its name in each):

* ``{"begin": name}``: it is being run now; nothing else follows if the guest stops;
* ``{"at": step, "scenario", "observations"}``: what was seen before a step that may stop the machine;
* an Outcome (``Outcome.as_dict()``) with ``bad_frames_left`` and, if it ended early, ``stopped``: why;
* ``{"scenario", "cannot"}``: it cannot be set up on a real kernel, and why;
* ``{"scenario", "again"}``: it needs a boot of its own, and why;
* ``{"scenario", "failed"}``: our own mistake, or a time-out.

Imports nothing of the model, so that the guest's Python starts quickly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwpoison.abi.problems import NotPossible
from hwpoison.abi.records import Observation, Outcome
from hwpoison.scenario.steps import Step, parse_step

if TYPE_CHECKING:
    from hwpoison.scenario.load import Scenario

HUGE = 512
ANSWERS = ("observations", "cannot", "again", "failed")


@dataclass(frozen=True, slots=True)
class Errand:
    """What a witness in a guest has to know of a scenario: not what is expected."""

    name: str
    steps: tuple[Step, ...]
    swap: int = 0
    frames: int = 256


def to_json(scenarios: Sequence[Scenario]) -> str:
    """Scenarios for a guest. NotPossible if one wants a machine that there is not."""
    for scenario in scenarios:
        if scenario.huge != HUGE:
            raise NotPossible(
                f"{scenario.name}: huge = {scenario.huge}: on real machines huge pages have {HUGE}"
            )
    return json.dumps(
        [
            {"name": s.name, "steps": [step.text() for step in s.steps], "swap": s.swap, "frames": s.frames}
            for s in scenarios
        ],
        indent=1,
    )


def from_json(text: str) -> list[Errand]:
    """The scenarios that to_json() wrote. NotPossible if the text is something else."""
    try:
        return [
            Errand(
                item["name"],
                tuple(parse_step(line, number) for number, line in enumerate(item["steps"], 1)),
                item["swap"],
                item["frames"],
            )
            for item in json.loads(text)
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise NotPossible(f"not a list of scenarios as the lab writes it: {error!r}") from None


def observation_from(item: dict[str, Any]) -> Observation:
    """The reverse of Observation.as_dict()."""
    value = {key: content for key, content in item.items() if key not in ("step", "kind", "who")}
    return Observation(item["step"], item["kind"], item["who"], value)


def outcome_from(item: dict[str, Any]) -> Outcome:
    """A line with observations as an Outcome. Promises are not judged on real kernels."""
    seen = tuple(observation_from(each) for each in item["observations"])
    return Outcome(item["scenario"], item["kernel"], item["witness"], seen)


@dataclass(frozen=True, slots=True)
class Results:
    """A results file. ``stopped_in``: the scenario that was running when the guest ended, with the step
    and what had been seen before it, as far as that was said."""

    answers: dict[str, dict[str, Any]]
    stopped_in: str | None = None
    step: int = 0
    seen: tuple[Observation, ...] = ()


def read_results(text: str) -> Results:
    """What a results file says; a last line that was cut off is left out."""
    answers: dict[str, dict[str, Any]] = {}
    running: str | None = None
    last: dict[str, Any] = {}
    for line in text.splitlines():
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            break
        if "begin" in item:
            running, last = item["begin"], {}
        elif "at" in item:
            last = item
        elif any(key in item for key in ANSWERS):
            answers[item["scenario"]] = item
            running = None
    if running is None:
        return Results(answers)
    seen = tuple(observation_from(each) for each in last.get("observations", ()))
    return Results(answers, running, last.get("at", 0), seen)
