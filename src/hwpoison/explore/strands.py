"""A path under the engine, and what can be asked about the locks that it wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwpoison.mm.locks import Lock, Op, Path, RwSem

if TYPE_CHECKING:
    from .engine import Worker


class Spin:
    """What a path waits for that goes round in a loop."""

    def describe(self) -> str:
        return "a change that ends its loop"


SPIN = Spin()


class EngineError(Exception):
    """The explorer itself is at fault, or the program is not a function of its schedule."""


class Strand(Path):
    """A path under the engine. ``op`` and ``on``: what it has announced and will do when it is next."""

    __slots__ = (
        "conditional",
        "delta",
        "last",
        "on",
        "op",
        "passed",
        "spawned",
        "started",
        "tid",
        "what",
        "woken",
        "work",
        "worker",
    )

    def __init__(self, tid: int, name: str, task: Any, cpu: int) -> None:
        super().__init__(name, task, cpu)
        self.tid = tid
        self.begin(None)

    def begin(self, work: Callable[[], Any] | None) -> None:
        """As before its first event."""
        self.work = work
        self.announce(Op.START, self)
        self.started = False
        self.passed = 0  # announcements, those that were no point included
        self.last = self.spawned = self.woken = -1
        self.worker: Worker | None = None
        self.held.clear()
        self.held_mask = 0
        self.waits_for = None
        self.ended = False
        self.error = None
        self.result = None

    def announce(self, op: Op, on: object) -> None:
        """An operation that is no lock to wait for, and no counter."""
        self.op = op
        self.on = on
        self.what: str | int = 0
        self.delta = 0
        self.conditional = False


def is_free(on: Any, op: Op) -> bool:
    """Would an acquisition not have to wait?"""
    kind = type(on)
    if kind is Lock:
        return on.owner is None
    if kind is RwSem:
        return on.writer is None and (op is Op.ACQUIRE_SHARED or not on.readers)
    return on.lock_owner is None


def holds(on: Any, path: Path) -> bool:
    kind = type(on)
    if kind is Lock:
        return on.owner is path
    if kind is RwSem:
        return on.writer is path or path in on.readers
    return on.lock_owner is path
