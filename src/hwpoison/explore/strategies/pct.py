"""Probabilistic concurrency testing: random priorities, lowered at a few random moments.

Burckhardt, Kothari, Musuvathi, Nagarakatte (ASPLOS 2010). Finds what needs one path to run for long on its
own, which a random walk never lets happen.
"""

from __future__ import annotations

from .random_walk import RandomWalk, members

DEPTH = 3
FIRST_GUESS = 50
"""Events that an execution is taken to have before one has been seen."""


class Pct(RandomWalk):
    name = "pct"

    def begin(self) -> None:
        length = max(len(self.engine.events), FIRST_GUESS)
        self.priorities: dict[int, float] = {}
        self.changes = {self.draw.randrange(length) for _ in range(DEPTH - 1)}
        self.step = 0

    def pick(self, enabled: int) -> int:
        for tid in members(enabled):
            self.priorities.setdefault(tid, 1 + self.draw.random())
        best = max(members(enabled), key=self.priorities.__getitem__)
        if self.step in self.changes:
            self.priorities[best] = -float(self.step)
            best = max(members(enabled), key=self.priorities.__getitem__)
        self.step += 1
        return best
