"""The matrix of scenarios and kernels: where the model and a real kernel say the same."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from hwpoison.report.terminal import Console

Status = Literal["same", "differs", "known", "cannot", "failed"]
COLOURS: dict[Status, str] = {
    "same": "green",
    "differs": "bold red",
    "known": "yellow",
    "cannot": "dim",
    "failed": "bold red",
}
MEANINGS: dict[Status, str] = {
    "same": "the same",
    "differs": "different",
    "known": "known to differ",
    "cannot": "cannot be set up",
    "failed": "without an answer",
}
FILE_WIDTH = 160  # where there is no terminal to ask
FINDINGS: tuple[Status, ...] = ("differs", "failed")


@dataclass(frozen=True, slots=True)
class Contrast:
    """What was seen of one thing in one step, by the model and by the kernel."""

    number: int
    step: str
    about: str
    model: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One scenario on one kernel. ``reason``: why it is known, cannot be set up, or failed."""

    status: Status
    reason: str = ""
    note: str = ""
    contrasts: tuple[Contrast, ...] = ()
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """``kernels`` maps a name to its release; ``rows`` a scenario to its cells, in the same order."""

    kernels: dict[str, str]
    rows: dict[str, dict[str, Cell]]

    def cells(self) -> Iterator[tuple[str, str, Cell]]:
        for scenario, row in self.rows.items():
            for kernel, cell in row.items():
                yield scenario, kernel, cell

    @property
    def findings(self) -> bool:
        """Whether anything is different, or without an answer, that is not known to be."""
        return any(cell.status in FINDINGS for _scenario, _kernel, cell in self.cells())


def as_json(matrix: Matrix) -> dict[str, object]:
    """The matrix for programs."""
    return {
        "kernels": matrix.kernels,
        "scenarios": {
            scenario: {kernel: cell_as_dict(cell) for kernel, cell in row.items()}
            for scenario, row in matrix.rows.items()
        },
    }


def cell_as_dict(cell: Cell) -> dict[str, object]:
    """One cell for programs."""
    entry: dict[str, object] = {"status": cell.status}
    if cell.reason:
        entry["reason"] = cell.reason
    if cell.note:
        entry["note"] = cell.note
    if cell.contrasts:
        entry["differences"] = [
            {"step": c.number, "about": c.about, "model": c.model, "kernel": c.kernel} for c in cell.contrasts
        ]
    if cell.last_lines:
        entry["last_lines"] = list(cell.last_lines)
    return entry


def print_matrix(matrix: Matrix, console: Console | None = None) -> None:
    """All cells; then what differs, side by side; then reasons; then a line for each kernel."""
    out = console or Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("scenario", *matrix.kernels):
        table.add_column(escape(column), no_wrap=True)
    for scenario, row in matrix.rows.items():
        words = [f"[{COLOURS[cell.status]}]{cell.status}[/]" for cell in row.values()]
        table.add_row(f"[cyan]{escape(scenario)}[/]", *words)
    out.print(table)
    for scenario, kernel, cell in matrix.cells():
        print_contrasts(out, scenario, kernel, cell)
    _print_reasons(out, matrix)
    out.print()
    for kernel, release in matrix.kernels.items():
        counts = Counter(cell.status for _scenario, on, cell in matrix.cells() if on == kernel)
        said = ", ".join(f"{counts[status]} {word}" for status, word in MEANINGS.items() if counts[status])
        out.print(f"[bold]{escape(kernel)}[/] ({escape(release)}): {said}")


def print_contrasts(out: Console, scenario: str, kernel: str, cell: Cell) -> None:
    """What differs in one cell, side by side."""
    if not (cell.contrasts or cell.last_lines or cell.note):
        return
    colour = COLOURS[cell.status]
    out.print(f"\n[bold]{escape(scenario)}[/] on {escape(kernel)}: [{colour}]{MEANINGS[cell.status]}[/]")
    if cell.note:
        out.print(f"  {escape(cell.note)}")
    if cell.contrasts:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for column in ("", "step", "", "model", "kernel"):
            table.add_column(column)
        for c in cell.contrasts:
            told = (str(c.number), c.step, c.about, c.model or "-", c.kernel or "-")
            table.add_row(*map(escape, told))
        out.print(table)
    for line in cell.last_lines:
        out.print(f"  {escape(line)}", style="dim", soft_wrap=True)


def _print_reasons(out: Console, matrix: Matrix) -> None:
    """Each reason once, with the scenarios and the kernels that it is the reason for."""
    grouped: dict[tuple[Status, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for scenario, kernel, cell in matrix.cells():
        if cell.reason:
            grouped[cell.status, cell.reason][scenario].append(kernel)
    for status, meaning in MEANINGS.items():
        reasons = {reason: found for (of, reason), found in grouped.items() if of == status}
        if reasons:
            out.print(f"\n[{COLOURS[status]}]{meaning.capitalize()}:[/]")
        for reason, found in reasons.items():
            everywhere = list(matrix.kernels)
            names = [n if on == everywhere else f"{n} ({', '.join(on)})" for n, on in found.items()]
            out.print(f"  {escape(reason)}: [cyan]{escape(', '.join(names))}[/]")
