"""A frame at the moment its memory goes bad: what it held, where else that can be found, who uses it.

Taken by looking at the machine from outside, by other means than the handler's, so that the promises
can contradict the handler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, SiCode, SigInfo, Signal
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.handler import Event, MemoryFailure
from hwpoison.mm.hugetlb import is_huge, is_raw_hwpoison
from hwpoison.mm.inode import AddressSpace, File
from hwpoison.mm.machine import Machine
from hwpoison.mm.mmap import Mm
from hwpoison.mm.page import ZEROS, Page, page_swap_entry
from hwpoison.mm.pte import Entry, MigrationPte, Pmd, Pte, SwapPte
from hwpoison.mm.rmap import StableNode
from hwpoison.mm.task import Task

MCEERR = (SiCode.BUS_MCEERR_AR, SiCode.BUS_MCEERR_AO)
GONE_BEFORE = (PageType.TRUNCATED_LRU, PageType.UNMAP_FAILED)
"""Ignored although something was tried, or had happened already."""


def broke(deviation: str, text: str) -> Broken:
    return Broken(DEVIATIONS[deviation].promise, text, deviation)


def names(info: SigInfo, vpn: int) -> bool:
    """Does the signal tell of an error in memory that holds this page?"""
    if info.code not in MCEERR or info.address is None:
        return False
    return info.address >> info.lsb == vpn << PAGE_SHIFT >> info.lsb


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who maps a page, or (``mapped`` False) would by touching it."""

    mm: Mm
    vpn: int
    tasks: tuple[Task, ...]
    mapped: bool
    whole: bool = False  # by an entry for all of its folio

    @property
    def gone(self) -> bool:
        """Ended, or gave the address up."""
        return all(task.exited or task.mm is not self.mm for task in self.tasks) or (
            self.mm.find_vma(self.vpn) is None
        )

    def name(self) -> str:
        return f"{self.tasks[0]} at {self.vpn << PAGE_SHIFT:#x}"


@dataclass(slots=True)
class Census:
    """A frame as it was when it went bad. ``last_copy``: its contents exist nowhere else."""

    pfn: int
    content: str
    last_copy: bool
    users: tuple[User, ...]
    mapping: AddressSpace | None
    index: int
    block: str | None  # what the disk had of a page of a file
    dirty: bool  # the handler could know that it was newer than any copy
    unwritten: bool  # clean by its flags, and yet the disk has something else
    files: tuple[tuple[File, int], ...]  # open files of a disk file, with their error cursors
    signals: dict[int, int]  # task pid → how many signals it had received
    already: bool  # it was bad before
    in_swap_cache: bool
    large: bool  # one of several pages of a folio
    merged: bool  # by KSM
    copies: frozenset[tuple[int, int]]  # pid and page number of areas that map the file privately there
    neighbours: tuple[str, ...] = ()  # what good frames of the same huge page hold for its users
    waiting: tuple[SigInfo, ...] = ()  # signals of before, which could not be delivered yet
    given_up: set[tuple[Mm, int]] = field(default_factory=set)  # users that need it no more, by MADV_DONTNEED
    stored: set[tuple[Mm, int]] = field(default_factory=set)  # users that have written there since
    rewritten: bool = False  # since then the file got other contents here, or none

    @classmethod
    def take(cls, vm: Machine, pfn: int) -> Census:
        page = vm.zone.page(pfn)
        folio, index = page.head, page.file_index
        mapping = folio.mapping if isinstance(folio.mapping, AddressSpace) else None
        on_disk = mapping is not None and mapping.can_writeback
        block = mapping.host.blocks.get(index, ZEROS) if mapping is not None and on_disk else None
        changing = folio.flags & (pg.DIRTY | pg.WRITEBACK) or _dirty_in_page_tables(vm, page)
        return cls(
            pfn=pfn,
            content=page.content,
            last_copy=_is_last_copy(vm, page),
            users=tuple(_users(vm, page)),
            mapping=mapping,
            index=index,
            block=block,
            dirty=bool(changing),
            unwritten=on_disk and block != page.content and not changing,
            files=tuple((f, f.wb_err) for f in mapping.host.files) if mapping is not None else (),
            signals={t.pid: len(t.received) for leader in vm.tasks.values() for t in leader.threads},
            already=bool(page.flags & pg.HWPOISON) or is_raw_hwpoison(page),
            waiting=tuple(i for leader in vm.tasks.values() for t in leader.threads for i in t.pending),
            in_swap_cache=bool(folio.flags & pg.SWAPCACHE),
            large=folio.order > 0,
            merged=isinstance(folio.mapping, StableNode),
            copies=frozenset() if mapping is None else frozenset(_private_places(mapping, index)),
            neighbours=_neighbours(page),
        )

    def loss(self, failure: MemoryFailure) -> str | None:
        """What this error cost in data, as far as the handler has dealt with it; None: nothing."""
        event = last_event(failure, self.pfn)
        if not self.last_copy or self.already or event is None or event.result is MfResult.IGNORED:
            return None
        if self.mapping is not None:
            return f"page {self.index} of the {self.mapping.host}: {self.content!r}"
        owners = ", ".join(sorted({str(user.tasks[0]) for user in self.users})) or "nobody"
        return f"anonymous memory of {owners}: {self.content!r}"

    def file_shows(self) -> str | None:
        """What a read of the file gives now; None: an error, or a page that stops the reader."""
        mapping = self.mapping
        if mapping is None:
            return None
        if self.index in mapping.lost:
            return None
        if mapping.fs.dax:
            device_page = mapping.host.frames.get(self.index)
            return ZEROS if device_page is None else device_page.content
        page = mapping.frame(self.index)
        if page is not None:
            return None if page.flags & pg.HWPOISON or is_raw_hwpoison(page) else page.content
        if self.index in mapping.swap_entries:
            slot = mapping.swap_entries[self.index]
            cached = mapping.vm.swap.cache.get(slot)
            if cached is not None and cached.flags & pg.HWPOISON:
                return None
            return mapping.vm.swap.contents.get(slot)
        return mapping.host.blocks.get(self.index, ZEROS) if mapping.can_writeback else ZEROS

    def signals_since(self, task: Task) -> list[SigInfo]:
        """What a task has got since the error, and what waits for it."""
        since = [*task.received[self.signals.get(task.pid, 0) :], *task.pending]
        return [info for info in since if not any(info is waiting for waiting in self.waiting)]

    def uses(self) -> set[tuple[int, int]]:
        """Who used it: task pid and page number of the address."""
        return {(task.pid, user.vpn) for user in self.users for task in user.tasks}

    def told(self, user: User) -> bool:
        """Did somebody there get a signal about this address, or one that ends everything?"""
        return any(
            info.signal is Signal.SIGKILL or names(info, user.vpn)
            for task in user.tasks
            for info in self.signals_since(task)
        )


