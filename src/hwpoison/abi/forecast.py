"""The records of a forecast: what hwpoison.forecast answers, and what the reports read.

Nothing here decides anything. A *kind* is what /proc shows of a page, without the bits that change
nothing; an *answer* is what an error on such a page would do, or why that cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .records import Note, Verdict


class Consequence(Enum):
    """What an error comes to for the people on the host: its name, and what that means."""

    NOTHING = ("nothing noticed", "no process is hit, no data is lost")
    ONE_PROCESS = (
        "one process",
        "one process gets SIGBUS, at its next touch unless it asked to be told early",
    )
    SEVERAL_PROCESSES = ("several processes", "each process gets SIGBUS, at its own next touch")
    DATA_LOST = ("data lost", "the only good copy of a file's contents, or of memory whose owner is not told")
    MACHINE = (
        "the machine's fate",
        "the kernel's own page, or one the kernel goes on using: open, often a crash",
    )
    UNKNOWN = ("cannot be told", "what /proc shows fits pages that end differently, or none of the model")

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning


@dataclass(frozen=True, slots=True)
class Answer:
    """What an error on a page would do. ``verdict`` None: it cannot be told, ``conditions`` begin with why.

    ``conditions``: facts that /proc does not show, under each of which the handler decided otherwise.
    """

    verdict: Verdict | None
    consequence: Consequence
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KindLine:
    """All pages of one kind. ``flags`` in the bits of abi.pageflags; ``mappers``: page table entries that
    map the page, 2 for several, None if unknown."""

    flags: int
    mappers: int | None
    pages: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process maps a page, or (``populated`` False) could at any time; ``address`` in bytes."""

    pid: int
    comm: str
    address: int
    path: str | None
    populated: bool


@dataclass(frozen=True, slots=True)
class PageLine:
    """One real page."""

    pfn: int
    flags: int
    count: int | None
    places: tuple[Place, ...]
    answer: Answer


@dataclass(frozen=True, slots=True)
class Setting:
    """Whose pages were judged, and by which handler. ``simulated``: why this is a made-up host, or None."""

    release: str
    handler: bool
    handler_evidence: str
    profile: str
    profile_reason: str
    simulated: str | None = None


@dataclass(frozen=True, slots=True)
class HostForecast:
    """A whole host. ``entries``: words of /proc/kpageflags, each counted in exactly one of ``kinds``."""

    setting: Setting
    entries: int
    kinds: tuple[KindLine, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessForecast:
    """All pages that one process maps. ``suffers``: what the process itself would meet → pages."""

    setting: Setting
    pid: int
    comm: str
    kinds: tuple[KindLine, ...]
    suffers: tuple[tuple[str, int], ...]
    swapped: int
    not_present: int


@dataclass(frozen=True, slots=True)
class PagesForecast:
    """The pages asked for by number."""

    setting: Setting
    pages: tuple[PageLine, ...]


@dataclass(frozen=True, slots=True)
class StateLine:
    """One page state under each kernel: ``answers`` are pairs of a profile's name and its answer."""

    flags: int
    mappers: int | None
    answers: tuple[tuple[str, Answer], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a page type or a page state.

    ``rules``: the rows of the state tables concerned, in words. ``notes``: the story of the handler's run on
    the first of ``states``.
    """

    title: str
    rules: tuple[str, ...]
    states: tuple[StateLine, ...]
    notes: tuple[Note, ...]
