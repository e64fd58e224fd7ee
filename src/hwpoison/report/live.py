"""What is going on in several places at once, on stderr: bars on a terminal, else a line when it changes."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hwpoison.report.terminal import Console


class Live:
    """Call it with a name, how much of it is done and how much there is, and what is being done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", style="dim"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __call__(self, name: str, done: float, total: float, doing: str, stage: str = "") -> None:
        """``stage`` changes seldom: without a terminal, there is one line for each."""
        if self._progress.disable:
            if stage and self._said.get(name) != stage:
                self._said[name] = stage
                self._console.print(f"{escape(name)}: {escape(stage)}")
            return
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(escape(name), total=total, doing="")
        self._progress.update(self._bars[name], completed=done, total=total, doing=escape(doing))

    def say(self, text: str) -> None:
        """One line, above the bars."""
        self._console.print(escape(text))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        sys.stderr.flush()
