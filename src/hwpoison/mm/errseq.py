"""Errors that are reported once to everybody who was there (lib/errseq.c).

One word a mapping: the last error, a count of distinct reports, and whether anybody has seen it.
Each open file keeps the word as it was when it last asked. A file opened later starts from "nothing"
when nobody has seen the error yet, so that an error is never lost for want of somebody to tell.
"""

from __future__ import annotations

from .locks import Op, Paths

ERROR_MASK = (1 << 12) - 1
SEEN = 1 << 12
COUNT = 1 << 13


class Errseq:
    """errseq_t. ``word`` is what a cursor remembers: an int, 0 for "no error yet"."""

    __slots__ = ("paths", "word")

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.word = 0

    def _announce(self, op: Op) -> None:
        if self.paths.chooser is not None:
            self.paths.point(op, self)

    def set(self, error: int) -> None:
        """Record an error number (positive). It counts as new only if the last one was seen."""
        self._announce(Op.RMW)
        new = (self.word & ~(ERROR_MASK | SEEN)) | error
        if self.word & SEEN:
            new += COUNT
        self.word = new

    def sample(self) -> int:
        """The cursor for a file that is being opened."""
        self._announce(Op.READ)
        return self.word if self.word & SEEN else 0

    def check(self, since: int) -> int:
        """The error recorded since the cursor was taken, 0 if there is none. Changes nothing."""
        return self.word & ERROR_MASK if self.word != since else 0

    def check_and_advance(self, since: int) -> tuple[int, int]:
        """(error since the cursor or 0, the new cursor); marks the error as seen."""
        self._announce(Op.RMW)
        if self.word == since:
            return 0, since
        self.word |= SEEN
        return self.word & ERROR_MASK, self.word
