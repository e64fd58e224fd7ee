"""Random scenarios on a real kernel: what differs, whether it does so again, and the shortest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hwpoison.abi.records import Outcome
from hwpoison.scenario.load import Scenario

from .answers import Answer
from .compare import Difference, differences
from .shrink import Shrinking, Valid, shrinking

EARLY = "ended early"
Ask = Callable[[Sequence[Scenario]], Mapping[str, Answer]]
"""What the kernel answers to these scenarios, by name."""
Model = Callable[[Scenario], Outcome]
"""What the model says; WrongUse if a scenario is not valid."""
Signature = tuple[str, str]
"""The verb of the step at which it was first seen, and what was seen differently."""


@dataclass(frozen=True, slots=True)
class Find:
    """A scenario that came out differently. ``answer`` is the kernel's."""

    scenario: Scenario
    found: tuple[Difference, ...]
    answer: Answer

    @property
    def signature(self) -> Signature:
        return next(iter(signatures(self.scenario, self.found)))


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A find, made short. ``stable``: it came up again alone; None: not tried. ``alike``: of its sort."""

    first: Find
    shortest: Find
    stable: bool | None
    alike: tuple[str, ...] = ()


def compare(scenario: Scenario, model: Outcome, answer: Answer) -> tuple[Difference, ...]:
    """All differences; that the kernel could not go on where the model did is one of them."""
    if answer.outcome is None:
        return ()
    found = differences(model, answer.outcome)
    if not found and answer.note.startswith(EARLY):
        return (Difference(len(scenario.steps), "stopped", "", (), (answer.note,)),)
    return found


def signatures(scenario: Scenario, found: Sequence[Difference]) -> dict[Signature, None]:
    """The sorts of these differences, in their order."""
    verbs = {number: step.verb for number, step in enumerate(scenario.steps, 1)}
    return {(verbs.get(each.step, ""), each.kind): None for each in found}


def shortest(finds: Sequence[Find], ask: Ask, model: Model, valid: Valid, most: int) -> list[Shrunk]:
    """Finds of ``most`` sorts: run again alone, and made short, all in the same boots."""
    sorts: dict[Signature, list[Find]] = {}
    for find in sorted(finds, key=lambda find: len(find.scenario.steps)):
        sorts.setdefault(find.signature, []).append(find)
    chosen = [alike[0] for alike in list(sorts.values())[:most]]
    again = _shows(chosen, [[find.scenario] for find in chosen], ask, model)
    stable = [answers[0] for answers in again]
    lines = [
        shrinking(f.scenario, valid) if s else _nothing(f.scenario)
        for f, s in zip(chosen, stable, strict=True)
    ]
    ends = _together(chosen, lines, ask, model)
    named = [replace(end, name=find.scenario.name) for find, end in zip(chosen, ends, strict=True)]
    answers = ask(named) if named else {}
    result = []
    for find, scenario, is_stable in zip(chosen, named, stable, strict=True):
        found = compare(scenario, model(scenario), answers[scenario.name])
        end = Find(scenario, found, answers[scenario.name]) if found else find
        alike = tuple(other.scenario.name for other in sorts[find.signature][1:])
        result.append(Shrunk(find, end, is_stable and bool(found), alike))
    return result


def _nothing(scenario: Scenario) -> Shrinking:
    """Asks nothing."""
    yield []
    return scenario


def _together(finds: Sequence[Find], lines: Sequence[Shrinking], ask: Ask, model: Model) -> list[Scenario]:
    """Drive all of them to their ends, a round of each in one boot."""
    ends: dict[int, Scenario] = {}
    waiting = {number: next(line) for number, line in enumerate(lines)}
    while waiting:
        numbers = list(waiting)
        shown = _shows([finds[n] for n in numbers], [waiting[n] for n in numbers], ask, model)
        for number, answers in zip(numbers, shown, strict=True):
            try:
                waiting[number] = lines[number].send(answers)
            except StopIteration as end:
                ends[number] = end.value
                del waiting[number]
    return [ends[number] for number in range(len(lines))]


def _shows(
    finds: Sequence[Find], tried: Sequence[Sequence[Scenario]], ask: Ask, model: Model
) -> list[list[bool]]:
    """Which candidates show a difference of the same sort as the find that they came from."""
    everything = [candidate for candidates in tried for candidate in candidates]
    answers = ask(everything) if everything else {}
    return [
        [
            find.signature in signatures(c, compare(c, model(c), answers.get(c.name, Answer())))
            for c in candidates
        ]
        for find, candidates in zip(finds, tried, strict=True)
    ]
