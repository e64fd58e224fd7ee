"""``hwpoison simulate``: tell the story of a memory error in a machine that exists only in this process."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from hwpoison.abi.problems import FINDING
from hwpoison.abi.records import Broken
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.profiles import NEWEST, profile_named
from hwpoison.report.story import Ending, print_catalogue, print_story
from hwpoison.scenario.expect import differences
from hwpoison.scenario.load import Scenario, catalogue, find
from hwpoison.scenario.model import Run, run
from hwpoison.scenario.verbs import VERBS


def simulate(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A scenario of the catalogue, or a TOML file.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="Which kernel's handler.")] = NEWEST.name,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome for programs.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Explain the steps a file may have.")] = False,
) -> None:
    """Tell the story of a memory error, step by step.

    Who did what, what the handler decided and by which rule, who was hurt, what was lost. Without a
    name: list the catalogue. Exit code 1 if something comes out other than the scenario says (lines that
    begin with =>), or a promise is broken that it does not list as a known weakness (breaks = [...]).

    \b
    hwpoison simulate
    hwpoison simulate file-dirty --kernel 6.1
    hwpoison simulate my-scenario.toml --json
    hwpoison simulate --steps
    """
    profile = profile_named(kernel)
    if steps:
        for verb in VERBS.values():
            print(f"{verb.usage()}\n    {verb.help}")
        return
    if name is None:
        _list(as_json)
        return
    runs = [run(scenario, profile) for scenario in find(name)]
    findings = {id(r): differences(r.scenario, r.outcome) for r in runs}
    if as_json:
        outcomes = [{**r.outcome.as_dict(), "differences": findings[id(r)]} for r in runs]
        json.dump(outcomes if len(outcomes) > 1 else outcomes[0], sys.stdout, indent=2)
        print()
    else:
        for r in runs:
            print_story(r.story, _ending(r, findings[id(r)]))
    if any(findings.values()):
        raise typer.Exit(FINDING)


def _list(as_json: bool) -> None:
    rows = [(s.name, s.title, s.origin.removesuffix(".toml")) for s in catalogue().values()]
    if as_json:
        json.dump([{"name": n, "title": t, "family": f} for n, t, f in rows], sys.stdout, indent=2)
        print()
    else:
        print_catalogue(rows)


def _ending(told: Run, findings: list[str]) -> Ending:
    scenario: Scenario = told.scenario
    expected = sum(e.applies_to(told.profile.name) for step in scenario.steps for e in step.expects)
    return Ending(
        name=scenario.name,
        title=scenario.title,
        source=scenario.source,
        outcome=told.outcome,
        broken=tuple((broken, _weakness(broken)) for broken in told.outcome.broken),
        findings=tuple(findings),
        expected=expected,
    )


def _weakness(broken: Broken) -> str | None:
    """The known weakness behind a broken promise, with its source."""
    if broken.deviation is None:
        return None
    known = DEVIATIONS[broken.deviation]
    return f"known weakness {broken.deviation!r}: {known.text} ({known.source})"
