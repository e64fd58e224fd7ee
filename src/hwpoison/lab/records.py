"""Answers of real kernels, kept in the checkout: ``tests/recorded/KERNEL.json``, and the table of exceptions.

A file holds, for each scenario of the catalogue by name, a digest of its steps and what was seen, one
observation a line, or why it cannot be set up. It is the same text for the same answers: sorted, without
log lines, numbers of frames or times. ``exceptions.toml`` names where the model is known to differ, and
why.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.abi.records import Observation, Outcome
from hwpoison.scenario.load import Scenario

from . import tools, wire
from .answers import Answer
from .compare import NOT_COMPARED
from .kernels import Kernel

DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a kernel answered to a scenario with these ``steps`` (a digest): an outcome, or why it cannot."""

    steps: str
    outcome: Outcome | None = None
    cannot: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that is recorded of one kernel."""

    kernel: str
    release: str
    scenarios: dict[str, Recorded] = field(default_factory=dict)


def directory() -> Path:
    """Where records are. NotPossible for an installed package: they belong to the project's checkout."""
    tests = tools.SOURCE.parent / "tests"
    if not (tests / "lab").is_dir():
        raise NotPossible(
            "answers are recorded in the project's checkout (tests/recorded): run it from there"
        )
    return tests / "recorded"


def digest(scenario: Scenario) -> str:
    """A digest of what a kernel gets to see of a scenario; how the steps are written does not matter."""
    steps = [[step.verb, step.subject, step.page, sorted(step.args.items())] for step in scenario.steps]
    return hashlib.sha256(json.dumps([scenario.swap, steps]).encode()).hexdigest()[:DIGEST_LENGTH]


def read(path: Path) -> Record:
    """The record in a file. NotPossible, with the file's name, if it cannot be read as one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kernel, release = path.stem, str(document["release"])
        found = {}
        for name, entry in document["scenarios"].items():
            outcome = None
            if "seen" in entry:
                seen = tuple(wire.observation_from(item) for item in entry["seen"])
                outcome = Outcome(name, kernel, release, seen)
            found[name] = Recorded(entry["steps"], outcome, entry.get("cannot", ""))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise NotPossible(f"{path} is not a record of a kernel: {error!r}; record it again") from None
    return Record(kernel, release, found)


def write(
    folder: Path, kernel: Kernel, catalogue: Mapping[str, Scenario], answers: Mapping[str, Answer]
) -> Path:
    """Record answers; failed ones and scenarios that are not in the catalogue are left out.

    What was recorded of other scenarios stays, if it comes from the same release.
    """
    path = folder / f"{kernel.name}.json"
    kept = dict(read(path).scenarios) if path.exists() else {}
    new = {
        name: Recorded(digest(catalogue[name]), answer.outcome, answer.cannot)
        for name, answer in answers.items()
        if name in catalogue and not answer.failed
    }
    others = [name for name in kept if name in catalogue and name not in new]
    if others and read(path).release != kernel.release:
        raise WrongUse(
            f"{path.name} was recorded from {read(path).release}, not from {kernel.release}: "
            f"record the whole catalogue: hwpoison verify --kernel {kernel.name} --record"
        )
    merged = {name: entry for name, entry in (kept | new).items() if name in catalogue}
    try:
        folder.mkdir(exist_ok=True)
        half = path.with_suffix(".new")
        half.write_text(render(Record(kernel.name, kernel.release, merged)), encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise NotPossible(f"{path} cannot be written: {error.strerror}") from None
    return path


def render(record: Record) -> str:
    """A record as JSON with one line for each observation."""
    parts = []
    for name, entry in sorted(record.scenarios.items()):
        head = f'  {json.dumps(name)}: {{"steps": {json.dumps(entry.steps)}, '
        if entry.outcome is None:
            parts.append(f'{head}"cannot": {json.dumps(entry.cannot, ensure_ascii=False)}}}')
        else:
            lines = ",\n".join(f"    {_line(seen)}" for seen in _stable(entry.outcome.observations))
            parts.append(f'{head}"seen": [\n{lines}\n  ]}}')
    scenarios = ",\n".join(parts)
    return f'{{\n "release": {json.dumps(record.release)},\n "scenarios": {{\n{scenarios}\n }}\n}}\n'


def _line(seen: Observation) -> str:
    value = dict(seen.value)
    if seen.kind == "panic":
        value["text"] = re.sub(r"0x[0-9a-f]+|\d+", "N", str(value.get("text")))
    return json.dumps({"step": seen.step, "kind": seen.kind, "who": seen.who, **value}, ensure_ascii=False)


def _stable(observations: Iterable[Observation]) -> list[Observation]:
    """In an order that does not depend on the scheduler; kinds that are not compared are left out."""
    kept = [seen for seen in observations if seen.kind not in NOT_COMPARED]
    return sorted(kept, key=lambda seen: (seen.step, seen.kind, seen.who))


def exceptions(path: Path) -> dict[tuple[str, str], str]:
    """(scenario, kernel) → why the model differs there. An absent file is an empty table."""
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongUse(f"{path}: {error}") from None
    table = {}
    for entry in document.get("exception", []):
        if set(entry) != {"scenario", "kernels", "reason"} or not str(entry["reason"]).strip():
            raise WrongUse(f"{path}: {entry!r}: expected scenario, kernels and reason, and nothing else")
        for kernel in entry["kernels"]:
            table[entry["scenario"], kernel] = str(entry["reason"])
    return table
