"""Scenarios on their way into a guest, results on their way out."""

from __future__ import annotations

import json

import pytest

from hwpoison.abi.problems import NotPossible
from hwpoison.lab.wire import from_json, outcome_from, read_results, to_json
from hwpoison.scenario.load import catalogue, races
from hwpoison.scenario.model import run
from hwpoison.scenario.steps import Step


def test_every_scenario_of_the_catalogue_arrives_as_it_was() -> None:
    sent = list(catalogue().values())
    got = from_json(to_json(sent))
    assert [(g.name, g.swap, g.frames) for g in got] == [(s.name, s.swap, s.frames) for s in sent]
    assert [meaning(g.steps) for g in got] == [meaning(s.steps) for s in sent]


def test_a_machine_of_small_huge_pages_is_the_models_only() -> None:
    small = races()["thp+load"]
    with pytest.raises(NotPossible, match=r"thp\+load: huge = 4"):
        to_json([small])


def meaning(steps: tuple[Step, ...]) -> list[object]:
    return [(step.verb, step.subject, step.page, step.args) for step in steps]


def test_an_outcome_arrives_as_it_was() -> None:
    outcome = run(catalogue()["anonymous-survivor"]).outcome
    assert outcome_from(json.loads(json.dumps(outcome.as_dict()))).observations == outcome.observations


@pytest.mark.parametrize("text", ["", "{}[", '[{"name": "x"}]', "[1]"])
def test_what_is_no_list_of_scenarios_is_refused(text: str) -> None:
    with pytest.raises(NotPossible, match="not a list of scenarios"):
        from_json(text)


LINES = [
    {"begin": "first"},
    {"scenario": "first", "cannot": "no such disk"},
    {"begin": "second"},
    {"scenario": "second", "at": 2, "observations": [{"step": 1, "kind": "call", "who": "A", "data": "ok"}]},
    {"scenario": "second", "at": 4, "observations": []},
]


def test_results_that_stop_in_a_scenario_name_it_and_the_step() -> None:
    results = read_results("\n".join(json.dumps(line) for line in LINES[:4]) + '\n{"scenario": "seco')
    assert list(results.answers) == ["first"]
    assert (results.stopped_in, results.step) == ("second", 2)
    assert [seen.text() for seen in results.seen] == [" 1 call     A        data=ok"]


def test_results_that_are_whole_stop_nowhere() -> None:
    results = read_results("\n".join(json.dumps(line) for line in LINES[:2]))
    assert (results.stopped_in, results.step, results.seen) == (None, 0, ())
