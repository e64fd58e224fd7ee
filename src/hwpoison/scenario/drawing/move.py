"""A move: how a verb is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .world import Place, World

Propose = Callable[[World], list[str] | None]


@dataclass(frozen=True, slots=True)
class Move:
    """How a verb is drawn, and how often before and after the first error.

    ``propose`` looks at the world and gives the lines of one step, or of a few that belong together; None if
    there is nothing for it to do. Whether they can be taken is for the models and the limits to say.
    """

    verb: str
    before: float
    after: float
    propose: Propose


def by(world: World, place: Place) -> str:
    """The argument task=, left out where it would say what is so anyway, half of the time."""
    owner = world.models[0].areas[place.area].owner.comm
    return "" if owner == place.task and world.dice.chance(0.5) else f" task={place.task}"
