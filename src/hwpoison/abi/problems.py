"""What people are told when something cannot be done: one sentence, and the exit code that goes with it.

Exit codes of every command: 0 done, 1 a finding (a broken promise, a difference), 2 wrong use,
3 not permitted or not possible here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE = 0
FINDING = 1
WRONG_USE = 2
NOT_POSSIBLE = 3


class Problem(Exception):
    """Something the user can understand and act on: never shown as a traceback.

    The text names what was wrong, the value, what was expected, and the way out.
    """

    exit_code = NOT_POSSIBLE


class WrongUse(Problem):
    """The request itself is mistaken: an unknown name, a number out of range, a malformed file."""

    exit_code = WRONG_USE


class NotPossible(Problem):
    """The request is fine, but not here: no privilege, no such file, a kernel without the feature."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> WrongUse:
    """The error for a name that does not exist, with the nearest ones that do."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(choices)}"
    return WrongUse(f"unknown {what} {name!r}: {hint}")
