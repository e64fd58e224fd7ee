"""A progress bar on stderr, for people who wait: only on a terminal, only when it takes long."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 1.0


class Waiting:
    """Call it with how many are done and how many there are (0: unknown)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._since < PATIENCE_S or not sys.stderr.isatty():
                return
            from rich.progress import Progress

            from hwpoison.report.terminal import Console

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.add_task(self._what)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
