"""Making a scenario shorter while it still shows something, with many candidates tried at once.

A boot costs more than a hundred scenarios in it, so a round asks for all candidates together: steps left out
one by one, in runs, and with everything that names what they made; arguments given up. What helped alone
is then tried in combination. Several scenarios can be shortened in the same boots.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from hwpoison.scenario.load import Scenario
from hwpoison.scenario.steps import Step, parse_step
from hwpoison.scenario.verbs import VERBS

MOST_ROUNDS = 12
MOST_CANDIDATES = 80  # in a round
Shrinking = Generator[list[Scenario], list[bool], Scenario]
"""Yields candidates, wants to be sent which of them show it, returns the shortest that does."""
Valid = Callable[[Scenario], bool]
Change = Callable[[tuple[Step | None, ...]], tuple[Step | None, ...]]
"""Steps to steps, None for one left out: what stands where stays, so changes can be combined."""


def shrinking(scenario: Scenario, valid: Valid) -> Shrinking:
    """Shorten a scenario. Candidates that are not ``valid`` are not asked for."""
    best = replace(scenario, steps=tuple(replace(step, written="") for step in scenario.steps))
    for _ in range(MOST_ROUNDS):
        steps: tuple[Step | None, ...] = best.steps
        alone = _asked(best, [[change] for change in changes(best.steps)], steps, valid)
        shown = yield [candidate for _changes, candidate in alone]
        good = [made for (made, _candidate), shows in zip(alone, shown, strict=True) if shows]
        if not good:
            break
        together = [[change for made in good[:count] for change in made] for count in range(1, len(good) + 1)]
        combined = _asked(best, together, steps, valid)
        shown = yield [candidate for _changes, candidate in combined]
        found = [c for (_made, c), shows in zip(combined, shown, strict=True) if shows]
        best = min(found, key=_size, default=best)
    return best


def _asked(
    scenario: Scenario, tried: Sequence[list[Change]], steps: tuple[Step | None, ...], valid: Valid
) -> list[tuple[list[Change], Scenario]]:
    """The candidates that these changes give: new, valid, the shortest first, and not too many."""
    found: dict[tuple[str, ...], tuple[list[Change], Scenario]] = {}
    for made in tried:
        changed = steps
        for change in made:
            changed = change(changed)
        left = tuple(step for step in changed if step is not None)
        key = tuple(step.text() for step in left)
        if left and left != scenario.steps and key not in found:
            candidate = replace(scenario, name=f"{scenario.name}.{len(found)}", steps=left)
            if valid(candidate):
                found[key] = made, candidate
    return sorted(found.values(), key=lambda pair: _size(pair[1]))[:MOST_CANDIDATES]


def _size(scenario: Scenario) -> tuple[int, int]:
    return len(scenario.steps), sum(len(step.text()) for step in scenario.steps)


def changes(steps: Sequence[Step]) -> Iterator[Change]:
    """Everything that may make these steps shorter."""
    for index in range(len(steps)):
        yield _without(needing(steps, {index}))
    length = len(steps) // 2
    while length > 1:
        for first in range(0, len(steps), length):
            yield _without(set(range(first, min(first + length, len(steps)))))
        length //= 2
    for index in range(len(steps)):
        yield _without({index})
    for index, step in enumerate(steps):
        for simpler in _simpler(step):
            yield _instead(index, simpler)


def _without(gone: set[int]) -> Change:
    return lambda steps: tuple(None if index in gone else step for index, step in enumerate(steps))


def _instead(at: int, simpler: Step) -> Change:
    return lambda steps: tuple(
        simpler if index == at and step is not None else step for index, step in enumerate(steps)
    )


def needing(steps: Sequence[Step], gone: set[int]) -> set[int]:
    """These steps, and all later ones that name what they make."""
    gone = set(gone)
    names = {name for index in gone for name in _made(steps[index])}
    for index in range(min(gone) + 1, len(steps)):
        step = steps[index]
        if names & {step.subject, *(step.get(key) or "" for key in ("task", "file", "frame"))}:
            gone.add(index)
            names |= _made(step)
    return gone


def _made(step: Step) -> set[str]:
    """The names that a step gives."""
    made = {step.subject} if VERBS[step.verb].subject.startswith("new ") else set()
    return made | {name for name in [step.get("as")] if name is not None}


def _simpler(step: Step) -> Iterator[Step]:
    """The same step with one argument at its default, or left out."""
    for parameter in VERBS[step.verb].parameters:
        value = step.get(parameter.name)
        if value is None or value == parameter.default:
            continue
        if parameter.default is not None or parameter.optional:
            args = {name: given for name, given in step.args.items() if name != parameter.name}
            yield _parsed(replace(step, args=args))
        if parameter.number and int(value) > 1:
            yield _parsed(replace(step, args={**step.args, parameter.name: "1"}))


def _parsed(step: Step) -> Step:
    """With its defaults filled in."""
    return replace(parse_step(step.text()), written="")
