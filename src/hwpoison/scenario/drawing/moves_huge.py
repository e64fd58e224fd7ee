"""Moves of large folios of memory, and of pools of huge pages. Areas are of 512 pages of 4 KiB."""

from __future__ import annotations

from hwpoison.scenario.verbs import YES_NO

from .move import Move, by
from .world import HUGE_PAGES, World

MOST_HUGE_AREAS = 2
MOST_IN_POOL = 2
MOST_SURPLUS = 1
PARTS = (1, 4, 16)  # how much of a huge page is given up
SIZES = ((HUGE_PAGES, 8.0), (2 * HUGE_PAGES, 1.0), (1, 1.0))  # of mappings: mmap(2) rounds up


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


def swapout(world: World) -> list[str] | None:
    """All of a huge page."""
    whole = [p for p in world.mapped() if (page := world.page_at(p)) is not None and page.order]
    if not whole:
        return None
    place, keep = world.dice.pick(whole), world.dice.pick(YES_NO)
    return [f"swapout {place.text()}{by(world, place)} keep={keep} pages={HUGE_PAGES}"]


def discard(world: World) -> list[str] | None:
    """A part of a huge page."""
    areas = _huge_areas(world)
    if not areas:
        return None
    dice, name = world.dice, world.dice.pick(areas)
    if dice.chance(0.3):
        return [f"discard {name}:0 pages={HUGE_PAGES}"]
    return [f"discard {name}:{dice.pick((0, 4, 256))} pages={dice.pick(PARTS)}"]


def collapse(world: World) -> list[str] | None:
    areas = _huge_areas(world)
    return [f"collapse {world.dice.pick(areas)}:0"] if areas else None


def _huge_areas(world: World) -> list[str]:
    return [
        name for name, area in world.models[0].areas.items() if area.pages >= HUGE_PAGES or name[0] == "h"
    ]


def hugepages(world: World) -> list[str]:
    dice = world.dice
    return [f"hugepages 2M pages={dice.number(1, MOST_IN_POOL)} surplus={dice.number(0, MOST_SURPLUS)}"]


def map_hugetlb(world: World) -> list[str] | None:
    """Huge pages of a pool, for memory or a file; a pool first, where there is none."""
    tasks = world.tasks()
    if not tasks or len(_huge_areas(world)) >= MOST_HUGE_AREAS:
        return None
    dice, name = world.dice, world.new("h")
    pool = [] if world.all(lambda model: model.vm.hugetlb.hstates["2M"].nr > 0) else hugepages(world)
    line = f"map {name} task={dice.pick(tasks)} pages={dice.weighted(SIZES)} shared={dice.pick(YES_NO)}"
    if dice.chance(0.4):
        made, opened = _huge_file(world)
        if dice.chance(0.15):
            line += f" first={dice.pick((1, HUGE_PAGES))}"
        return [*pool, *made, f"{line} file={opened}", f"store {name}:0 data={world.word()}"]
    lines = [*pool, f"{line} hugetlb=2M"]
    return [*lines, f"store {name}:0 data={world.word()}"] if dice.chance(0.8) else lines


def _huge_file(world: World) -> tuple[list[str], str]:
    """(the steps that make it, an open file of huge pages): one that is there, or a new one."""
    first, dice = world.models[0], world.dice
    there = [name for name, file in first.open_files.items() if file.inode.fs.huge]
    if there and dice.chance(0.7):
        return [], dice.pick(there)
    file, opened = world.new("file"), world.new("fd")
    pages = dice.weighted(((HUGE_PAGES, 4.0), (2 * HUGE_PAGES, 1.0)))
    return [f"file {file} fs=hugetlbfs pages={pages}", f"open {opened} file={file}"], opened


def resize(world: World) -> list[str] | None:
    """A hugetlbfs file made longer or shorter, by a whole huge page or by less."""
    files = [name for name in world.files() if world.models[0].files[name].fs.huge]
    if not files:
        return None
    dice, name = world.dice, world.dice.pick(files)
    if dice.chance(0.5):
        return [f"truncate {name} pages={dice.pick((0, 1, HUGE_PAGES))}"]
    return [
        f"punch {name}:{dice.pick((0, 1, HUGE_PAGES))} pages={dice.pick((1, HUGE_PAGES, HUGE_PAGES + 1))}"
    ]


def pool(_world: World) -> list[str]:
    return ["pool 2M"]


HUGE = (
    Move("map", 0.35, 0.05, map_thp),
    Move("split", 1, 1, split),
    Move("swapout", 1, 0.5, swapout),
    Move("discard", 0.2, 0.2, discard),
    Move("collapse", 0.5, 0.4, collapse),
    Move("map", 0.25, 0.05, map_hugetlb),
    Move("hugepages", 0.03, 0.03, hugepages),
    Move("truncate", 0.1, 0.2, resize),
    Move("pool", 0.05, 0.1, pool),
)
