"""Moves of memory: areas, touches, swap, and references that others hold."""

from __future__ import annotations

from collections.abc import Sequence

from .move import Move, by
from .world import MOST_TASKS, Place, World

MOST_AREAS = 4
AREA_PAGES = 2
MOST_HOLDS = 3


def map_(world: World) -> list[str] | None:
    """A new area: anonymous, of a file, or seldom of a driver's memory."""
    tasks = world.tasks()
    if not tasks or len(world.models[0].areas) >= MOST_AREAS:
        return None
    dice = world.dice
    line = f"map {world.new('m')} task={dice.pick(tasks)}"
    frames, files = world.frames(), world.open_files()
    if frames and dice.chance(0.5):
        return [f"{line} frame={dice.pick(frames)}"]
    if files and dice.chance(0.6):
        name = dice.pick(files)
        size = world.models[0].open_files[name].inode.size
        if world.models[0].open_files[name].inode.fs.name == "sysv":
            return [f"{line} file={name} pages={size} shared=yes"]
        if world.models[0].open_files[name].inode.fs.huge:
            return None  # moves_huge.py
        line += f" file={name} first={dice.number(0, max(size - 1, 0)) if dice.chance(0.3) else 0}"
    shared = "yes" if dice.chance(0.6 if "file=" in line else 0.25) else "no"
    return [f"{line} pages={dice.number(1, AREA_PAGES)} shared={shared}"]


def unmap(world: World) -> list[str] | None:
    place = _one(world, world.areas())
    return [f"unmap {place.area}{by(world, place)}"] if place else None


def load(world: World) -> list[str] | None:
    place = _one(world, world.places())
    return [f"load {place.text()}{by(world, place)}"] if place else None


def store(world: World) -> list[str] | None:
    place = _one(world, world.places())
    return [f"store {place.text()}{by(world, place)} data={world.word()}"] if place else None


def stray(world: World) -> list[str] | None:
    """A touch of an area that may have been given up, or be somebody else's."""
    tasks, areas = world.tasks(), list(world.models[0].areas)
    if not tasks or not areas:
        return None
    return [f"load {world.dice.pick(areas)}:0 task={world.dice.pick(tasks)}"]


def msync(world: World) -> list[str] | None:
    place = _one(world, world.areas())
    return [f"msync {place.area}{by(world, place)}"] if place else None


def lock(world: World) -> list[str] | None:
    place = _one(world, world.areas())
    return [f"lock {place.area}{by(world, place)}"] if place else None


def unlock(world: World) -> list[str] | None:
    locked = [place for place in world.areas() if _is_locked(world, place)]
    place = _one(world, locked)
    return [f"unlock {place.area}{by(world, place)}"] if place else None


def _is_locked(world: World, place: Place) -> bool:
    model = world.models[0]
    mm = model.tasks[place.task].mm
    vma = None if mm is None else mm.find_vma(model.areas[place.area].start)
    return vma is not None and vma.locked


def swapout(world: World) -> list[str] | None:
    place = _one(world, world.mapped())
    keep = "yes" if world.dice.chance(0.4) else "no"
    return [f"swapout {place.text()}{by(world, place)} keep={keep}"] if place else None


def back_from_swap(world: World) -> list[str] | None:
    """A page goes to swap and comes back, for one of those who had it, and may be changed there."""
    place = _one(world, world.mapped())
    if place is None:
        return None
    dice, keep = world.dice, "yes" if world.dice.chance(0.3) else "no"
    lines = [f"swapout {place.text()} task={place.task} keep={keep}"]
    if dice.chance(0.4) and len(world.tasks()) < MOST_TASKS:
        lines.append(f"fork {place.task} as={world.new('task')}")
    lines.append(f"load {place.text()} task={place.task}")
    if dice.chance(0.5):
        lines.append(f"store {place.text()} task={place.task} data={world.word()}")
    return lines


def swapoff(world: World) -> list[str] | None:
    return ["swapoff swap"] if world.all(lambda model: model.vm.swap.slots > 0) else None


def pin(world: World) -> list[str] | None:
    place = _one(world, world.places())
    if place is None or len(world.holds()) >= MOST_HOLDS:
        return None
    return [f"pin {place.text()}{by(world, place)} as={world.new('hold')}"]


def hold(world: World) -> list[str] | None:
    """A reference to a page of memory or of a file."""
    if len(world.holds()) >= MOST_HOLDS:
        return None
    cached = world.cached()
    if cached and world.dice.chance(0.4):
        name, index = world.dice.pick(cached)
        return [f"hold {name}:{index} as={world.new('hold')}"]
    place = _one(world, world.mapped())
    return [f"hold {place.text()}{by(world, place)} as={world.new('hold')}"] if place else None


def migrate(world: World) -> list[str] | None:
    place = _one(world, world.mapped())
    return [f"migrate {place.text()}{by(world, place)}"] if place else None


def release(world: World) -> list[str] | None:
    holds = world.holds()
    return [f"release {world.dice.pick(holds)}"] if holds else None


def dma(world: World) -> list[str] | None:
    holds = world.holds()
    return [f"dma {world.dice.pick(holds)}"] if holds else None


def _one(world: World, places: Sequence[Place]) -> Place | None:
    return world.dice.pick(places) if places else None


MEMORY = (
    Move("map", 6, 0.5, map_),
    Move("unmap", 0.7, 0.7, unmap),
    Move("load", 4, 8, load),
    Move("load", 0.1, 0.3, stray),
    Move("store", 7, 4, store),
    Move("msync", 0.5, 1, msync),
    Move("lock", 1, 0.7, lock),
    Move("unlock", 1, 0.7, unlock),
    Move("swapout", 3, 0.7, swapout),
    Move("swapout", 2, 0.3, back_from_swap),
    Move("swapoff", 0.15, 0.4, swapoff),
    Move("migrate", 0.7, 0.5, migrate),
    Move("pin", 0.8, 0.4, pin),
    Move("hold", 0.8, 0.4, hold),
    Move("release", 1, 1, release),
    Move("dma", 0.5, 1, dma),
)
