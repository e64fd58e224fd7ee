"""``hwpoison verify``: run scenarios on real kernels, and compare them with the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from hwpoison.abi.problems import FINDING, Problem, WrongUse
from hwpoison.abi.records import Outcome
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import boot, records, together, tools
from hwpoison.lab.answers import Answer
from hwpoison.lab.batch import Progress
from hwpoison.lab.kernels import Kernel
from hwpoison.report.live import Live
from hwpoison.report.matrix import Matrix, as_json, print_matrix
from hwpoison.scenario.load import Scenario, catalogue, find

from .contrast import Known, cell, chosen_kernels, known_to_differ, model_outcomes
from .ending import ended_by_sigterm


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO|FILE]...", help="Only these; else the whole catalogue."),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(metavar="KERNEL|PATH", help="Only on this one, or an image; repeatable."),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the answers in tests/recorded.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=64, metavar="N", help="So many kernels at once.")
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print the matrix for programs.")] = False,
) -> None:
    """Run scenarios on real kernels in a virtual machine, and compare each observation with the model.

    Exit code 1 if anything differs, or gets no answer, that is not known to (tests/recorded/exceptions.toml).
    Get kernels with: hwpoison kernels fetch.

    \b
    hwpoison verify
    hwpoison verify --kernel 6.12 --kernel 7.3 file-dirty
    hwpoison verify my-scenario.toml --kernel /boot/vmlinuz-6.12.9-amd64
    hwpoison verify --record
    """
    scenarios = _scenarios(names or [])
    kernels = chosen_kernels(kernel or [])
    folder = records.directory() if record else None
    if record:
        _check_recordable(scenarios, kernels)
    tools.need("real kernels are booted with QEMU", tools.FOR_BOOTING)
    models = {k.name: model_outcomes(k, scenarios) for k in kernels}
    answers = _ask(kernels, scenarios, models, jobs or together.usual_jobs())
    matrix = _matrix(kernels, scenarios, models, answers, known_to_differ())
    if as_json_:
        json.dump(as_json(matrix), sys.stdout, indent=2)
        print()
    else:
        print_matrix(matrix)
    if folder is not None:
        for k in kernels:
            print("recorded", records.write(folder, k, catalogue(), answers[k.name]), file=sys.stderr)
    if matrix.findings:
        raise typer.Exit(FINDING)


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    found = [scenario for name in names for scenario in find(name)] if names else list(catalogue().values())
    by_name = {scenario.name: scenario for scenario in found}
    for scenario in found:
        if by_name[scenario.name].steps != scenario.steps:
            raise WrongUse(
                f"two different scenarios are called {scenario.name!r}: rename one, or run them apart"
            )
    return list(by_name.values())


def _check_recordable(scenarios: Sequence[Scenario], kernels: Sequence[Kernel]) -> None:
    for scenario in scenarios:
        if catalogue().get(scenario.name) != scenario:
            raise WrongUse(f"{scenario.name!r} is not in the catalogue, and only what is there is recorded")
    for kernel in kernels:
        if kernel.name not in PROFILES:
            raise WrongUse(f"kernel {kernel.name} is not one of {', '.join(PROFILES)}, which are recorded")


def _ask(
    kernels: Sequence[Kernel],
    scenarios: Sequence[Scenario],
    models: Mapping[str, Mapping[str, Outcome]],
    jobs: int,
) -> dict[str, dict[str, Answer]]:
    """The kernels' answers. A kernel that does not run is a Problem if it is the only one."""
    expected = {
        name: {o.scenario for o in outcomes.values() if any(seen.kind == "panic" for seen in o.observations)}
        for name, outcomes in models.items()
    }
    with ended_by_sigterm(), Live() as live:

        def told(progress: Progress) -> None:
            live(progress.kernel, progress.done, progress.total, progress.doing, f"boot {progress.boots}")

        acceleration = boot.acceleration(kernels[0].image)
        on = ", ".join(kernel.name for kernel in kernels)
        live.say(f"scenarios: {len(scenarios)}; kernels: {on}; {acceleration.text()}")
        found = together.run(kernels, scenarios, expected, told, kvm=acceleration.kvm, jobs=jobs)
    answers = {}
    for name, given in found.items():
        if isinstance(given, Problem):
            if len(kernels) == 1:
                raise given
            given = {scenario.name: Answer(failed=str(given)) for scenario in scenarios}
        answers[name] = given
    return answers


def _matrix(
    kernels: Sequence[Kernel],
    scenarios: Sequence[Scenario],
    models: Mapping[str, Mapping[str, Outcome]],
    answers: Mapping[str, Mapping[str, Answer]],
    known: Known,
) -> Matrix:
    rows = {
        scenario.name: {
            k.name: cell(
                scenario,
                models[k.name][scenario.name],
                answers[k.name][scenario.name],
                known.get((scenario.name, k.name)),
            )
            for k in kernels
        }
        for scenario in scenarios
    }
    return Matrix({k.name: k.release for k in kernels}, rows)
