"""What an exploration of interleavings came to, as plain records for reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of an execution. ``shared``: another path does something that conflicts with it."""

    path: str
    label: str
    preempts: bool
    shared: bool
    role: str = ""
    """"race": one of the two events whose order matters; "certain": from here on the failure is."""


@dataclass(frozen=True, slots=True)
class Telling:
    """One failure, shortened. ``racing``: what one path does, what another does, and what they meet at."""

    kind: str
    text: str
    known: str | None
    schedule: str
    preemptions: int
    switches: int
    found_with: int
    strategy: str
    executions: int
    racing: tuple[str, str, str] | None
    certain: str | None
    moments: tuple[Moment, ...]
    state: tuple[str, ...]
    command: str


@dataclass(frozen=True, slots=True)
class Exploration:
    """``status``: a word of explore/search.py; ``bound``: preemptions up to which it is exhausted."""

    scenario: str
    title: str
    kernel: str
    paths: tuple[str, ...]
    status: str
    bound: int | None
    executions: int
    orders: int
    repeated: int
    events: float
    estimate: int | None
    failures: tuple[Telling, ...]
    known: tuple[Telling, ...]
    unseen: tuple[str, ...] = ()
    """Weaknesses that the scenario lists and no execution showed."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)
