"""Finding differences with random scenarios, on a kernel that is the model with a mistake put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwpoison.abi.records import Observation, Outcome
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab.answers import Answer
from hwpoison.lab.hunt import Find, compare, shortest
from hwpoison.scenario.drawing.draw import draw
from hwpoison.scenario.drawing.world import drawable
from hwpoison.scenario.load import Scenario, load_text
from hwpoison.scenario.model import run

NEWEST = PROFILES["7.3"]


def model(scenario: Scenario) -> Outcome:
    return run(scenario, NEWEST).outcome


def valid(scenario: Scenario) -> bool:
    return drawable(scenario, NEWEST)


class Kernel:
    """Answers as the model does, but for one mistake: fsync(2) never tells. ``moody``: once only."""

    def __init__(self, *, moody: bool = False) -> None:
        self.boots = 0
        self.moody = moody

    def ask(self, scenarios: Sequence[Scenario]) -> dict[str, Answer]:
        self.boots += 1
        honest = self.moody and self.boots > 1
        return {s.name: Answer(model(s) if honest else self.mistaken(s)) for s in scenarios}

    def mistaken(self, scenario: Scenario) -> Outcome:
        outcome = model(scenario)
        verbs = {number: step.verb for number, step in enumerate(scenario.steps, 1)}
        seen = tuple(
            o for o in outcome.observations if not (verbs.get(o.step) == "fsync" and o.kind == "call")
        )
        return replace(outcome, witness="stand-in", observations=seen)


def finds(kernel: Kernel, count: int = 60) -> list[Find]:
    scenarios = [draw(6, number) for number in range(count)]
    answers = kernel.ask(scenarios)
    found = [(s, compare(s, model(s), answers[s.name])) for s in scenarios]
    return [Find(s, differences, answers[s.name]) for s, differences in found if differences]


def test_the_shortest_scenario_of_a_planted_mistake_is_found_in_few_boots() -> None:
    kernel = Kernel()
    first = finds(kernel)
    assert len(first) >= 2, "the mistake shows in several"
    (shrunk,) = shortest(first, kernel.ask, model, valid, 5)
    steps = [step.text() for step in shrunk.shortest.scenario.steps]
    assert steps[-1].startswith("fsync ")
    assert len(steps) <= 5, steps
    assert [d.kind for d in shrunk.shortest.found] == ["call"]
    assert shrunk.stable
    assert set(shrunk.alike) == {find.scenario.name for find in first} - {shrunk.first.scenario.name}
    assert kernel.boots <= 25


def test_what_does_not_come_up_again_is_said_to_be_unstable_and_left_as_it_is() -> None:
    kernel = Kernel(moody=True)
    first = finds(kernel)
    (shrunk,) = shortest(first, kernel.ask, model, valid, 5)
    assert not shrunk.stable
    assert shrunk.shortest == shrunk.first


def test_no_finds_ask_nothing() -> None:
    kernel = Kernel()
    assert shortest([], kernel.ask, model, valid, 5) == []
    assert kernel.boots == 0


def test_a_kernel_that_could_not_go_on_differs() -> None:
    (scenario,) = load_text("name = 'x'\nsteps = '''task A\nmap m task=A\nstore m:0 data=a\n'''", "x")
    outcome = model(scenario)
    assert compare(scenario, outcome, Answer(outcome)) == ()
    (difference,) = compare(scenario, outcome, Answer(outcome, note="ended early: step 3: no memory"))
    assert (difference.step, difference.kind) == (3, "stopped")
    assert compare(scenario, outcome, Answer(cannot="no such disk")) == ()
    more = replace(
        outcome, observations=(*outcome.observations, Observation(3, "died", "A", {"signal": "SIGKILL"}))
    )
    assert [d.kind for d in compare(scenario, outcome, Answer(more))] == ["died"]
