"""The story of one run of a scenario, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from hwpoison.abi.records import Broken, Note, Observation, Outcome, StoryStep
from hwpoison.report.terminal import Console

ERRORS_KILL = ("SIGBUS", "SIGKILL")
"""What a memory error can end a task with; a task that dies of anything else did so by itself."""
RESULT_COLOURS = {"Recovered": "green", "Delayed": "yellow", "Failed": "red", "Ignored": "red"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run came out. ``broken``: promises not kept, with the known weakness behind each, if any."""

    name: str
    title: str
    source: str
    outcome: Outcome
    broken: tuple[tuple[Broken, str | None], ...]
    findings: tuple[str, ...]
    expected: int


def print_catalogue(rows: Sequence[tuple[str, str, str]]) -> None:
    """(name, title, family) of each scenario."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("scenario", "family", "what happens"):
        table.add_column(column)
    for name, title, family in rows:
        table.add_row(f"[cyan]{escape(name)}[/]", escape(family), escape(title))
    Console(highlight=False).print(table)


def print_story(steps: Sequence[StoryStep], ending: Ending, console: Console | None = None) -> None:
    """Step by step, then what it came to."""
    out = console or Console(highlight=False, soft_wrap=True)
    kernel = ending.outcome.kernel
    out.print(f"[bold]{escape(ending.name)}[/] on kernel {kernel}: {escape(ending.title or 'no title')}")
    for step in steps:
        out.print(f"[bold]{step.number:>3}[/]  {escape(step.step)}")
        for note in step.notes:
            out.print(f"       [blue]{escape(note.who)}[/]: {escape(note.text)}{_source(note)}")
        for line in step.log:
            out.print(f"       [dim]log: {escape(line)}[/]")
        for seen in step.seen:
            if seen.kind not in ("verdict",):
                out.print(f"       → {_seen(seen)}")
    _print_ending(out, ending)


def _source(note: Note) -> str:
    return f"  [dim]{escape(note.source)}[/]" if note.source else ""


def _seen(seen: Observation) -> str:
    """One observation as a person would say it."""
    who, value = escape(seen.who), {key: escape(str(v)) for key, v in seen.value.items()}
    if seen.kind == "signal":
        return f"[red]{who} gets SIGBUS, {value['code']}, at {value['page']}[/]"
    if seen.kind == "died":
        return f"[red]{who} dies of {value['signal']}[/]"
    if seen.kind == "call":
        if "errno" in value:
            return f"[yellow]{who}: {value['errno']}[/]"
        return f"{who}: {value['data']}"
    if seen.kind == "return":
        return f"the injection returned {value['code']}"
    if seen.kind == "panic":
        return f"[red]the machine stops: {value['text']}[/]"
    return f"{who} " + ", ".join(f"{key} {text}" for key, text in value.items())


def _print_ending(out: Console, ending: Ending) -> None:
    outcome = ending.outcome
    verdicts = [o.value for o in outcome.observations if o.kind == "verdict"]
    for verdict in verdicts:
        colour = RESULT_COLOURS[str(verdict["result"])]
        out.print(f"[bold]Verdict:[/] {escape(str(verdict['type']))}: [{colour}]{verdict['result']}[/]")
    fates = [o for o in outcome.observations if o.kind == "signal" or o.value.get("signal") in ERRORS_KILL]
    hurt = dict.fromkeys(o.who for o in fates)
    out.print(f"[bold]Hurt:[/]    {', '.join(map(escape, hurt)) or 'nobody'}")
    out.print(f"[bold]Lost:[/]    {'; '.join(map(escape, outcome.losses)) or 'nothing'}")
    if not ending.broken:
        out.print("[bold]Promises:[/] all six kept")
    for broken, weakness in ending.broken:
        colour = "yellow" if weakness else "red"
        out.print(f"[bold]Promise {broken.promise}[/] [{colour}]broken[/]: {escape(broken.text)}")
        if weakness:
            out.print(f"         {escape(weakness)}", style="dim")
    if ending.source:
        out.print(f"[bold]Source:[/]  {escape(ending.source)}", style="dim")
    for finding in ending.findings:
        out.print(f"[red]{escape(finding)}[/]")
    if ending.expected and not ending.findings:
        out.print(f"As written: {ending.expected} expectations met.", style="green")
