"""The terminal as everything here prints to it."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """Rich's console, but a reader that has left ends the command as it ends others, not as a finding."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("whoever read our output has left")
