"""What is explored: a world, some paths in it, and what must be true when they have ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from .engine import Engine


@dataclass(frozen=True, slots=True)
class PathSpec:
    """One path: its name, what it does, for whom, and on which processor."""

    name: str
    function: Callable[[], Any]
    task: Any = None
    cpu: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """What must not happen. ``kind``: deadlock, assertion, promise, lock order, data race, endless."""

    kind: str
    text: str
    known: str | None = field(default=None, compare=False)
    """The named weakness of real kernels behind it (failure/deviations.py): told, and no failure."""

    @property
    def sort(self) -> tuple[str, str]:
        """Two failures of one sort are the same mistake: kind and words, numbers left out."""
        return self.kind, re.sub(r"0x[0-9a-f]+|\d+|'[^']*'", "…", self.text)


class Program(Protocol):
    """Built once; its world is put back before every execution."""

    @property
    def paths(self) -> Engine: ...
    @property
    def roots(self) -> list[Any]: ...
    @property
    def modules(self) -> list[ModuleType]: ...
    @property
    def specs(self) -> Sequence[PathSpec]: ...

    @property
    def lockless(self) -> Mapping[str, str] | None:
        """What may be touched without a lock (dataraces.py); None: nobody looks for data races."""
        ...

    def settle(self) -> None:
        """Every path has ended: let what is left happen."""
        ...

    def check(self) -> list[Failure]:
        """What is wrong now? Changes nothing."""
        ...
