"""A whole host: every page counted once, by kind, each kind judged once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import HostForecast, KindLine, Setting
from hwpoison.abi.problems import NotPossible
from hwpoison.host.frames import scan
from hwpoison.host.proc import Host, Progress

from .kinds import READ, SEVERAL, Kind, kind_of
from .oracle import Oracle
from .unflagged import read_zones, unflagged_note


def forecast_host(
    host: Host, oracle: Oracle, setting: Setting, progress: Progress | None = None
) -> HostForecast:
    """What an error would do, for each page of the host. Raises Problem if the host cannot be read."""
    tally = scan(host, mask=READ, cap=SEVERAL, progress=progress)
    pages: Counter[Kind] = Counter()
    for (flags, count), number in tally.kinds.items():
        pages[kind_of(flags, count)] += number
    if pages.total() != tally.entries:
        raise NotPossible(
            f"{tally.entries} frames were read but {pages.total()} counted: this is a mistake of this program"
        )
    return HostForecast(
        setting, tally.entries, lines_of(pages, oracle), tuple(_notes(host, tally.entries, pages))
    )


def lines_of(pages: Counter[Kind], oracle: Oracle) -> tuple[KindLine, ...]:
    """One line for each kind, the largest first."""
    return tuple(
        KindLine(kind.flags, kind.mappers, number, oracle.of_kind(kind))
        for kind, number in pages.most_common()
    )


def _notes(host: Host, entries: int, pages: Counter[Kind]) -> Iterable[str]:
    if any(kind.mappers is None for kind in pages):
        yield (
            "How many processes map a page is not known of some or all (/proc/kpagecount cannot be read, "
            "or is cut short): such pages count as mapped once."
        )
    note = unflagged_note(
        read_zones(host),
        entries,
        unflagged=pages[Kind(0)],
        nopage=pages[Kind(pg.NOPAGE)],
        reserved=sum(number for kind, number in pages.items() if kind.has(pg.RESERVED)),
    )
    if note is not None:
        yield note
