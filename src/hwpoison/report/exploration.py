"""An exploration for the terminal: the verdict, each failure in columns, one a path, and how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from hwpoison.abi.exploration import Exploration, Moment, Telling
from hwpoison.report.terminal import Console

QUIET_EVENTS = 1
"""So many events in a row that touch nothing shared are still shown; of more, their number."""


def print_exploration(told: Exploration, console: Console | None = None) -> None:
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(f"[bold]{escape(told.scenario)}[/] on kernel {told.kernel}: {escape(told.title or 'no title')}")
    out.print(f"paths: {', '.join(told.paths)}")
    for failure in told.failures:
        _print_telling(out, failure)
    for failure in told.known:
        _print_telling(out, failure)
    for name in told.unseen:
        out.print(f"[yellow]no execution showed the weakness {name!r} that the scenario lists[/]")
    out.print(verdict(told))


def verdict(told: Exploration) -> str:
    """The last line: what may be concluded."""
    runs = f"{told.executions:,} executions of about {told.events:.0f} events"
    if told.status == "exhausted":
        said = f"[green]every interleaving: no failure[/], {told.orders:,} different orders in {runs}"
    elif told.status == "failed":
        said = f"[red]{len(told.failures)} sort{'s' * (len(told.failures) != 1)} of failure[/] in {runs}"
    elif told.bound is not None:
        said = f"[yellow]no failure with at most {told.bound} preemptions; more were not tried[/], {runs}"
    elif told.status == "one schedule":
        said = f"no failure under this schedule, {told.events:.0f} events"
    else:
        size = f"; there may be about {told.estimate:,} orders" if told.estimate else ""
        said = f"[yellow]the budget is spent: no failure so far, and no pass[/], {runs}{size}"
    known = (
        f"; {len(told.known)} known weakness{'es' * (len(told.known) != 1)} of this kernel"
        if told.known
        else ""
    )
    return said + known


def _print_telling(out: Console, failure: Telling) -> None:
    colour = "yellow" if failure.known else "red"
    known = f" (known weakness {failure.known!r})" if failure.known else ""
    out.print(f"\n[{colour}]{failure.kind}: {escape(failure.text)}[/]{escape(known)}")
    switches = (
        f"{failure.preemptions} preemption{'s' * (failure.preemptions != 1)}, {failure.switches} switches"
    )
    out.print(f"  {switches}; found by {failure.strategy} in execution {failure.executions}")
    if failure.racing is not None:
        first, second, at = map(escape, failure.racing)
        out.print(f"  race: [bold]{first}[/] before [bold]{second}[/], at {at}; not the other way round")
    if failure.certain is not None:
        out.print(f"  certain from: [bold]{escape(failure.certain)}[/]")
    out.print(columns(failure.moments))
    for line in failure.state:
        out.print(f"  [dim]{escape(line)}[/]")
    out.print(f"  repeat: {escape(failure.command)}")


def columns(moments: Sequence[Moment]) -> Table:
    """One column a path; what nobody else can tell apart is counted, not told."""
    paths = list(dict.fromkeys(moment.path for moment in moments))
    table = Table(box=None, pad_edge=True, header_style="bold")
    table.add_column("")
    for path in paths:
        table.add_column(escape(path), overflow="fold")
    skipped = 0
    for n, moment in enumerate(moments):
        turns = n == 0 or moments[n - 1].path != moment.path
        if not (moment.shared or moment.role or turns):
            skipped += 1
            continue
        if skipped:
            _row(table, paths, moments[n - 1].path, f"[dim]… {skipped} of its own[/]", "")
            skipped = 0
        style = {"race": "bold magenta", "certain": "bold red"}.get(moment.role, "")
        text = f"[{style}]{escape(moment.label)}[/]" if style else escape(moment.label)
        _row(table, paths, moment.path, text, ">>>" if moment.preempts else "")
    if skipped:
        _row(table, paths, moments[-1].path, f"[dim]… {skipped} of its own[/]", "")
    return table


def _row(table: Table, paths: list[str], path: str, text: str, mark: str) -> None:
    table.add_row(mark, *(text if name == path else "" for name in paths))
