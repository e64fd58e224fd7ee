"""The records that every witness answers with, and that every report reads.

An *Observation* is one thing that could be seen from outside: by a system call, in the log, in a
counter. An *Outcome* is all that one run of a scenario let us see. The model and a real kernel
both answer with these, so comparing them is comparing values. A *Verdict* is what an error on one
page comes to: the handler's decision with the people it hits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .results import MfResult, PageType
from .signals import SiCode, SigInfo, Signal

Value = str | int | None
When = Literal["at once", "on access"]

Kind = Literal[
    "signal",  # a task got one: signal, code, page (name + offset in pages), lsb
    "died",  # a task ended: signal
    "call",  # a system call or an access returned: call, and data (a label) or errno
    "return",  # what the injection returned: code
    "verdict",  # a verdict line of the log: type, result
    "log",  # another line of the log that the scenario asked for: text
    "counter",  # a counter moved: name, change
    "page",  # the page afterwards: flags (letters of the ones compared), refs
    "pte",  # a page table entry afterwards: present / poison / swap / none
    "pool",  # a pool of huge pages: nr, free, reserved, surplus
    "disk",  # what is on the disk afterwards: data
    "panic",  # the machine stopped: text
]


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen. ``step`` counts from 1; ``who`` is a task, file or page of the scenario, or ''."""

    step: int
    kind: Kind
    who: str
    value: dict[str, Value] = field(default_factory=dict)

    def text(self) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.value.items())
        return f"{self.step:>2} {self.kind:<8} {self.who:<8} {values}".rstrip()

    def as_dict(self) -> dict[str, object]:
        return {"step": self.step, "kind": self.kind, "who": self.who, **self.value}


@dataclass(frozen=True, slots=True)
class Victim:
    """One task that an error hurts. ``address`` is a byte address in it, None when it was not told one."""

    pid: int
    comm: str
    address: int | None
    signal: Signal
    code: SiCode
    when: When
    lsb: int = 12

    def as_dict(self) -> dict[str, object]:
        return {
            "pid": self.pid,
            "comm": self.comm,
            "address": self.address,
            "signal": self.signal.name,
            "code": self.code.name,
            "when": self.when,
        }

    @classmethod
    def of(cls, pid: int, comm: str, info: SigInfo, when: When) -> Victim:
        return cls(pid, comm, info.address, info.signal, info.code, when, info.lsb)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error on one page comes to. ``page_type`` None: the handler ended without a verdict line.

    ``loss`` says which contents are gone, and ``told`` who learns of that, one sentence each; ``durable``:
    they belonged to a file, so the loss outlives the processes. ``exposed``: bytes of the bad frame reach
    somebody who is not stopped. ``stops``: why the machine stops, if it does. ``reason`` is the handler's,
    ``row`` the row of its state table that decided, from 1.
    """

    pfn: int
    page_type: PageType | None
    result: MfResult | None
    returned: int
    victims: tuple[Victim, ...] = ()
    loss: str | None = None
    told: tuple[str, ...] = ()
    durable: bool = False
    exposed: bool = False
    stops: str | None = None
    reason: str = ""
    row: int | None = None

    def text(self) -> str:
        if self.page_type is None or self.result is None:
            return f"no verdict, returned {self.returned}"
        return f"{self.page_type.log}: {self.result.text}"


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a story: who did what, and the rule or the kernel source behind it."""

    who: str
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One step of a run, told: the step, what happened inside, the kernel's log lines, what could be seen."""

    number: int
    step: str
    notes: tuple[Note, ...]
    log: tuple[str, ...]
    seen: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise (1 to 6) that a run did not keep; ``deviation`` names the known weakness that explains it."""

    promise: int
    text: str
    deviation: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that one run of a scenario let us see. ``witness`` is "model" or the release of a real kernel."""

    scenario: str
    kernel: str
    witness: str
    observations: tuple[Observation, ...]
    broken: tuple[Broken, ...] = ()
    losses: tuple[str, ...] = ()
    """What was lost for good, one sentence each."""

    def as_dict(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            "kernel": self.kernel,
            "witness": self.witness,
            "observations": [seen.as_dict() for seen in self.observations],
            "losses": list(self.losses),
            "broken": [{"promise": b.promise, "text": b.text, "deviation": b.deviation} for b in self.broken],
        }
