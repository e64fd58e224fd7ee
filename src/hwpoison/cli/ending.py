"""A request to end (SIGTERM) ends a command like an interrupt does: what it started and made is cleaned
up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises typer.Exit with the code that the shell reports for it."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
