"""What a run on the model works with: the machine, and the things of the scenario by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from hwpoison.abi.problems import WrongUse, unknown_name
from hwpoison.abi.records import Broken, Kind, Observation, StoryStep, Value
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import Profile
from hwpoison.mm.inode import AddressSpace, File, Inode
from hwpoison.mm.locks import Chooser, Paths
from hwpoison.mm.machine import Machine
from hwpoison.mm.mmap import Mm, Vma
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte, SwapPte
from hwpoison.mm.task import Task

from .census import Census
from .load import Scenario
from .races import HUGE
from .steps import Step

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Area:
    """A named area: where it begins in every process that has it, and who had it first."""

    name: str
    start: int
    pages: int
    owner: Task
    file: str | None = None  # the file that it shares, and the first page of it: a page of it is the file's
    first: int = 0


class Bench:
    """One run. Things of the scenario are kept by name; the verbs are in the classes made from this one."""

    def __init__(
        self, scenario: Scenario, profile: Profile, chooser: Chooser | None, paths: Paths | None = None
    ) -> None:
        self.scenario = scenario
        self.profile = profile
        small = {} if scenario.huge == HUGE else {"huge_order": scenario.huge.bit_length() - 1}
        self.vm = Machine(
            frames=scenario.frames,
            swap_slots=scenario.swap,
            **small,
            traits=profile.traits,
            chooser=chooser,
            paths=paths,
        )
        self.vm.story = []
        self.failure = MemoryFailure(self.vm, profile)
        self.tasks: dict[str, Task] = {}
        self.files: dict[str, Inode] = {}
        self.open_files: dict[str, File] = {}
        self.areas: dict[str, Area] = {}
        self.mapped_until = 0  # the end of the last area: none has an address that another has elsewhere
        self.frames: dict[str, int] = {}
        self.by_number: set[str] = set()  # names of frames that are mapped by their number (mm/pfnmap.py)
        self.noted: dict[str, object] = {}  # names of frames that are some page's, not the kernel's own
        self.struck: dict[tuple[str, int], int] = {}  # page → the frame that was bad, or offlined, there last
        self.holds: dict[str, tuple[Page, bool]] = {}  # name → (page, is it a pin)
        self.censuses: list[Census] = []
        self.broken_at_once: list[Broken] = []
        self.seen: list[Observation] = []
        self.step_number = 0
        self.told: list[StoryStep] = []
        self.stopped: str | None = None  # why no further step can be made
        self.signals_seen: dict[str, int] = {}

    def see(self, kind: Kind, who: str, **value: Value) -> None:
        self.seen.append(Observation(self.step_number, kind, who, value))

    def where(self, step: Step) -> str:
        return f"{self.scenario.origin or self.scenario.name}:{step.line}: {step.text()}"

    def look_up(self, step: Step, what: str, things: dict[str, T], name: str) -> T:
        try:
            return things[name]
        except KeyError:
            if things:
                raise WrongUse(f"{self.where(step)}: {unknown_name(what, name, things)}") from None
            raise WrongUse(f"{self.where(step)}: there is no {what} yet, {name!r} is unknown") from None

    def new_name(self, step: Step, name: str) -> str:
        things = (self.tasks, self.files, self.open_files, self.areas, self.frames, self.holds)
        if any(name in named for named in things):
            raise WrongUse(f"{self.where(step)}: the name {name!r} is taken; choose another")
        return name

    def task(self, step: Step, name: str) -> Task:
        task = self.look_up(step, "task", self.tasks, name)
        if task.exited:
            raise WrongUse(f"{self.where(step)}: {name} has ended before this step")
        return task

    def page_name(self, vpn: int) -> str:
        """An address in the words of the scenario: no two areas have the same, in whatever process."""
        for area in self.areas.values():
            if area.start <= vpn < area.start + area.pages:
                return f"{area.name}:{vpn - area.start}"
        return f"{vpn:#x}"

    def address(self, step: Step) -> tuple[Task, int]:
        """The task and the page number that an ``area:page`` step means."""
        area = self.look_up(step, "area", self.areas, step.subject)
        if step.page >= area.pages:
            s = "" if area.pages == 1 else "s"
            raise WrongUse(
                f"{self.where(step)}: {area.name} has {area.pages} page{s}; "
                f"expected a number from 0 to {area.pages - 1}"
            )
        name = step.get("task")
        task = area.owner if name is None else self.task(step, name)
        if task.exited:
            raise WrongUse(f"{self.where(step)}: {task.comm} has ended before this step; say task=")
        return task, area.start + step.page

    def page_step(self, step: Step, parameter: str) -> Step:
        """The same step about the page that one of its parameters names, as AREA:PAGE."""
        name, _colon, number = step.args[parameter].partition(":")
        if number and not number.isdecimal():
            raise WrongUse(f"{self.where(step)}: {parameter}={name}:{number}: expected AREA:PAGE")
        return replace(step, subject=name, page=int(number or 0))

    def area(self, step: Step) -> tuple[Task, Vma]:
        task, vpn = self.address(replace(step, page=0))
        vma = task.alive_mm().find_vma(vpn)
        if vma is None:
            raise WrongUse(f"{self.where(step)}: {task.comm} does not have this area any more")
        return task, vma

    def pfn(self, step: Step) -> int:
        """The frame that a step means: of an area (as mapped), of a file (as cached), or a named one."""
        name = step.subject
        if name in self.frames:
            return self.frames[name] + step.page
        if name in self.holds:
            return self.holds[name][0].pfn + step.page
        if name in self.files:
            if self.vm.traits.unmapping_drains:
                self.vm.lru.add_drain(self.vm.paths.current.cpu)  # by whoever maps it to see its frame
            mapping = self.files[name].mapping
            page = mapping.host.frames.get(step.page) if mapping.fs.dax else mapping.frame(step.page)
            if page is None:
                page = self.vm.swap.cache.get(mapping.swap_entries.get(step.page, 0))
            if page is None:
                raise WrongUse(f"{self.where(step)}: page {step.page} of {name} is not in the page cache")
            return page.pfn
        if name not in self.areas:
            known = [*self.areas, *self.files, *self.frames, *self.holds]
            raise WrongUse(f"{self.where(step)}: {unknown_name('area, file or frame', name, known)}")
        task, vpn = self.address(step)
        if (page := self.page_there(task, vpn)) is None:
            raise WrongUse(f"{self.where(step)}: {task.comm} has no page there; touch it first")
        return page.pfn

    def page_there(self, task: Task, vpn: int) -> Page | None:
        """The page that is mapped at an address, or that waits for it in the swap cache."""
        entry = task.alive_mm().entry(vpn)
        if isinstance(entry, Pte):
            return entry.page
        return self.vm.swap.cache.get(entry.entry) if isinstance(entry, SwapPte) else None

    def page(self, step: Step) -> Page:
        """The page of that frame; WrongUse if there is none behind it."""
        return self.struct_page(step, self.pfn(step), step.subject)

    def struct_page(self, step: Step, pfn: int, name: str) -> Page:
        if not self.vm.zone.online(pfn) and not self.vm.pmem.has_page(pfn):
            raise WrongUse(f"{self.where(step)}: {name} has no struct page; name another frame")
        return self.vm.zone.page(pfn)

    def open_file(self, step: Step, name: str) -> File:
        return self.look_up(step, "open file", self.open_files, name)

    def inode(self, step: Step) -> Inode:
        return self.look_up(step, "file", self.files, step.subject)

    def rewritten(self, mapping: AddressSpace | None, first: int, end: int) -> None:
        """These pages of a file have other contents now: an earlier error's cost is not seen there."""
        for census in self.censuses:
            if mapping is not None and census.mapping is mapping and first <= census.index < end:
                census.rewritten = True

    def key(self, step: Step) -> tuple[str, int]:
        """What the page of a step belongs to: a page of a file has one name in every area that shares it."""
        area = self.areas.get(step.subject)
        if area is not None and area.file is not None:
            return area.file, area.first + step.page
        return step.subject, step.page

    def stored(self, task: Task, vpn: int, pages: int = 1) -> None:
        """Memory was written to; where it is a file's, the file has other contents."""
        vma = task.alive_mm().find_vma(vpn)
        for census in self.censuses:
            census.stored.update((task.alive_mm(), there) for there in range(vpn, vpn + pages))
        if vma is not None and vma.shared:
            index = vma.index_of(vpn)
            self.rewritten(vma.mapping, index, index + pages)

    def given_up(self, mm: Mm, first: int, end: int) -> None:
        """A process does not want the contents of this memory any more: it has not lost them."""
        for census in self.censuses:
            census.given_up.update((mm, vpn) for vpn in range(first, end))

    def census(self, pfn: int) -> None:
        if self.vm.zone.online(pfn) or self.vm.pmem.has_page(pfn):
            self.censuses.append(Census.take(self.vm, pfn))

    def references(self, pfn: int) -> int:
        return self.vm.zone.page(pfn).refcount if self.vm.zone.online(pfn) else 0
