"""Forecasts for the terminal: a whole host, one process, single pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import (
    Answer,
    Consequence,
    HostForecast,
    KindLine,
    PageLine,
    PagesForecast,
    ProcessForecast,
    Setting,
)
from hwpoison.abi.records import Verdict, Victim
from hwpoison.report.terminal import Console

from .story import RESULT_COLOURS
from .words import describe, letters, memory, share

KINDS_SHOWN = 6  # of each consequence; programs get all of them
CONDITIONS_SHOWN = 12
COLOURS = {
    Consequence.NOTHING: "green",
    Consequence.ONE_PROCESS: "yellow",
    Consequence.SEVERAL_PROCESSES: "yellow",
    Consequence.DATA_LOST: "red",
    Consequence.MACHINE: "red",
    Consequence.UNKNOWN: "magenta",
}


def new_console() -> Console:
    return Console(highlight=False)


def print_forecast(
    forecast: HostForecast | PagesForecast | ProcessForecast, console: Console | None = None
) -> None:
    out = console or new_console()
    if isinstance(forecast, HostForecast):
        _print_host(out, forecast)
    elif isinstance(forecast, ProcessForecast):
        _print_process(out, forecast)
    else:
        print_setting(out, forecast.setting)
        for page in forecast.pages:
            _print_page(out, page)


def _print_host(out: Console, forecast: HostForecast) -> None:
    """The table by consequence, the kinds behind it, and when a verdict would differ."""
    out.print("[bold]What an uncorrected memory error would do, by what the bad page is[/]")
    print_setting(out, forecast.setting)
    out.print(_by_consequence(forecast.kinds, forecast.entries))
    for note in forecast.notes:
        out.print(escape(note))
    _print_kinds(out, forecast.kinds, forecast.entries)
    _print_conditions(out, forecast.kinds)


def _print_process(out: Console, forecast: ProcessForecast) -> None:
    """What the process would meet, then the same tables as for a host."""
    total = sum(line.pages for line in forecast.kinds)
    name = f"{escape(forecast.comm)} ({forecast.pid})"
    out.print(f"[bold]What an uncorrected memory error in a page of {name} would do[/]")
    print_setting(out, forecast.setting)
    table = _table("what the process itself meets", "pages", "memory", "share")
    for what, pages in forecast.suffers:
        table.add_row(escape(what), f"{pages:,}", memory(pages), share(pages, total))
    out.print(table)
    out.print(
        f"Not in memory: {forecast.swapped:,} pages swapped out, {forecast.not_present:,} never touched."
    )
    out.print(_by_consequence(forecast.kinds, total))
    _print_kinds(out, forecast.kinds, total)
    _print_conditions(out, forecast.kinds)


def print_setting(out: Console, setting: Setting) -> None:
    """Whose pages, whose handler; first of all what the reader must not overlook."""
    if setting.simulated:
        out.print(f"[bold red]SIMULATED HOST, not this machine:[/] {escape(setting.simulated)}")
    if not setting.handler:
        out.print(
            "[bold red]This kernel has no memory error handler[/] "
            f"({escape(setting.handler_evidence)}). It would do nothing of what follows: whoever reads bad "
            "memory is killed, or the machine stops. The forecast shows what the handler of "
            f"{escape(setting.profile)} would do on it."
        )
    out.print(
        f"[dim]Linux {escape(setting.release)}, judged by the handler of {escape(setting.profile)} "
        f"({escape(setting.profile_reason)})[/]"
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _by_consequence(kinds: Sequence[KindLine], total: int) -> Padding:
    """One row for each consequence, and one for all."""
    pages: Counter[Consequence] = Counter()
    for line in kinds:
        pages[line.answer.consequence] += line.pages
    table = _table("consequence", "pages", "memory", "share")
    for consequence in Consequence:
        count = pages[consequence]
        label = f"[{COLOURS[consequence]}]{consequence.label}[/]"
        table.add_row(label, f"{count:,}", memory(count), share(count, total))
    table.add_row(
        "[bold]all[/]", f"[bold]{pages.total():,}[/]", memory(pages.total()), share(pages.total(), total)
    )
    return Padding(table, (1, 0), expand=False)


def _print_kinds(out: Console, kinds: Sequence[KindLine], total: int) -> None:
    """The largest kinds of each consequence."""
    for consequence in Consequence:
        lines = [line for line in kinds if line.answer.consequence is consequence]
        if not lines:
            continue
        out.print(f"\n[bold {COLOURS[consequence]}]{consequence.label}[/]: {escape(consequence.meaning)}")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for justify in ("right", "right", "left", "left", "left"):
            table.add_column(justify=justify)
        for line in lines[:KINDS_SHOWN]:
            what = describe(line.flags, line.mappers)
            table.add_row(
                f"{line.pages:,}",
                share(line.pages, total),
                letters(line.flags),
                what,
                verdict_text(line.answer),
            )
        out.print(Padding(table, (0, 0, 0, 2), expand=False))
        if more := lines[KINDS_SHOWN:]:
            pages = sum(line.pages for line in more)
            out.print(f"  and {len(more)} more kinds with {pages:,} pages (--json has all)")
        if consequence is Consequence.DATA_LOST:
            _print_told(out, lines)


def verdict_text(answer: Answer) -> str:
    """The verdict with its colour, or why there is none."""
    verdict = answer.verdict
    if verdict is None:
        why, *ends = answer.conditions
        return f"[dim]{escape(', or '.join(ends) or why)}[/]"
    if verdict.result is None:
        return escape(verdict.stops or verdict.text())
    return f"[{RESULT_COLOURS[verdict.result.text]}]{escape(verdict.text())}[/]"


def _print_told(out: Console, lines: Iterable[KindLine]) -> None:
    """Who is told of lost data, by the number of pages."""
    readers: Counter[str] = Counter()
    for line in lines:
        if line.answer.verdict is not None:
            readers[told(line.answer.verdict)] += line.pages
    for text, pages in readers.most_common():
        out.print(f"  {pages:,} {'page' if pages == 1 else 'pages'}, {escape(text)}")


def told(verdict: Verdict) -> str:
    """Who learns of a loss."""
    return "told by " + "; ".join(verdict.told) if verdict.told else "nobody is told"


def _print_conditions(out: Console, kinds: Sequence[KindLine]) -> None:
    """What /proc cannot show, and how many pages would end otherwise for it."""
    pages: Counter[str] = Counter()
    for line in kinds:
        for condition in line.answer.conditions if line.answer.verdict else ():
            pages[condition] += line.pages
    if not pages:
        return
    out.print("\n[bold]What /proc does not show could change a verdict[/] (pages that it may be true for)")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    for condition, count in pages.most_common(CONDITIONS_SHOWN):
        table.add_row(f"{count:,}", escape(condition))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    if (more := len(pages) - CONDITIONS_SHOWN) > 0:
        out.print(f"  and {more} more, for fewer pages (--json has all)")


def _print_page(out: Console, page: PageLine) -> None:
    """What it is, who uses it, what becomes of it and of them."""
    times = {None: "not counted", 0: "nowhere", 1: "once"}
    out.print(f"\n[bold]page {page.pfn} ({page.pfn:#x})[/]: {describe(page.flags, page.count)}")
    rows = [
        ("flags", f"{escape(letters(page.flags))}: {' '.join(pg.names(page.flags)) or 'none'}"),
        ("mapped", times.get(page.count, f"{page.count} times")),
        *(("" if number else "by", text) for number, text in enumerate(_places(page))),
        *_outcome(page.answer),
    ]
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, text in rows:
        table.add_row(name, text)
    out.print(Padding(table, (0, 0, 0, 2), expand=False))


def _places(page: PageLine) -> Iterable[str]:
    for place in page.places:
        path = f" ({escape(place.path)})" if place.path else ""
        untouched = "" if place.populated else ", not touched yet"
        yield f"{escape(place.comm)} {place.pid} at {place.address:#x}{path}{untouched}"


def _victim(victim: Victim) -> str:
    where = "" if victim.address is None else f" at {victim.address:#x}"
    signal = f"{victim.signal.name} {victim.code.name}{where}, {victim.when}"
    return f"{escape(victim.comm)} {victim.pid}: {signal}"


def _outcome(answer: Answer) -> Iterable[tuple[str, str]]:
    """What an error comes to, as rows of name and text."""
    verdict = answer.verdict
    yield "verdict", verdict_text(answer)
    if verdict is not None:
        if verdict.reason:
            yield "because", escape(verdict.reason)
        for number, victim in enumerate(verdict.victims):
            yield "" if number else "hits", _victim(victim)
        yield "lost", f"{escape(verdict.loss)}; {escape(told(verdict))}" if verdict.loss else "nothing"
    yield (
        "comes to",
        f"[{COLOURS[answer.consequence]}]{answer.consequence.label}[/]: {answer.consequence.meaning}",
    )
    for number, condition in enumerate(answer.conditions if verdict else answer.conditions[1:]):
        yield ("" if number else "but" if verdict else "either"), escape(condition)
