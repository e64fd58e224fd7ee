"""Moves of errors, frames of the kernel's, and looking."""

from __future__ import annotations

from hwpoison.scenario.verbs import FRAME_KINDS, SOFT_WAYS, WAYS_IN

from .limits import UNDRAWN
from .move import Move, by
from .world import World

KINDS = [kind for kind in FRAME_KINDS if ("frame", "kind", kind) not in UNDRAWN]
WAYS = [way for way in WAYS_IN if ("inject", "via", way) not in UNDRAWN]
BY_NUMBER = [way for way in WAYS if way != "madvise"]
SOFTLY = [way for way in SOFT_WAYS if way != "madvise" and ("soft-offline", "via", way) not in UNDRAWN]
FILTERED = ("DIRTY", "ANON", "MMAP", "SWAPCACHE", "SLAB")
"""Flags that a filter may ask for: those that are the same each time. MADV_FREE takes SWAPBACKED from a page
when a batch is full, and no sooner."""


def frame(world: World) -> list[str]:
    """A frame of the kernel's, hit at once, or mapped first where that can be."""
    name, kind = world.new("frame"), world.dice.pick(KINDS)
    line = f"frame {name} kind={kind}"
    tasks = world.tasks()
    if kind in ("driver", "vmalloc") and tasks and world.dice.chance(0.5):
        return [line, f"map {world.new('m')} task={world.dice.pick(tasks)} frame={name}"]
    return [line, f"inject {name} via={world.dice.pick(BY_NUMBER)}"]


def inject(world: World) -> list[str] | None:
    """An error on a page of memory, of a file, or that somebody holds."""
    return _hit(world, "inject", BY_NUMBER)


def soft_offline(world: World) -> list[str] | None:
    return _hit(world, "soft-offline", SOFTLY)


def _hit(world: World, verb: str, by_number: list[str]) -> list[str] | None:
    """Something done to a frame, by the address of a task or by its number."""
    dice = world.dice
    places, cached = world.mapped(), world.cached()
    others = [*world.holds(), *world.frames()]
    ways: list[tuple[str, float]] = []
    if places:
        ways += [("place", 5), ("madvise", 3)]
    if cached:
        ways.append(("file", 3))
    if others:
        ways.append(("other", 1))
    swapped = [place for place in world.places() if world.swapped(place)]
    if swapped:
        ways.append(("swapped", 3))
    if not ways:
        return None
    how = dice.weighted(ways)
    if how == "file":
        name, index = dice.pick(cached)
        return [f"{verb} {name}:{index} via={dice.pick(by_number)}"]
    if how == "other":
        return [f"{verb} {dice.pick(others)} via={dice.pick(by_number)}"]
    place = dice.pick({"place": places, "madvise": world.places(), "swapped": swapped}[how])
    via = "madvise" if how == "madvise" else dice.pick(by_number)
    return [f"{verb} {place.text()}{by(world, place)} via={via}"]


def unpoison(world: World) -> list[str] | None:
    """Make a frame good again that was struck."""
    struck = [f"{name}:{page}" for name, page in world.models[0].struck if name not in world.models[0].frames]
    known = [*struck, *world.frames()]
    return [f"unpoison {world.dice.pick(known)}"] if known else None


def note(world: World) -> list[str] | None:
    places = world.mapped()
    if not places:
        return None
    place = world.dice.pick(places)
    return [f"note {place.text()}{by(world, place)} as={world.new('note')}"]


def filter_(world: World) -> list[str]:
    """The injection filter: on with some flags, or off."""
    if world.dice.chance(0.4):
        return ["filter off"]
    used = {f.fs.name: None for f in world.models[0].files.values()}
    systems = [fs for fs in used if fs not in ("bdev", "sysv", "memfd")]  # of the kernel's own mounts
    if systems and world.dice.chance(0.2):
        return [f"filter on fs={world.dice.pick(systems)}"]
    mask = world.dice.some(FILTERED, 2)
    value = [flag for flag in mask if world.dice.chance(0.7)]
    return [f"filter on mask={','.join(mask)}" + (f" value={','.join(value)}" if value else "")]


def look(world: World) -> list[str] | None:
    places, files = world.places(), world.files()
    if files and (not places or world.dice.chance(0.5)):
        name = world.dice.pick(files)
        size = world.models[0].files[name].size
        return [f"look {name}:{world.dice.number(0, max(size - 1, 0))}"]
    place = world.dice.pick(places) if places else None
    return [f"look {place.text()}{by(world, place)}"] if place else None


def counters(_world: World) -> list[str]:
    return ["counters all"]


ERRORS = (
    Move("frame", 0.4, 0.2, frame),
    Move("filter", 0.4, 0.2, filter_),
    Move("inject", 0, 2, inject),
    Move("soft-offline", 0.5, 0.7, soft_offline),
    Move("unpoison", 0, 0.5, unpoison),
    Move("note", 0.1, 0.1, note),
    Move("look", 0.5, 2, look),
    Move("counters", 0.1, 0.7, counters),
)
