"""Moves of other ways to bytes, and of what a task says about its own memory."""

from __future__ import annotations

from hwpoison.scenario.verbs import PEEKS, SEALS, VERBS

from .move import Move, by
from .world import Place, World

MOST_BUFFERS = 2


def peek(world: World) -> list[str] | None:
    place, other = _place(world), _somebody(world)
    return [f"peek {place.text()}{by(world, place)} by={other} via={_via(world)}"] if place else None


def poke(world: World) -> list[str] | None:
    place, other = _place(world), _somebody(world)
    if place is None:
        return None
    return [f"poke {place.text()}{by(world, place)} by={other} via={_via(world)} data={world.word()}"]


def readv(world: World) -> list[str] | None:
    return _transfer(world, "readv", "into")


def writev(world: World) -> list[str] | None:
    return _transfer(world, "writev", "from")


def _transfer(world: World, verb: str, parameter: str) -> list[str] | None:
    place, page = _place(world), world.page_of_open_file()
    if place is None or page is None:
        return None
    pages = world.dice.number(1, MOST_BUFFERS)
    return [f"{verb} {page} {parameter}={place.text()} task={place.task} pages={pages}"]


def splice(world: World) -> list[str] | None:
    page = world.page_of_open_file()
    choices = next(p.choices for p in VERBS["splice"].parameters if p.name == "via")
    return [f"splice {page} via={world.dice.pick(choices)}"] if page else None


def discard(world: World) -> list[str] | None:
    place = _place(world)
    return [f"discard {place.text()}{by(world, place)} pages=1"] if place else None


def lazyfree(world: World) -> list[str] | None:
    place = _place(world)
    return [f"lazyfree {place.text()}{by(world, place)}"] if place else None


def marker(world: World) -> list[str] | None:
    place = _place(world)
    return [f"marker {place.text()}{by(world, place)}"] if place else None


def seal(world: World) -> list[str] | None:
    sealable = [name for name in world.files() if world.models[0].files[name].fs.name == "memfd"]
    return [f"seal {world.dice.pick(sealable)} against={world.dice.pick(SEALS)}"] if sealable else None


def coredump(world: World) -> list[str] | None:
    place = _place(world)
    return [f"coredump {place.text()}{by(world, place)}"] if place else None


def _place(world: World) -> Place | None:
    places = world.places()
    return world.dice.pick(places) if places else None


def _somebody(world: World) -> str:
    return world.dice.pick(world.tasks() or ["A"])


def _via(world: World) -> str:
    return world.dice.pick(PEEKS)


WAYS = (
    Move("peek", 0.3, 0.7, peek),
    Move("poke", 0.3, 0.4, poke),
    Move("readv", 0.3, 0.6, readv),
    Move("writev", 0.4, 0.6, writev),
    Move("splice", 0.2, 0.6, splice),
    Move("discard", 0.4, 0.3, discard),
    Move("lazyfree", 0.6, 0.3, lazyfree),
    Move("marker", 0.2, 0.1, marker),
    Move("seal", 2, 1, seal),
    Move("coredump", 0.0, 0.2, coredump),
)
