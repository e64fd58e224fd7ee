"""Weighted draws from one source of random numbers.

Only ``random()`` is asked: Python promises that its numbers stay the same for a seed. Hypothesis can be that
source as well (``st.randoms()``), and then shrinks what it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws of one scenario."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def number(self, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``."""
        return least + int(self._random.random() * (most - least + 1))

    def pick(self, things: Sequence[T]) -> T:
        return things[self.number(0, len(things) - 1)]

    def some(self, things: Sequence[T], most: int) -> list[T]:
        """At most so many of these, in their order."""
        left = list(things)
        while len(left) > most:
            del left[self.number(0, len(left) - 1)]
        return left

    def weighted(self, weights: Sequence[tuple[T, float]]) -> T:
        """One of these, each as often as its weight says."""
        at = self._random.random() * sum(weight for _thing, weight in weights)
        for thing, weight in weights:
            at -= weight
            if at < 0:
                return thing
        return weights[-1][0]
