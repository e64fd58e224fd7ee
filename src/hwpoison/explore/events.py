"""The events of one execution, as parallel lists: cheaper to keep and to cut than an object for each."""

from __future__ import annotations

from hwpoison.mm.locks import Op

from .footprint import NOTHING, Footprint


class Events:
    """``cut(n)`` keeps the first n: the next execution begins with the same ones."""

    __slots__ = (
        "acquired",
        "before",
        "conditional",
        "delta",
        "footprint",
        "moved",
        "on",
        "op",
        "passed",
        "released",
        "tid",
        "what",
    )

    def __init__(self) -> None:
        self.tid: list[int] = []
        self.op: list[Op] = []
        self.on: list[object] = []
        self.delta: list[int] = []
        self.what: list[str | int] = []
        self.conditional: list[bool] = []
        self.passed: list[int] = []  # announcements that the path has made by then
        self.before: list[tuple[int, int, int]] = []
        """The path's event before, the one that woke it, the one that started it; -1: none."""
        self.footprint: list[Footprint] = []
        self.acquired: list[tuple[int, bool] | None] = []
        """(lock's number, shared) of a lock that is still held when the event ends."""
        self.released: list[tuple[tuple[int, bool], ...]] = []
        """The locks given back that were taken in an earlier event."""
        self.moved: list[tuple[int, int] | None] = []
        """(key, by how much) of a counter that was changed without looking at its value."""

    def cut(self, count: int) -> None:
        for name in self.__slots__:
            del getattr(self, name)[count:]

    def open(
        self,
        tid: int,
        op: Op,
        on: object,
        delta: int,
        conditional: bool,
        before: tuple[int, int, int],
        passed: int = 0,
        what: str | int = 0,
    ) -> None:
        self.tid.append(tid)
        self.op.append(op)
        self.on.append(on)
        self.delta.append(delta)
        self.conditional.append(conditional)
        self.before.append(before)
        self.passed.append(passed)
        self.what.append(what)
        self.footprint.append(NOTHING)
        self.acquired.append(None)
        self.released.append(())
        self.moved.append(None)

    def __len__(self) -> int:
        return len(self.tid)
