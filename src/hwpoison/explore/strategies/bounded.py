"""Plain depth-first search, over every interleaving or those with at most so many preemptions.

Without a bound it is what all others are checked against, and only for small programs. A preemption is a
switch away from a path that could have gone on.
"""

from __future__ import annotations

from ..engine import Engine


class Bounded:
    """Every choice at every point, no reduction. ``bound``: at most so many preemptions, if not None."""

    name = "bounded"

    def __init__(self, engine: Engine, bound: int | None = None) -> None:
        self.engine = engine
        self.bound = bound
        self.restart()

    def restart(self) -> None:
        self.chosen: list[int] = []
        self.left: list[int] = []  # paths that are still to be tried at this node
        self.spent: list[tuple[int, bool]] = []  # preemptions before this node; could the path go on?
        self.started = False

    def plan(self) -> tuple[list[int], int] | None:
        if not self.started:
            self.started = True
            return [], 0
        while self.left and not self.left[-1]:
            for kept in (self.chosen, self.left, self.spent):
                kept.pop()
        if not self.left:
            return None
        left = self.left[-1]
        tid = (left & -left).bit_length() - 1
        self.left[-1] = left & ~(1 << tid)
        self.chosen[-1] = tid
        return list(self.chosen), len(self.chosen) - 1

    def pick(self, enabled: int) -> int:
        """The running path if it can go on; leaving it then costs a preemption."""
        running = self.chosen[-1] if self.chosen else -1
        going = running >= 0 and bool(enabled >> running & 1)
        tid = running if going else (enabled & -enabled).bit_length() - 1
        spent = self._spent_before()
        left = enabled & ~(1 << tid)
        if self.bound is not None and going and spent >= self.bound:
            left = 0
        self.chosen.append(tid)
        self.left.append(left)
        self.spent.append((spent, going))
        return tid

    def _spent_before(self) -> int:
        """Preemptions on the way to the next node."""
        if not self.spent:
            return 0
        spent, could_go_on = self.spent[-1]
        running = self.chosen[-2] if len(self.chosen) > 1 else -1
        return spent + int(could_go_on and self.chosen[-1] != running)

    def learn(self) -> None:
        """Nothing: it tries everything anyway."""
