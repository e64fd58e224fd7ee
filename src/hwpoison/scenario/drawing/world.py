"""What is there while a scenario is being drawn: one model of each kernel, all at the same step.

A step is taken only if every model can take it and no limit forbids it, so a scenario is valid on all
kernels, and the same for all. What the moves ask here is true on every kernel: a task that died on one of
them has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte, SwapPte
from hwpoison.scenario.load import Scenario
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import Step, parse_step
from hwpoison.scenario.verbs import VERBS

from .dice import Dice
from .limits import STOPPING, forbidden

MOST_TASKS = 5
LARGE_AREA = 16
HUGE_PAGES = 512


@dataclass(frozen=True, slots=True)
class Place:
    """A page of an area, as one task sees it."""

    task: str
    area: str
    page: int

    def text(self) -> str:
        return f"{self.area}:{self.page}"


class World:
    """A scenario being drawn. ``costly``: what takes a boot of its own may come up in it."""

    def __init__(self, scenario: Scenario, dice: Dice, *, costly: bool = False) -> None:
        self.scenario = scenario
        self.dice = dice
        self.costly = costly
        self.steps: list[Step] = []
        self.words = 0
        self.counts: dict[str, int] = {}
        self.models = self._new_models()

    def _new_models(self) -> list[Model]:
        return [Model(self.scenario, profile, None) for profile in real_profiles()]

    @property
    def over(self) -> bool:
        """Whether some kernel has stopped."""
        return any(model.stopped is not None for model in self.models)

    def do(self, lines: Iterable[str]) -> bool:
        """Take these steps; whether all could be taken. Those before one that could not are kept."""
        return all(self._take(parse_step(line)) for line in lines)

    def _take(self, step: Step) -> bool:
        if self.over or any(forbidden(model, step, costly=self.costly) for model in self.models):
            return False
        try:
            for model in self.models:
                model.take(step)
        except (WrongUse, NotPossible):  # some models may have taken it: begin again, up to here
            self.models = self._new_models()
            for model in self.models:
                for done in self.steps:
                    model.take(done)
            return False
        self.steps.append(step)
        return True

    # Names.

    def new(self, kind: str) -> str:
        """A new name: A, B, ... for tasks; else the first letters of what it is, and a number."""
        number = self.counts[kind] = self.counts.get(kind, 0) + 1
        return ascii_uppercase[number - 1] if kind == "task" and number <= 26 else f"{kind}{number}"

    def word(self) -> str:
        """Contents for a page; sometimes those of an earlier one, as KSM would like."""
        if self.words and self.dice.chance(0.1):
            return f"data{self.dice.number(1, self.words)}"
        self.words += 1
        return f"data{self.words}"

    # What is there, on every kernel.

    def tasks(self) -> list[str]:
        """Tasks that run: threads too, but not those that only lend their page table."""
        first = self.models[0]
        return [
            name
            for name in first.tasks
            if name not in first.frames and not any(model.tasks[name].exited for model in self.models)
        ]

    def leaders(self) -> list[str]:
        """Tasks that are processes."""
        return [name for name in self.tasks() if (task := self.models[0].tasks[name]).leader is task]

    def places(self) -> list[Place]:
        """Every page of every area that a task has."""
        found = []
        for name in self.tasks():
            for area in self.models[0].areas.values():
                if all(_has(model, name, area.name) for model in self.models):
                    found += [Place(name, area.name, page) for page in self.marks(area.pages)]
        return found

    @staticmethod
    def marks(pages: int) -> Sequence[int]:
        """The pages of an area that are looked at: all, or of a large one a few."""
        if pages < LARGE_AREA:
            return range(pages)
        return (0, 1, 5, pages - 1) if pages <= HUGE_PAGES else (0, 1, HUGE_PAGES, pages - 1)

    def areas(self) -> list[Place]:
        """The first pages of the areas."""
        return [place for place in self.places() if place.page == 0]

    def page_at(self, place: Place) -> Page | None:
        """The page that is mapped there, if one is on every kernel; the newest one's."""
        entries = [entry_at(model, place) for model in self.models]
        first = entries[0]
        if not isinstance(first, Pte) or not all(isinstance(entry, Pte) for entry in entries):
            return None
        return first.page

    def swapped(self, place: Place) -> bool:
        """Is a page of this place out, or only in the swap cache?"""
        return all(isinstance(entry_at(model, place), SwapPte) for model in self.models)

    def mapped(self) -> list[Place]:
        return [place for place in self.places() if self.page_at(place) is not None]

    def files(self) -> list[str]:
        return list(self.models[0].files)

    def open_files(self) -> list[str]:
        return list(self.models[0].open_files)

    def page_of_open_file(self) -> str | None:
        """A page of an open file; now and then one past its end."""
        files = self.open_files()
        if not files:
            return None
        name = self.dice.pick(files)
        size = self.models[0].open_files[name].inode.size
        return f"{name}:{self.dice.number(0, max(size - 1, 0)) + self.dice.chance(0.05)}"

    def cached(self, *, flag: int = 0) -> list[tuple[str, int]]:
        """Pages of files that are in the page cache, or on their way to swap, on every kernel."""
        found = []
        for name in self.files():
            mappings = [model.files[name].mapping for model in self.models]
            indices = {index for mapping in mappings for index in (*mapping.pages, *mapping.swap_entries)}
            for index in sorted(indices):
                pages = [mapping.pages.get(index) for mapping in mappings]
                if all(page is not None and page.flags & flag == flag for page in pages):
                    found.append((name, index))
        return found

    def knobs(self) -> tuple[str, ...]:
        """Knobs of the machine that may be turned."""
        return tuple(knob for knob in VERBS["sysctl"].choices if self.costly or knob not in dict(STOPPING))

    def holds(self) -> list[str]:
        return list(self.models[0].holds)

    def frames(self) -> list[str]:
        return list(self.models[0].frames)

    def all(self, question: Callable[[Model], bool]) -> bool:
        """Is it so on every kernel?"""
        return all(question(model) for model in self.models)


def real_profiles() -> list[Profile]:
    """The profiles that stand for kernels that there are."""
    return list(PROFILES.values())


def _has(model: Model, task: str, area: str) -> bool:
    mm = model.tasks[task].mm
    return mm is not None and mm.find_vma(model.areas[area].start) is not None


def entry_at(model: Model, place: Place) -> object:
    mm = model.tasks[place.task].mm
    return None if mm is None else mm.entry(model.areas[place.area].start + place.page)


def drawable(scenario: Scenario, profile: Profile) -> bool:
    """Could it have been drawn, for this kernel? Its steps name what is there, and no limit forbids one."""
    model = Model(scenario, profile, None)
    try:
        for step in scenario.steps:
            if model.stopped is not None or forbidden(model, step):
                return False
            model.take(step)
    except (WrongUse, NotPossible):
        return False
    return True
