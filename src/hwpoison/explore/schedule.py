"""A schedule as text: which path runs up to what, then which. To be read, edited and pasted.

::

    mce > take folio_lock(0x3); rival > end; mce > end

Each part lets one path run until it is about to do what stands behind ``>`` (``#2``: the second time it is
about to), or to its end. When a schedule is through, whoever runs goes on, and then the others in the order
of the scenario. Operations are named, not counted, so a schedule survives changes elsewhere; where it fits
no longer, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hwpoison.abi.problems import WrongUse

from .engine import IDLE, Engine
from .explorer import Explorer
from .labels import announced
from .strands import Strand
from .strategies.random_walk import members

END = "end"
PART = re.compile(r"(?P<path>[^\s>;]+)\s*>\s*(?P<until>[^;]*?)(?:\s+#(?P<times>\d+))?\s*")


@dataclass(frozen=True, slots=True)
class Part:
    """``path`` runs until it announces ``until`` for the ``times``-th time."""

    path: str
    until: str
    times: int = 1

    def text(self) -> str:
        return f"{self.path} > {self.until}" + (f" #{self.times}" if self.times > 1 else "")


def write(parts: Sequence[Part]) -> str:
    return "; ".join(part.text() for part in parts)


def read(text: str) -> list[Part]:
    """The parts of a schedule; WrongUse says which one is not."""
    parts = []
    for piece in text.split(";"):
        if not piece.strip():
            continue
        match = PART.fullmatch(piece.strip())
        if match is None or not match["until"]:
            raise WrongUse(
                f"{piece.strip()!r} is no part of a schedule; expected PATH > OPERATION, or PATH > {END}"
            )
        parts.append(Part(match["path"], match["until"], int(match["times"] or 1)))
    if not parts:
        raise WrongUse(f"the schedule {text!r} is empty; expected PATH > OPERATION; PATH > {END}")
    return parts


class Follower:
    """Lets the parts of a schedule decide. ``misfit``: where it did not fit; the rest goes by default."""

    def __init__(self, engine: Engine, parts: Sequence[Part]) -> None:
        self.engine = engine
        self.parts = list(parts)
        self.at = 0
        self.begun = False  # the current part's path has made an event
        self.seen = 0
        self.running = -1
        self.misfit: str | None = None
        self.preemptions = self.switches = 0

    def pick(self, enabled: int) -> int:
        before = self.running
        tid = self._next_one(enabled)
        if before >= 0 and tid != before:
            self.switches += 1
            self.preemptions += enabled >> before & 1
        return tid

    def _next_one(self, enabled: int) -> int:
        while self.misfit is None and self.at < len(self.parts):
            part = self.parts[self.at]
            strand = self._strand(part.path)
            if strand is None or self._is_over(part, strand) or self.misfit is not None:
                continue
            if not enabled >> strand.tid & 1:
                waits = announced(strand)
                self.misfit = f"{part.path} cannot go on: it waits at {waits!r}, on its way to {part.until!r}"
                break
            self.begun = True
            self.running = strand.tid
            return strand.tid
        if not (self.running >= 0 and enabled >> self.running & 1):
            self.running = members(enabled)[0]
        return self.running

    def _strand(self, name: str) -> Strand | None:
        for strand in self.engine.strands.values():
            if strand.name == name and (strand in self.engine.live or strand.ended):
                return strand
        names = ", ".join(sorted(strand.name for strand in self.engine.live))
        self.misfit = f"there is no path {name!r} here; there are {names}"
        return None

    def _is_over(self, part: Part, strand: Strand) -> bool:
        """Has this part come to where it ends? Then the next one begins."""
        if strand.ended:
            if part.until != END:
                self.misfit = f"{part.path} ended and never came to {part.until!r}"
                return False
            return self._next()
        if self.begun and announced(strand) == part.until:
            self.seen += 1
            if self.seen == part.times:
                return self._next()
        return False

    def _next(self) -> bool:
        self.at += 1
        self.begun = False
        self.seen = 0
        return True


def follow(explorer: Explorer, parts: Sequence[Part]) -> Follower:
    """Run a schedule, at every point there is: what the engine has learned does not matter then."""
    engine = explorer.engine
    engine.every_point = True
    follower = Follower(engine, parts)
    try:
        explorer.execute([], follower.pick)
    finally:
        engine.every_point = False
    return follower


Stretch = tuple[int, int]
"""(path number, announcements it has made when another path takes over; TO_THE_END: it is not left)."""
TO_THE_END = -1


def stretches(engine: Engine) -> tuple[Stretch, ...]:
    """The execution that was last, in a form that holds whatever the engine learns later."""
    events = engine.events
    found: list[Stretch] = []
    for n, tid in enumerate(events.tid):
        if tid == IDLE or (n and events.tid[n - 1] == tid):
            continue
        if found:
            found[-1] = found[-1][0], _left_at(engine, found[-1][0], n)
        found.append((tid, TO_THE_END))
    return tuple(found)


def _left_at(engine: Engine, tid: int, n: int) -> int:
    """How many announcements a path has made that is not running from event ``n`` on."""
    events = engine.events
    for later in range(n, len(events)):
        if events.tid[later] == tid:
            return events.passed[later]
    strand = engine.strands[tid]
    return TO_THE_END if strand.ended else strand.passed


class Rerun:
    """Runs stretches, at every point there is. What does not fit is passed over."""

    def __init__(self, explorer: Explorer, wanted: Sequence[Stretch]) -> None:
        self.engine = explorer.engine
        self.left = list(wanted)
        self.begun = False
        self.running = -1
        self.preemptions = self.switches = 0
        self.parts: list[Part] = []
        self.begins: list[str] = []
        self.engine.every_point = True
        try:
            self.status = explorer.execute([], self.pick)
        finally:
            self.engine.every_point = False
        self._leave()
        self.failures = explorer.failures

    def pick(self, enabled: int) -> int:
        while self.left:
            tid, until = self.left[0]
            strand = self.engine.strands.get(tid)
            over = strand is None or strand.ended or (self.begun and strand.passed >= until != TO_THE_END)
            if not over and enabled >> tid & 1:
                self.begun = True
                return self._go(tid, enabled)
            self.left.pop(0)
            self.begun = False
        going = self.running >= 0 and enabled >> self.running & 1
        return self._go(self.running if going else members(enabled)[0], enabled)

    def _go(self, tid: int, enabled: int) -> int:
        if tid != self.running:
            self._leave()
            if self.running >= 0:
                self.switches += 1
                self.preemptions += enabled >> self.running & 1
        strand = self.engine.strands[tid]
        self.begins.append(announced(strand))
        self.running = tid
        return tid

    def _leave(self) -> None:
        """Another path takes over, or nobody: that part of the schedule is known now."""
        if self.running >= 0 and self.begins:
            strand = self.engine.strands[self.running]
            here = END if strand.ended else announced(strand)
            times = 1 if strand.ended else self.begins[1:].count(here) + 1
            self.parts.append(Part(strand.name, here, times))
        self.begins = []
