"""Depth-first search that turns back at a state it has seen: for loops, where the number of orders explodes.

A state is the world and, of each path, where in its code it stands and what its local variables hold, read
from the suspended greenlet. Only for programs whose state can be compared: everything that changes is a
number, a text or nothing, and every loop counts in a variable. A program says so by ``comparable = True``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from hwpoison.abi.problems import WrongUse

from ..explorer import Explorer
from ..watch import Field
from .bounded import Bounded

MACHINERY = ("hwpoison.explore.engine", "hwpoison.explore.strategies", "hwpoison.mm.locks")
"""Frames of these say nothing that the path's pending operation does not."""
SIMPLE = (int, str, float, bytes, type(None), tuple, frozenset)


class Cached(Bounded):
    """Every choice at every point of every state, once."""

    name = "cached"

    def __init__(self, explorer: Explorer) -> None:
        if not getattr(explorer.program, "comparable", False):
            raise WrongUse(
                "the states of this program cannot be compared, so 'cached' could miss some; use 'dpor'"
            )
        self.explorer = explorer
        self.seen: set[Any] = set()
        self.fields: list[tuple[Any, Field]] = []
        super().__init__(explorer.engine)

    def restart(self) -> None:
        super().restart()
        self.seen.clear()

    def pick(self, enabled: int) -> int:
        """Give the execution up where others have been before."""
        state = self._state()
        if state in self.seen:
            return -1
        self.seen.add(state)
        return super().pick(enabled)

    def _state(self) -> Any:
        engine = self.engine
        world = tuple(_plain(field.get(thing)) for thing, field in self._changing())
        paths = tuple(
            (
                strand.tid,
                strand.op,
                id(strand.on),
                strand.waits_for is None,
                tuple(id(held) for held in strand.held),
                _place(strand is engine.current, strand.worker),
            )
            for strand in sorted(engine.live, key=lambda strand: strand.tid)
        )
        return world, paths

    def _changing(self) -> list[tuple[Any, Field]]:
        if not self.fields:
            things = self.explorer.world.objects.values()
            self.fields = [
                (thing, field) for thing in things for field in self.explorer.watch.fields_of(thing)
            ]
        return self.fields


def _plain(value: Any) -> Any:
    """A value that can be compared: a container by what is in it."""
    if isinstance(value, dict):
        return tuple(sorted(dict.items(value)))
    return tuple(list.__iter__(value)) if isinstance(value, list) else value


def _place(running: bool, worker: Any) -> tuple[Any, ...]:
    """Where a path stands: code, instruction and locals of each frame that is its own."""
    if worker is None:
        return ()
    found: list[Any] = []
    frame: FrameType | None = sys._getframe() if running else worker.glet.gr_frame
    while frame is not None:
        if not frame.f_globals["__name__"].startswith(MACHINERY):
            values = [
                (name, value) for name, value in sorted(frame.f_locals.items()) if isinstance(value, SIMPLE)
            ]
            found.append((id(frame.f_code), frame.f_lasti, tuple(values)))
        frame = frame.f_back
    return tuple(found)
