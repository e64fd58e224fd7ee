"""``hwpoison fuzz``: random scenarios on the model and on real kernels."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from hwpoison.abi.problems import FINDING, NotPossible, Problem, WrongUse
from hwpoison.abi.records import Outcome
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import boot, hunt, together, tools
from hwpoison.lab.answers import Answer
from hwpoison.lab.batch import Progress
from hwpoison.lab.kernels import Kernel
from hwpoison.report.finds import FoundCase, Hunt, KernelCount, as_json, print_hunt
from hwpoison.report.live import Live
from hwpoison.report.matrix import Cell, Status
from hwpoison.scenario.drawing.coverage import Coverage
from hwpoison.scenario.drawing.draw import draw
from hwpoison.scenario.drawing.world import drawable
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.model import run as run_model
from hwpoison.scenario.write import to_toml

from .app import INTERRUPTED
from .contrast import cell, chosen_kernels, contrasts, fitting_profile, known_to_differ
from .ending import ended_by_sigterm

IN_A_BOOT = 250  # a boot, and making each file system for the first time, cost as much as thirty scenarios
SORTS = 6  # of differences that are made short, for each kernel
FOLDER = Path("hwpoison-fuzz")


def fuzz(  # noqa: PLR0913, PLR0917 # one parameter is one option
    kernel: Annotated[
        list[str] | None,
        typer.Option(metavar="KERNEL|PATH", help="On this one, or an image; repeatable. Else on all here."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Another seed, other scenarios.")] = 1,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="How many scenarios.")] = 100,
    first: Annotated[int, typer.Option(min=0, metavar="I", help="Begin with this number.")] = 0,
    model_only: Annotated[
        bool, typer.Option("--model-only", help="No virtual machine: does the model keep its promises?")
    ] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink/--no-shrink", help="Make scenarios that differ as short as can be.")
    ] = True,
    save: Annotated[Path, typer.Option(metavar="DIR", help="Where those are written.")] = FOLDER,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=64, metavar="N", help="So many kernels at once.")
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print the result for programs.")] = False,
) -> None:
    """Run random scenarios on real kernels in a virtual machine, and compare each observation with the model.

    The same seed gives the same scenarios on every kernel. A scenario that comes out differently is run
    again alone, made as short as can be, and written to a file that hwpoison verify repeats. Exit code 1 if
    there is one, or one without an answer, or if the model breaks a promise that has no name.

    \b
    hwpoison fuzz --kernel 6.12 --seed 7 --count 500
    hwpoison fuzz --model-only --count 10000
    """
    kernels = [] if model_only else chosen_kernels(kernel or [])
    if model_only and kernel:
        raise WrongUse("--model-only runs no kernel: leave --kernel out, every profile is tried")
    if not model_only:
        tools.need("real kernels are booted with QEMU", tools.FOR_BOOTING)
    task = Fuzzing(kernels, seed, first, count, shrink, save, jobs or together.usual_jobs())
    with ended_by_sigterm():
        task.run()
    found = task.result()
    if as_json_:
        json.dump(as_json(found), sys.stdout, indent=2)
        print()
    else:
        print_hunt(found)
    if task.interrupted:
        raise typer.Exit(INTERRUPTED)
    if found.findings:
        raise typer.Exit(FINDING)


@dataclass
class Fuzzing:
    """One call of the command: what was asked for, and what has been found until now."""

    kernels: Sequence[Kernel]
    seed: int
    first: int
    count: int
    shrink: bool
    save: Path
    jobs: int
    coverage: Coverage = field(default_factory=Coverage)
    counts: dict[str, Counter[Status]] = field(default_factory=dict)
    reasons: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    finds: dict[str, list[hunt.Find]] = field(default_factory=dict)
    found: list[FoundCase] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)  # sort of a broken promise → an example
    interrupted: bool = False
    kvm: bool = False

    def run(self) -> None:
        """All of it, or as much as an interrupt allows: it ends the guests, and what was found stays."""
        for kernel in self.kernels:
            self.counts[kernel.name], self.reasons[kernel.name] = Counter(), {}
            self.finds[kernel.name] = []
        with Live() as live:
            try:
                self._compare(live)
                for kernel in self.kernels if self.shrink else ():
                    self._make_short(kernel, live)
            except (KeyboardInterrupt, typer.Exit):  # or a request to end
                self.interrupted = True
        for kernel in self.kernels:
            shown = {case.scenario for case in self.found} | {n for case in self.found for n in case.alike}
            for find in self.finds[kernel.name]:
                if find.scenario.name not in shown:
                    self.found.append(self._case(kernel, hunt.Shrunk(find, find, None)))

    def _compare(self, live: Live) -> None:
        if self.kernels:
            acceleration = boot.acceleration(self.kernels[0].image)
            self.kvm = acceleration.kvm
            on = ", ".join(kernel.name for kernel in self.kernels)
            live.say(f"scenarios: {self.count} of seed {self.seed}; kernels: {on}; {acceleration.text()}")
        known = known_to_differ()
        for start in range(self.first, self.first + self.count, IN_A_BOOT):
            end = min(start + IN_A_BOOT, self.first + self.count)
            scenarios = []
            for number in range(start, end):
                live("model", number - self.first, self.count, "drawing")
                scenarios.append(draw(self.seed, number))
            models = self._models(scenarios)
            if self.kernels:
                live.say(f"scenarios {start} to {end - 1}")
                answers = self._ask(self.kernels, scenarios, models, live)
                for kernel in self.kernels:
                    for scenario in scenarios:
                        name = scenario.name
                        reason = known.get((name, kernel.name))
                        self._note(
                            kernel, scenario, models[kernel.name][name], answers[kernel.name][name], reason
                        )
            for scenario in scenarios:
                self.coverage.add(scenario)

    def _models(self, scenarios: Sequence[Scenario]) -> dict[str, dict[str, Outcome]]:
        """What the model says, by kernel; promises that it breaks are noted."""
        profiles = {k.name: fitting_profile(k) for k in self.kernels} or PROFILES
        models: dict[str, dict[str, Outcome]] = {name: {} for name in profiles}
        for name, profile in profiles.items():
            for scenario in scenarios:
                outcome = models[name][scenario.name] = run_model(scenario, profile).outcome
                self.coverage.add_outcome(outcome)
                for broken in outcome.broken:
                    if broken.deviation is None:
                        self._note_broken(scenario, outcome)
                        break
        return models

    def _note_broken(self, scenario: Scenario, outcome: Outcome) -> None:
        broken = next(b for b in outcome.broken if b.deviation is None)
        sort = f"{broken.promise} on {outcome.kernel}"
        if sort not in self.broken:
            path = self._write(scenario)
            self.broken[sort] = (
                f"{sort}: {broken.text}; repeat it: hwpoison simulate {path} --kernel {outcome.kernel}"
            )

    def _note(
        self, kernel: Kernel, scenario: Scenario, model: Outcome, answer: Answer, known: str | None
    ) -> None:
        result = cell(scenario, model, answer, known)
        found = hunt.compare(scenario, model, answer)
        if found and result.status == "same":
            result = Cell("differs", "", answer.note, contrasts(scenario, found))
        self.counts[kernel.name][result.status] += 1
        if result.reason:
            self.reasons[kernel.name].setdefault(result.reason, []).append(scenario.name)
        if result.status == "differs":
            self.finds[kernel.name].append(hunt.Find(scenario, found, answer))

    def _ask(
        self,
        kernels: Sequence[Kernel],
        scenarios: Sequence[Scenario],
        models: Mapping[str, Mapping[str, Outcome]],
        live: Live,
    ) -> dict[str, dict[str, Answer]]:
        """The kernels' answers. A kernel that does not run is a Problem."""
        expected = {
            kernel: {name for name, outcome in outcomes.items() if _stops(outcome)}
            for kernel, outcomes in models.items()
        }

        def told(progress: Progress) -> None:
            live(progress.kernel, progress.done, progress.total, progress.doing, f"boot {progress.boots}")

        given = together.run(kernels, scenarios, expected, told, kvm=self.kvm, jobs=self.jobs)
        answers = {}
        for name, answer in given.items():
            if isinstance(answer, Problem):
                raise answer
            answers[name] = answer
        return answers

    def _make_short(self, kernel: Kernel, live: Live) -> None:
        profile = fitting_profile(kernel)

        def model(scenario: Scenario) -> Outcome:
            return run_model(scenario, profile).outcome

        def ask(scenarios: Sequence[Scenario]) -> dict[str, Answer]:
            live.say(f"making scenarios that differ short: {len(scenarios)} to try")
            models = {kernel.name: {scenario.name: model(scenario) for scenario in scenarios}}
            return self._ask([kernel], scenarios, models, live)[kernel.name]

        def valid(scenario: Scenario) -> bool:
            return drawable(scenario, profile)

        for shrunk in hunt.shortest(self.finds[kernel.name], ask, model, valid, SORTS):
            self.found.append(self._case(kernel, shrunk))

    def _case(self, kernel: Kernel, shrunk: hunt.Shrunk) -> FoundCase:
        find = shrunk.shortest
        path = self._write(find.scenario)
        answer = find.answer
        return FoundCase(
            find.scenario.name,
            kernel.name,
            Cell("differs", "", answer.note, contrasts(find.scenario, find.found), answer.last_lines),
            len(find.scenario.steps),
            len(shrunk.first.scenario.steps),
            shrunk.stable,
            f"hwpoison verify {path} --kernel {kernel.name}",
            shrunk.alike,
        )

    def _write(self, scenario: Scenario) -> Path:
        path = self.save / f"{scenario.name}.toml"
        try:
            self.save.mkdir(parents=True, exist_ok=True)
            path.write_text(to_toml(scenario), encoding="utf-8")
        except OSError as error:
            raise NotPossible(
                f"{path} cannot be written: {error.strerror}; name another with --save"
            ) from None
        return path

    def result(self) -> Hunt:
        """Everything until now, for the report."""
        kernels = {
            k.name: KernelCount(k.release, self.counts[k.name], self.reasons[k.name]) for k in self.kernels
        }
        return Hunt(
            self.seed,
            self.first,
            self.count,
            kernels,
            tuple(self.found),
            tuple(self.broken.values()),
            self.coverage.as_dict(),
            self.interrupted,
        )


def _stops(outcome: Outcome) -> bool:
    """Does the machine stop?"""
    return any(seen.kind == "panic" for seen in outcome.observations)
