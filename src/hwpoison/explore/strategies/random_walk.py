"""At every point somebody who can go on, at random; some executions switch often, others seldom."""

from __future__ import annotations

import random

from ..engine import Engine

PATIENCE = (0.0, 0.5, 0.9)


def members(mask: int) -> list[int]:
    """The numbers of the paths in a mask."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


class RandomWalk:
    """``runs`` executions, each a function of the seed and its number."""

    name = "random"

    def __init__(self, engine: Engine, runs: int, seed: int = 0) -> None:
        self.engine = engine
        self.runs = runs
        self.seed = seed
        self.done = 0
        self.restart()

    def restart(self) -> None:
        """What the engine learns changes nothing here."""
        self.running = -1

    def plan(self) -> tuple[list[int], int] | None:
        if self.done >= self.runs:
            return None
        self.done += 1
        self.draw = random.Random(f"{self.name} {self.seed} {self.done}")
        self.running = -1
        self.begin()
        return [], 0

    def begin(self) -> None:
        """Before each execution."""
        self.patience = self.draw.choice(PATIENCE)

    def pick(self, enabled: int) -> int:
        if self.running >= 0 and enabled >> self.running & 1 and self.draw.random() < self.patience:
            return self.running
        self.running = self.draw.choice(members(enabled))
        return self.running

    def learn(self) -> None:
        """Nothing."""
