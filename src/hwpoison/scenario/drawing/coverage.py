"""What came up in random scenarios: words of the language, file systems, and what the model said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from hwpoison.abi.records import Outcome
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.verbs import VERBS

from .limits import UNDRAWN

Word = tuple[str, str, str]
"""(verb, argument, value); the subject is the argument ""."""


def words() -> Iterator[Word]:
    """Every verb and every value that the language offers a choice of."""
    for verb in VERBS.values():
        yield verb.name, "", ""
        for choice in verb.choices:
            yield verb.name, "", choice
        for parameter in verb.parameters:
            for choice in parameter.choices:
                yield verb.name, parameter.name, choice


@dataclass(slots=True)
class Coverage:
    """Counts over scenarios, and over runs of the model on all kernels asked for."""

    scenarios: int = 0
    steps: int = 0
    words: Counter[Word] = field(default_factory=Counter)
    file_systems: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    weaknesses: Counter[str] = field(default_factory=Counter)

    def add(self, scenario: Scenario) -> None:
        self.scenarios += 1
        self.steps += len(scenario.steps)
        for step in scenario.steps:
            self.words[step.verb, "", ""] += 1
            for name, value in [("", step.subject), *step.args.items()]:
                self.words[step.verb, name, value] += 1
            if step.verb == "file":
                self.file_systems[step.args["fs"]] += 1

    def add_outcome(self, outcome: Outcome) -> None:
        for seen in outcome.observations:
            if seen.kind == "verdict":
                self.verdicts[f"{seen.value['type']}: {seen.value['result']}"] += 1
            elif seen.kind == "panic":
                self.verdicts["panic"] += 1
        self.weaknesses.update({b.deviation for b in outcome.broken if b.deviation is not None})

    def missing(self) -> list[str]:
        """Words that never came up and could have."""
        return [
            " ".join(part for part in (verb, f"{name}={value}" if name else value) if part)
            for verb, name, value in words()
            if not self.words[verb, name, value] and not _left_out(verb, name, value)
        ]

    def as_dict(self) -> dict[str, object]:
        verbs = {verb: self.words[verb, "", ""] for verb in VERBS if self.words[verb, "", ""]}
        return {
            "scenarios": self.scenarios,
            "steps": self.steps,
            "verbs": verbs,
            "file_systems": dict(self.file_systems.most_common()),
            "verdicts": dict(self.verdicts.most_common()),
            "weaknesses": dict(self.weaknesses.most_common()),
            "missing": self.missing(),
        }


def _left_out(verb: str, name: str, value: str) -> bool:
    return (verb, "", "") in UNDRAWN or (verb, name, value) in UNDRAWN
