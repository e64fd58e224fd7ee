"""Moves of files and disks."""

from __future__ import annotations

from hwpoison.mm.inode import FILE_SYSTEMS
from hwpoison.scenario.verbs import VERBS

from .limits import UNDRAWN
from .move import Move
from .world import World

MOST_FILES = 2
FILE_PAGES = 3
MOST_WRITTEN = 4
OFTEN = {"ext4": 4.0, "xfs": 3.0, "tmpfs": 5.0, "memfd": 2.0}
KINDS = [
    (fs.name, OFTEN.get(fs.name, 1.0))
    for fs in FILE_SYSTEMS.values()
    if ("file", "fs", fs.name) not in UNDRAWN and not fs.huge
]


def file(world: World) -> list[str] | None:
    """A file with one or two open files."""
    if len(world.files()) >= MOST_FILES:
        return None
    name, fs = world.new("file"), world.dice.weighted(KINDS)
    lines = [f"file {name} fs={fs} pages={world.dice.number(1, FILE_PAGES)}"]
    return lines + [f"open {world.new('fd')} file={name}" for _ in range(world.dice.number(1, 2))]


def open_(world: World) -> list[str] | None:
    """Again; now and then past the cache, where that is by the same code on all kernels."""
    files = world.files()
    if not files:
        return None
    name = world.dice.pick(files)
    direct = world.models[0].files[name].fs.iomap and world.dice.chance(0.25)
    return [f"open {world.new('fd')} file={name}" + (" direct=yes" if direct else "")]


def close(world: World) -> list[str] | None:
    files = world.open_files()
    return [f"close {world.dice.pick(files)}"] if files else None


def read(world: World) -> list[str] | None:
    page = world.page_of_open_file()
    return [f"read {page}"] if page else None


def write(world: World) -> list[str] | None:
    """One page, or a few in one call, which makes large folios where there are such."""
    page = world.page_of_open_file()
    more = f" pages={world.dice.number(2, MOST_WRITTEN)}" if world.dice.chance(0.3) else ""
    return [f"write {page} data={world.word()}{more}"] if page else None


def fsync(world: World) -> list[str] | None:
    files = world.open_files()
    return [f"fsync {world.dice.pick(files)}"] if files else None


def truncate(world: World) -> list[str] | None:
    files = world.files()
    return [f"truncate {world.dice.pick(files)} pages={world.dice.number(0, FILE_PAGES)}"] if files else None


def punch(world: World) -> list[str] | None:
    files = world.files()
    if not files:
        return None
    first, pages = world.dice.number(0, FILE_PAGES - 1), world.dice.number(1, 2)
    return [f"punch {world.dice.pick(files)}:{first} pages={pages}"]


def drop(world: World) -> list[str] | None:
    files = world.files()
    return [f"drop {world.dice.pick(files)}"] if files else None


def disk(world: World) -> list[str] | None:
    """Another state of the disk; what is not well is mended more often than not."""
    state = world.models[0].vm.disk
    usual = "release" if state.held else "mend" if state.failing else None
    return [f"disk {usual if usual and world.dice.chance(0.6) else world.dice.pick(VERBS['disk'].choices)}"]


FILES = (
    Move("file", 4, 0.3, file),
    Move("open", 1, 1, open_),
    Move("close", 0.5, 0.5, close),
    Move("read", 2, 3, read),
    Move("write", 4, 2, write),
    Move("fsync", 2, 3, fsync),
    Move("truncate", 0.7, 1, truncate),
    Move("punch", 0.7, 1, punch),
    Move("drop", 0.7, 1, drop),
    Move("disk", 1, 0.7, disk),
)
