"""A random scenario from its seed and number: things are made, used, hit by an error, and used again.

The same seed and number give the same scenario, for every kernel, as long as the tables of moves and limits
and the model stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hwpoison.scenario.load import Scenario

from .dice import Dice
from .limits import STOPPING
from .moves import MOVES
from .moves_errors import inject
from .world import HUGE_PAGES, World

SWAP = 4 * HUGE_PAGES  # pages; a disk of the lab has more
FRAMES = 8192  # four blocks for huge pages, and room
COSTLY_SHARE = 0.004
TRIES = 4  # for one step


def draw(seed: int, number: int) -> Scenario:
    """The scenario with this number."""
    return compose(Random(f"{seed}/{number}"), f"random-{seed}-{number}")


def compose(random: Random, name: str) -> Scenario:
    """A scenario from this source of random numbers."""
    dice = Dice(random)
    empty = Scenario(name, (), swap=SWAP if dice.chance(0.7) else 0, frames=FRAMES, origin=name)
    world = World(empty, dice, costly=dice.chance(COSTLY_SHARE))
    world.do([f"task {world.new('task')} sigbus=handler"])
    for _ in range(dice.number(6, 18)):
        _move(world, before=True)
    if world.costly and dice.chance(0.6):
        knob, value = dice.pick(STOPPING)
        world.do([f"sysctl {knob} value={value}"])
    for _ in range(dice.weighted([(1, 6.0), (2, 3.0), (3, 1.0)])):
        _error(world)
        for _ in range(dice.number(1, 8)):
            _move(world, before=False)
    for lines in _last_look(world):
        world.do(lines)
    return Scenario(name, tuple(world.steps), swap=empty.swap, frames=FRAMES, origin=name)


def _move(world: World, *, before: bool) -> None:
    """One move, if one of a few tries can be made."""
    weights = [(move, move.before if before else move.after) for move in MOVES]
    for _ in range(TRIES):
        lines = world.dice.weighted(weights).propose(world)
        if lines and world.do(lines):
            return


def _error(world: World) -> None:
    """An error; where there is nothing to hit yet, something is made or used first."""
    for _ in range(3 * TRIES):
        lines = inject(world)
        if lines and world.do(lines):
            return
        _move(world, before=True)


def _last_look(world: World) -> Iterator[list[str]]:
    """What everybody sees in the end."""
    dice = world.dice
    for place in dice.some(world.places(), 5):
        if dice.chance(0.3):
            yield [f"look {place.text()} task={place.task}"]
        yield [f"load {place.text()} task={place.task}"]
    for name in world.open_files():
        if dice.chance(0.7):
            yield [f"fsync {name}"]
    for name in world.files():
        size = world.models[0].files[name].size
        if size:
            yield [f"look {name}:{dice.number(0, size - 1)}"]
    if dice.chance(0.5):
        yield ["counters all"]
