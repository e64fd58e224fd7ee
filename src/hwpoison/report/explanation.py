"""The explanation of a page type or a page state, for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from hwpoison.abi.forecast import Explanation, StateLine
from hwpoison.abi.records import Note
from hwpoison.report.terminal import Console

from .forecast import COLOURS, new_console, told, verdict_text
from .words import describe, letters


def print_explanation(explained: Explanation, console: Console | None = None) -> None:
    """The rules, what comes out under each kernel, what could change that, and the newest handler's story."""
    out = console or new_console()
    out.print(f"[bold]{escape(explained.title)}[/]")
    for rule in explained.rules:
        out.print(f"  {escape(rule)}")
    for state in explained.states:
        _print_state(out, state)
    print_notes(out, explained.notes)


def _print_state(out: Console, state: StateLine) -> None:
    out.print(f"\n[bold]{escape(letters(state.flags))}[/]  {describe(state.flags, state.mappers)}")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column()
    kernels: dict[tuple[str, str], list[str]] = {}
    for name, answer in state.answers:
        label = f"[{COLOURS[answer.consequence]}]{answer.consequence.label}[/]"
        kernels.setdefault((verdict_text(answer), label), []).append(name)
    for (text, label), names in kernels.items():
        table.add_row(f"[dim]{', '.join(names)}[/]", text, label)
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    _name, newest = state.answers[0]
    verdict = newest.verdict
    if verdict is None:
        return
    if verdict.loss:
        out.print(f"  [dim]lost:[/] {escape(verdict.loss)}; {escape(told(verdict))}")
    for condition in newest.conditions:
        out.print(f"  [dim]but:[/] {escape(condition)}")


def print_notes(out: Console, notes: tuple[Note, ...]) -> None:
    """The handler's steps, each with the kernel function that does it."""
    if notes:
        out.print("\n[bold]Step by step[/]")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(style="dim")
        for note in notes:
            table.add_row(escape(note.text), escape(note.source))
        out.print(Padding(table, (0, 0, 0, 2), expand=False))
