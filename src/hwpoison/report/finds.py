"""What a hunt with random scenarios came to: counts for each kernel, finds, and what came up at all."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.markup import escape

from hwpoison.report.matrix import FILE_WIDTH, MEANINGS, Cell, Status, cell_as_dict, print_contrasts
from hwpoison.report.terminal import Console


@dataclass(frozen=True, slots=True)
class FoundCase:
    """One sort of difference. ``command`` repeats the shortest scenario that shows it, ``steps`` of
    ``first_steps``; ``stable``: it came up again alone, None: not tried;
    ``alike``: other scenarios of the same sort."""

    scenario: str
    kernel: str
    cell: Cell
    steps: int
    first_steps: int
    stable: bool | None
    command: str
    alike: tuple[str, ...] = ()


NAMED = 4  # scenarios with the same reason; all are in the JSON


@dataclass(frozen=True, slots=True)
class KernelCount:
    """How the scenarios came out on one kernel. ``reasons``: why some were not set up, or not answered, and
    which."""

    release: str
    counts: Mapping[Status, int]
    reasons: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Hunt:
    """A whole hunt. ``broken``: promises that the model broke without a name for it, each with an example;
    ``interrupted``: it did not get as far as ``count``."""

    seed: int
    first: int
    count: int
    kernels: Mapping[str, KernelCount]
    found: tuple[FoundCase, ...]
    broken: tuple[str, ...]
    coverage: Mapping[str, object]
    interrupted: bool = False

    @property
    def findings(self) -> bool:
        return bool(self.found or self.broken) or any(
            k.counts.get("differs") or k.counts.get("failed") for k in self.kernels.values()
        )


def as_json(hunt: Hunt) -> dict[str, object]:
    """The hunt for programs."""
    return {
        "seed": hunt.seed,
        "first": hunt.first,
        "count": hunt.count,
        "interrupted": hunt.interrupted,
        "kernels": {
            name: {
                "release": k.release,
                "done": k.done,
                **{status: k.counts.get(status, 0) for status in MEANINGS},
                "reasons": {reason: list(names) for reason, names in k.reasons.items()},
            }
            for name, k in hunt.kernels.items()
        },
        "found": [
            {
                "scenario": f.scenario,
                "kernel": f.kernel,
                "steps": f.steps,
                "first_steps": f.first_steps,
                "stable": f.stable,
                "command": f.command,
                "alike": list(f.alike),
                **cell_as_dict(f.cell),
            }
            for f in hunt.found
        ],
        "broken_promises": list(hunt.broken),
        "coverage": dict(hunt.coverage),
    }


def print_hunt(hunt: Hunt, console: Console | None = None) -> None:
    """What was found, then what came up, then a line for each kernel."""
    out = console or Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    for case in hunt.found:
        print_contrasts(out, case.scenario, case.kernel, case.cell)
        how = f"{case.steps} of {case.first_steps} steps"
        if not case.stable:
            how = "not run again" if case.stable is None else "not seen again when run alone"
        out.print(f"  {how}; repeat it: [bold]{escape(case.command)}[/]", soft_wrap=True)
        if case.alike:
            out.print(f"  of the same sort: {escape(', '.join(case.alike))}", soft_wrap=True)
    for text in hunt.broken:
        out.print(f"[bold red]promise broken[/] {escape(text)}", soft_wrap=True)
    _print_coverage(out, hunt.coverage)
    end = f"{hunt.first + hunt.count - 1}"
    out.print(
        f"\nseed {hunt.seed}, scenarios {hunt.first} to {end}{', interrupted' if hunt.interrupted else ''}"
    )
    for name, kernel in hunt.kernels.items():
        said = ", ".join(f"{kernel.counts[s]} {word}" for s, word in MEANINGS.items() if kernel.counts.get(s))
        out.print(f"[bold]{escape(name)}[/] ({escape(kernel.release)}): {said or 'nothing was run'}")
        for reason, names in kernel.reasons.items():
            which = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
            out.print(f"  {len(names)} times: {escape(f'{reason}: {which}')}", style="dim", soft_wrap=True)


def _print_coverage(out: Console, coverage: Mapping[str, object]) -> None:
    for key in ("verbs", "file_systems", "verdicts", "weaknesses"):
        counts = coverage.get(key)
        if isinstance(counts, Mapping) and counts:
            text = ", ".join(f"{name} {count}" for name, count in counts.items())
            out.print(f"[dim]{key.replace('_', ' ')}:[/] {escape(text)}", soft_wrap=True)
    missing = coverage.get("missing")
    if isinstance(missing, list) and missing:
        out.print(f"[dim]did not come up:[/] {escape(', '.join(map(str, missing)))}", soft_wrap=True)
