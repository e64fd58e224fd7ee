"""Which kinds of locks were taken while which were held, over all executions: a cycle may deadlock some day.

As the kernel's lockdep, and further: the folio lock and waits for writeback are in it, too. Whoever waits
for an event while he holds a lock waits, in effect, for every lock that the path which brings the event
about has to take before. Locks that were tried make no edge, for they do not wait; nor does a second lock
of the same kind, whose order its taker vouches for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from hwpoison.mm.locks import Path

Edge = tuple[str, str]


@dataclass(slots=True)
class LockGraph:
    """``edges``: (held, then taken) by kind, each with the path that did it first."""

    edges: dict[Edge, str] = field(default_factory=dict)
    needed: dict[str, set[str]] = field(default_factory=dict)
    """By the path's name without its numbers: kinds of locks it has taken in this execution."""

    def took(self, path: Path, kind: str) -> None:
        """A path waits for, or takes, a lock of this kind."""
        for held in path.held:
            self._edge(held.lock_class.name, kind, path.name)
        self.needed.setdefault(path.name, set()).add(kind)

    def waits(self, path: Path, event: str) -> None:
        """A path goes to sleep until something happens."""
        for held in path.held:
            self._edge(held.lock_class.name, event, path.name)

    def wakes(self, path: Path, event: str) -> None:
        """A path lets it happen: whatever it had to take before, the sleeper has waited for."""
        for kind in self.needed.get(path.name, ()):
            self._edge(event, kind, path.name)

    def begin(self) -> None:
        """Another execution."""
        self.needed.clear()

    def _edge(self, held: str, taken: str, name: str) -> None:
        if held != taken:
            self.edges.setdefault((held, taken), name)

    def cycle(self) -> list[str] | None:
        """Kinds of locks of which each may be taken while the one before is held, round in a circle."""
        after: dict[str, set[str]] = {}
        for held, taken in self.edges:
            after.setdefault(taken, set()).add(held)
        try:
            TopologicalSorter(after).prepare()
        except CycleError as error:
            return list(error.args[1])
        return None

    def tell(self, cycle: Iterable[str]) -> str:
        """The circle in words, with a path for each step."""
        kinds = list(cycle)
        steps = [
            f"{after} after {before} (by {self.edges[before, after]})"
            for before, after in pairwise(kinds)
            if (before, after) in self.edges
        ]
        return "locks in a circle: " + ", ".join(steps)
