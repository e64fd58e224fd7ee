"""Moves of large folios of memory. Areas are of 512 pages of 4 KiB."""

from __future__ import annotations

from .move import Move, by
from .world import World

HUGE_PAGES = 512
MOST_HUGE_AREAS = 2
PARTS = (1, 4, 16)  # how much of a huge page is given up


def map_thp(world: World) -> list[str] | None:
    """Memory where a huge page fits, and one there."""
    tasks = world.tasks()
    if not tasks or len(_huge_areas(world)) >= MOST_HUGE_AREAS:
        return None
    name, dice = world.new("t"), world.dice
    lines = [f"map {name} task={dice.pick(tasks)} pages={HUGE_PAGES} huge=yes"]
    if dice.chance(0.9):
        page = dice.pick(world.marks(HUGE_PAGES))
        lines.append(
            f"store {name}:{page} data={world.word()}" if dice.chance(0.8) else f"load {name}:{page}"
        )
    return lines


def split(world: World) -> list[str] | None:
    """The folio of a page that is one of several."""
    large = [p for p in world.mapped() if (page := world.page_at(p)) is not None and page.head.order]
    if not large:
        return None
    place = world.dice.pick(large)
    return [f"split {place.text()}{by(world, place)}"]


def discard(world: World) -> list[str] | None:
    """A part of a huge page."""
    areas = _huge_areas(world)
    if not areas:
        return None
    dice, name = world.dice, world.dice.pick(areas)
    return [f"discard {name}:{dice.pick((0, 4, 256))} pages={dice.pick(PARTS)}"]


def collapse(world: World) -> list[str] | None:
    areas = _huge_areas(world)
    return [f"collapse {world.dice.pick(areas)}:0"] if areas else None


def _huge_areas(world: World) -> list[str]:
    return [name for name, area in world.models[0].areas.items() if area.pages >= HUGE_PAGES]


HUGE = (
    Move("map", 0.35, 0.05, map_thp),
    Move("split", 1, 1, split),
    Move("discard", 0.2, 0.2, discard),
    Move("collapse", 0.5, 0.4, collapse),
)
