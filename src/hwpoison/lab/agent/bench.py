"""One scenario under way on a real kernel: its things by name, and the frames behind them.

Files are opened, read and written by one task of our own, the *hand*, so that a call that blocks or a
page that is bad stops nobody else. An area has the same address in every task and no two areas have the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm
from hwpoison.abi.records import Kind, Observation, Value
from hwpoison.abi.signals import PAGE_SHIFT
from hwpoison.scenario.steps import Step

from . import frames, huge, pmem
from . import syscalls as nr
from .compaction import Room
from .disks import Disks
from .evidence import Evidence
from .files import ROOT, File, Files, cached, device_frame
from .hardware import Hardware
from .holds import Hold, Pin
from .problems import CannotSetUp, EndedEarly
from .remote import DATA, Remote
from .syscalls import PAGE
from .tasks import Task, Tasks

PROGRAM = ROOT / "task"
HAND = "(hand)"
AboutTo = Callable[[int, int | None, list[Observation]], None]
"""Called with the number of a step that may stop the machine, the frame that it will poison if that is
known and can be made good again, and all that was seen until then."""
T = TypeVar("T")


def named(things: dict[str, T], name: str) -> T:
    """The thing of that name. EndedEarly if the step that was to make it failed."""
    if name not in things:
        raise EndedEarly(f"there is no {name!r}")
    return things[name]


@dataclass(frozen=True, slots=True)
class Area:
    """A named area. ``file`` None: anonymous. ``address`` in bytes, ``first`` in pages."""

    name: str
    address: int
    pages: int
    owner: Task
    file: str | None
    first: int
    shared: bool
    huge: str | None = None


@dataclass(frozen=True, slots=True)
class KernelFrame:
    """A frame of the kernel's. ``source``: descriptor and offset that it can be mapped from, if it can.

    ``vdso``: it is the first page of the 32-bit vDSO, which a process can ask for.
    """

    pfn: int
    owned: bool = True
    source: tuple[int, int] | None = None
    vdso: bool = False


class Bench:
    """What the methods of all verbs work with."""

    def __init__(self, disks: Disks, files: Files, about_to: AboutTo) -> None:
        self.disks = disks
        self.file_systems = files
        self.about_to = about_to
        self.tasks = Tasks(str(PROGRAM), ROOT, disks.answer)
        self.hand_task = self.tasks.start(HAND)
        self.tasks.sigbus(self.hand_task, "handler")
        self.files: dict[str, File] = {}
        self.open_files: dict[str, tuple[int, File]] = {}  # name → (the hand's descriptor, file)
        self.areas: dict[str, Area] = {}
        self.frames: dict[str, KernelFrame] = {}
        self.holds: dict[str, Hold | Pin] = {}
        self.slots: dict[int, int] = {}  # slot of swap → the frame that was written there, or read from it
        self.known: dict[tuple[str, int], int] = {}  # page of a file or area → the frame it had last
        self.struck: dict[tuple[str, int], int] = {}  # page → the frame that was bad, or offlined, there last
        self.zero_page = frames.zero_page()
        self.zero_page_was_bad = frames.is_bad(self.zero_page)
        self.seen: list[Observation] = []
        self.busy: set[str] = set()  # files that a later step makes busy
        self.broken: set[int] = set()  # frames whose memory is really bad, as far as the guest can tell
        self.unnoticed: set[int] = set()  # those that the kernel did not know of before the step
        self.line: Hardware | None = None
        self.room: Room | None = None  # of a scenario that compacts memory
        self.number = 0
        self.restless = False  # signals may come at any step
        self.evidence = Evidence()
        self.pools = huge.all_counters()
        self.on_node = {size: huge.on_node(size) for size in huge.SHIFTS}  # of these, those of the first node

    @property
    def hand(self) -> Remote:
        return self.hand_task.remote

    @property
    def hardware(self) -> Hardware:
        """The way to errors of the hardware. CannotSetUp if the host gives none."""
        if self.line is None:
            self.line = Hardware()
        return self.line

    def see(self, kind: Kind, who: str, **value: Value) -> None:
        self.seen.append(Observation(self.number, kind, who, value))

    def page_name(self, page: int, who: Task) -> str:
        """An address of a task in the words of the scenario. Where two areas have it, his own is meant.

        io_uring chooses where it maps memory of a driver, and may choose the same in two processes.
        """
        found = {}
        for area in self.areas.values():
            index = page - (area.address >> PAGE_SHIFT)
            if 0 <= index < area.pages:
                found[area.owner.process is who.process] = f"{area.name}:{index}"
        return found.get(True) or found.get(False) or f"{page:#x}"

    def place(self, step: Step) -> tuple[Task, int]:
        """The task and the address that an ``area:page`` step means."""
        area = named(self.areas, step.subject)
        name = step.get("task")
        return self.tasks.get(area.owner.name if name is None else name), area.address + step.page * PAGE

    def descriptor(self, name: str) -> int:
        return named(self.open_files, name)[0]

    def fetch_from_hand(self, task: Task, descriptor: int) -> int:
        """The hand's open file, in a task's own table."""
        ours = nr.call(nr.PIDFD_GETFD, self.hand.pidfd, descriptor, 0)
        there = task.remote.take(ours)
        os.close(ours)
        return there

    def pfn(self, step: Step) -> int:
        """The frame that a step means. EndedEarly if there is none."""
        if step.subject in self.frames:
            return named(self.frames, step.subject).pfn + step.page
        if step.subject in self.holds:
            return named(self.holds, step.subject).pfn + step.page
        if step.subject in self.files:
            found = self.file_frame(named(self.files, step.subject), step.page)
        else:
            found = self._mapped_or_waiting(step)
        if found is None:
            raise EndedEarly(f"there is no page at {step.subject}:{step.page}")
        self.note(step, found)
        return found

    def key(self, step: Step) -> tuple[str, int]:
        """What a page belongs to: a page of a file has this name in every area that shares it."""
        area = self.areas.get(step.subject)
        if area is not None and area.file is not None and area.shared:
            return area.file, area.first + step.page
        return step.subject, step.page

    def word(self, step: Step) -> int:
        """The page table entry of an area's page, as pagemap has it."""
        task, address = self.place(step)
        return frames.entry(task.remote.pid, address)

    def _mapped_or_waiting(self, step: Step) -> int | None:
        """The frame that is mapped there, or that waits for it in the swap cache."""
        word = self.word(step)
        slot = frames.swap_slot(word)
        if slot is None:
            return pm.pfn_of(word) or self._in_swap_cache(*self.key(step))
        if slot not in self.slots:
            raise CannotSetUp("the frame that the swap cache has for this entry is not known")
        pfn = self.slots[slot]
        return pfn if frames.flags(pfn) & pg.SWAPCACHE else None

    def remember(self, step: Step, before: int = 0) -> None:
        """Note the frame of a page, which may be needed once it is unmapped; ``before``: the word then."""
        if (pfn := pm.pfn_of(self.word(step))) is not None:
            self.note(step, pfn)
            if (slot := frames.swap_slot(before)) is not None:
                self.slots.pop(slot, None)
                if frames.flags(pfn) & pg.SWAPCACHE:  # else it is a copy, and the other frame is not known
                    self.slots[slot] = pfn

    def note(self, step: Step, pfn: int) -> None:
        """This frame is the page; if it is a file's, the file has it, even where it is mapped privately.

        One of the swap cache that has been moved is the one that waits for its slot from now on. If the
        other is there still, it is the page of another process at this address.
        """
        old = self.known.get(self.key(step))
        if old not in (None, pfn) and ~frames.flags(old or 0) & frames.flags(pfn) & pg.SWAPCACHE:
            self.slots.update({slot: pfn for slot, frame in self.slots.items() if frame == old})
        self.known[self.key(step)] = pfn
        area = self.areas.get(step.subject)
        if frames.flags(pfn) & pg.HUGE:
            self._forget_moved(*self.key(step), pfn)
        if area is not None and area.file is not None and not frames.flags(pfn) & pg.ANON:
            self.known[area.file, area.first + step.page] = pfn

    def _forget_moved(self, name: str, index: int, pfn: int) -> None:
        """A huge page of hugetlb is here now: what is known of its other parts may be where it was before."""
        pages = self._huge_page(name) // PAGE
        for at, frame in list(self.known.items()):
            there = at[1]
            if at[0] == name and there // pages == index // pages and frame - there != pfn - index:
                del self.known[at]

    def _huge_page(self, name: str) -> int:
        """The bytes of a page of hugetlb that this area or file has."""
        area = self.areas.get(name)
        file = self.files.get((area.file or "") if area is not None else name)
        size = area.huge if area is not None else None
        if file is not None:
            size = huge.FILE_SYSTEMS.get(file.fs)
        return 1 << huge.SHIFTS[size or "2M"]

    def in_cache(self, file: File, index: int) -> bool:
        """Does it have a page cache, and in it this page?"""
        if file.fs == pmem.CHARACTER:
            return False
        if file.fs in huge.FILE_SYSTEMS:
            return huge.cached(file.path, index, self._huge_page(file.name))
        return cached(file.path, index)

    def _in_swap_cache(self, name: str, index: int) -> int | None:
        """The frame that a page had before it was unmapped, if the swap cache has it still."""
        pfn = self.known.get((name, index))
        return pfn if pfn is not None and frames.flags(pfn) & pg.SWAPCACHE else None

    def file_frame(self, file: File, index: int) -> int | None:
        """The frame of a page of a file: looked up by a mapping of the hand, which is gone again at once.

        None if it is not in the page cache. One that is too bad to be touched is the one that it was before.
        """
        if file.fs in (*pmem.BLOCKS, pmem.CHARACTER):
            return device_frame(file, index)
        if (waiting := self._in_swap_cache(file.name, index)) is not None:
            return waiting  # a touch would bring it back
        if not self.in_cache(file, index):
            return None
        size = self._huge_page(file.name) if file.fs in huge.FILE_SYSTEMS else PAGE
        last = self.known.get((file.name, index))
        if last in self.broken or (last is not None and frames.is_bad(last) and frames.on_lists(last)):
            return last  # looking at it with a load would be noticed, or drop it
        hand = self.hand
        descriptor = hand.call(nr.OPEN, hand.shared.scratch(bytes(file.path) + b"\0"), os.O_RDONLY)
        start = index * PAGE & -size
        address = hand.call(nr.MMAP, 0, size, 1, nr.MAP_SHARED, descriptor, start)
        touched = hand.copy(DATA, address + index * PAGE - start, 1)
        word = frames.entry(hand.pid, address + index * PAGE - start)
        hand.call(nr.MUNMAP, address, size)
        hand.call(nr.CLOSE, descriptor)
        return pm.pfn_of(word) if touched else self._known_frame(file.name, index, size // PAGE)

    def _known_frame(self, name: str, index: int, pages: int) -> int | None:
        """The frame a page of a file had when it could be touched; of a huge page, by any part of it."""
        for other in range(index & -pages, (index & -pages) + pages):
            if (pfn := self.known.get((name, other))) is not None:
                return pfn + index - other
        return None