def _private_places(mapping: AddressSpace, index: int) -> Iterator[tuple[int, int]]:
    """Where this page of a file is mapped so that a copy of one's own can be there."""
    for vma in mapping.i_mmap:
        vpn = index - vma.pgoff + vma.start
        if not vma.shared and vma.start <= vpn < vma.end:
            yield from ((task.pid, vpn) for task in vma.mm.users)


def last_event(failure: MemoryFailure, pfn: int) -> Event | None:
    """The last verdict about a frame that says something new."""
    events = [e for e in failure.events if e.pfn == pfn and e.type is not PageType.ALREADY_POISONED]
    return events[-1] if events else None


def _neighbours(page: Page) -> tuple[str, ...]:
    if not is_huge(page) or not page.head.mapped:
        return ()
    return tuple(f.content for f in page.head.pages() if f is not page and not f.bad and f.content != ZEROS)


def _is_last_copy(vm: Machine, page: Page) -> bool:
    mapping = page.head.mapping
    if (slot := page_swap_entry(page)) is not None:
        return vm.swap.contents.get(slot) != page.content
    if isinstance(mapping, AddressSpace):
        on_disk = mapping.host.blocks.get(page.file_index, ZEROS) if mapping.can_writeback else None
        return on_disk != page.content
    return page.head.anon


def _dirty_in_page_tables(vm: Machine, page: Page) -> bool:
    memories = {id(t.mm): t.mm for t in vm.tasks.values() if t.mm is not None}.values()
    tables = [table for mm in memories for table in mm.tables.values()]
    entries = (entry for table in tables for entry in table.entries.values())
    huge = [table.huge for table in tables if isinstance(table.huge, Pmd)]
    huge += [pmd for mm in memories for pmd in mm.hugetlb.values() if isinstance(pmd, Pmd)]
    if any(pmd.page is page.head and pmd.dirty for pmd in huge):
        return True
    return any(isinstance(entry, Pte) and entry.page is page and entry.dirty for entry in entries)


def _users(vm: Machine, page: Page) -> Iterator[User]:
    """Everybody who maps the page, has a swap entry for it, or has an area over it and nothing there yet."""
    for mm in {id(t.mm): t.mm for t in vm.tasks.values() if t.mm is not None}.values():
        tasks = tuple(thread for leader in mm.users for thread in leader.threads)
        for vma in mm.vmas:
            for first, table in mm.huge_tables(vma.start, vma.end):
                if isinstance(table.huge, Pmd) and table.huge.page is page.head:
                    yield User(mm, first + page.offset, tasks, True, whole=True)
            for vpn, table in mm.populated(vma.start, vma.end):
                entry = table.entries[vpn]
                if _refers(vm, entry, page):
                    yield User(mm, vpn, tasks, isinstance(entry, Pte))
            for start, pmd in mm.hugetlb.items():
                inside = vma.start <= start < vma.end
                if inside and isinstance(pmd, Pmd) and pmd.page is page.head:
                    yield User(mm, start + page.offset, tasks, True, whole=True)
            covered = page.file_index - vma.pgoff + vma.start
            ours = vma.mapping is not None and vma.mapping is page.head.mapping
            if ours and vma.start <= covered < vma.end and mm.entry(covered) is None:
                yield User(mm, covered, tasks, False)


def _refers(vm: Machine, entry: Entry, page: Page) -> bool:
    if isinstance(entry, Pte):
        return entry.page is page
    if isinstance(entry, MigrationPte):
        return entry.page is page
    return isinstance(entry, SwapPte) and vm.swap.cache.get(entry.entry) is page
