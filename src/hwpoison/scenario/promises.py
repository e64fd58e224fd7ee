"""The six promises, checked after every run (docs/scope.md tells them in full).

A *census* is taken of a frame at the moment its memory goes bad: what it held, where else that can be
found, who uses it. After the run the census is compared with what the handler said and with what
everybody would see now. All of this looks at the machine from outside, by other means than the
handler's, so that it can contradict the handler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, PF_MCE_EARLY, PF_MCE_PROCESS, SiCode, Signal
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.check import page_users
from hwpoison.mm.inode import AddressSpace, File
from hwpoison.mm.machine import Machine
from hwpoison.mm.mmap import Mm
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.pte import Entry, PoisonPte, Pte, SwapErrorPte, SwapPte
from hwpoison.mm.task import Task

MCEERR = (SiCode.BUS_MCEERR_AR, SiCode.BUS_MCEERR_AO)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who maps a page, or (``mapped`` False) would by touching it."""

    mm: Mm
    vpn: int
    tasks: tuple[Task, ...]
    mapped: bool

    @property
    def gone(self) -> bool:
        """Ended, or gave the address up."""
        return all(task.exited or task.mm is not self.mm for task in self.tasks) or (
            self.mm.find_vma(self.vpn) is None
        )

    def name(self) -> str:
        return f"{self.tasks[0]} at {self.vpn << PAGE_SHIFT:#x}"


@dataclass(frozen=True, slots=True)
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

    @classmethod
    def take(cls, vm: Machine, pfn: int) -> Census:
        page = vm.zone.page(pfn)
        mapping = page.mapping if isinstance(page.mapping, AddressSpace) else None
        on_disk = mapping is not None and mapping.can_writeback
        block = mapping.host.blocks.get(page.index, ZEROS) if mapping is not None and on_disk else None
        changing = page.flags & (pg.DIRTY | pg.WRITEBACK) or _dirty_in_page_tables(vm, page)
        return cls(
            pfn=pfn,
            content=page.content,
            last_copy=_is_last_copy(vm, page),
            users=tuple(_users(vm, page)),
            mapping=mapping,
            index=page.index,
            block=block,
            dirty=bool(changing),
            unwritten=on_disk and block != page.content and not changing,
            files=tuple((f, f.wb_err) for f in mapping.host.files) if mapping is not None and on_disk else (),
            signals={t.pid: len(t.received) for leader in vm.tasks.values() for t in leader.threads},
            already=bool(page.flags & pg.HWPOISON),
        )

    def loss(self, failure: MemoryFailure) -> str | None:
        """What this error cost in data, as far as the handler has dealt with it; None: nothing."""
        if not self.last_copy or self.already or _verdict(failure, self.pfn) in (None, MfResult.IGNORED):
            return None
        if self.mapping is not None:
            return f"page {self.index} of the {self.mapping.host}: {self.content!r}"
        owners = ", ".join(sorted({str(user.tasks[0]) for user in self.users})) or "nobody"
        return f"anonymous memory of {owners}: {self.content!r}"


def _is_last_copy(vm: Machine, page: Page) -> bool:
    mapping = page.mapping
    if page.flags & pg.SWAPCACHE and isinstance(page.private, int):
        return vm.swap.contents.get(page.private) != page.content
    if isinstance(mapping, AddressSpace):
        on_disk = mapping.host.blocks.get(page.index, ZEROS) if mapping.can_writeback else None
        return on_disk != page.content
    return page.anon


def _dirty_in_page_tables(vm: Machine, page: Page) -> bool:
    memories = {id(t.mm): t.mm for t in vm.tasks.values() if t.mm is not None}.values()
    entries = (entry for mm in memories for table in mm.tables.values() for entry in table.entries.values())
    return any(isinstance(entry, Pte) and entry.page is page and entry.dirty for entry in entries)


def _users(vm: Machine, page: Page) -> Iterator[User]:
    """Everybody who maps the page, has a swap entry for it, or has an area over it and nothing there yet."""
    for mm in {id(t.mm): t.mm for t in vm.tasks.values() if t.mm is not None}.values():
        tasks = tuple(thread for leader in mm.users for thread in leader.threads)
        for vma in mm.vmas:
            for vpn, table in mm.populated(vma.start, vma.end):
                entry = table.entries[vpn]
                if _refers(vm, entry, page):
                    yield User(mm, vpn, tasks, isinstance(entry, Pte))
            covered = page.index - vma.pgoff + vma.start
            over = page.mapping is not None and vma.mapping is page.mapping and vma.start <= covered < vma.end
            if over and mm.entry(covered) is None:
                yield User(mm, covered, tasks, False)


def _refers(vm: Machine, entry: Entry, page: Page) -> bool:
    if isinstance(entry, Pte):
        return entry.page is page
    return isinstance(entry, SwapPte) and vm.swap.cache.get(entry.entry) is page


def broken_promises(vm: Machine, failure: MemoryFailure, censuses: list[Census]) -> Iterator[Broken]:
    """Everything that this quiet machine did not keep."""
    yield from _contained(vm, failure)
    for number, census in enumerate(censuses):
        if not census.already:
            later = censuses[number + 1].signals if number + 1 < len(censuses) else {}
            yield from _told(vm, failure, census)
            yield from _innocent(vm, failure, census, later)
            yield from _truthful(vm, failure, census)
    for text in vm.check():
        yield Broken(5, text)


def forgotten_victims(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """Who asked to be told early of a loss, and was not when the handler returned (promise 2)."""
    mapped = any(user.mapped for user in census.users)
    lost = census.last_copy and census.dirty and mapped and not census.already
    if not lost or _verdict(failure, census.pfn) in (None, MfResult.IGNORED):
        return
    for user in census.users:
        wanted = user.mapped or census.mapping is not None
        if wanted and _asked_early(vm, user) and not user.gone and not _was_signalled(user, census):
            yield broke("forgotten-victim", f"{user.name()} asked to be told early and was not")


def _asked_early(vm: Machine, user: User) -> bool:
    for task in user.tasks:
        if task.leader.sigbus == "ignore" and not task.blocked:
            return False
        own = task.flags & PF_MCE_PROCESS
        if (task.flags & PF_MCE_EARLY) if own else vm.sysctls.memory_failure_early_kill:
            return True
    return False


def broke(deviation: str, text: str) -> Broken:
    return Broken(DEVIATIONS[deviation].promise, text, deviation)


def _verdict(failure: MemoryFailure, pfn: int) -> MfResult | None:
    """The last verdict about a frame that says something new."""
    results = [e.result for e in failure.events if e.pfn == pfn and e.type is not PageType.ALREADY_POISONED]
    return results[-1] if results else None


def _contained(vm: Machine, failure: MemoryFailure) -> Iterator[Broken]:
    """1. No bad frame is handed out again, mapped anew, or read without a machine check."""
    free = set(vm.zone.free_pfns())
    for page in vm.zone.pages.values():
        if not page.flags & pg.HWPOISON:
            continue
        if page.pfn in free and _verdict(failure, page.pfn) not in (None, MfResult.IGNORED, MfResult.FAILED):
            yield Broken(1, f"the bad {page} is in the free lists")
        if page.mapped and _verdict(failure, page.pfn) in (MfResult.RECOVERED, MfResult.DELAYED):
            yield Broken(1, f"the bad {page} is mapped at {page_users(vm, page)}")
    for text in vm.exposures:
        if text.startswith("a device"):
            yield broke("device-reads-on", text)


def _told(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """2. Data is lost only with its last copy, and then everyone who could rely on it is told."""
    if _verdict(failure, census.pfn) in (None, MfResult.IGNORED):
        return  # nothing was done, and nothing promised
    shown = _file_shows(census)
    if census.unwritten:
        if shown not in (None, census.content):
            yield broke("unwritten-clean", f"{census.content!r} was dropped as clean, {shown!r} is found now")
        return
    for user in census.users:
        if user.gone or _was_signalled(user, census):
            continue
        wrong = _what_it_meets(vm, user, census)
        if wrong is not None:
            yield wrong
    if census.last_copy and census.mapping is not None and shown != census.content:
        yield from _file_told(census, shown)


def _was_signalled(user: User, census: Census) -> bool:
    """Did somebody there get a signal about this address since, or one that ends everything?"""
    return any(
        info.signal is Signal.SIGKILL or (info.code in MCEERR and info.address == user.vpn << PAGE_SHIFT)
        for task in user.tasks
        for info in [*task.received[census.signals.get(task.pid, 0) :], *task.pending]
    )


def _what_it_meets(vm: Machine, user: User, census: Census) -> Broken | None:
    """What the next touch by this user would show him; None if that is right."""
    entry = user.mm.entry(user.vpn)
    if isinstance(entry, PoisonPte):
        return None
    if isinstance(entry, SwapErrorPte):
        return broke("swapin-error-unnamed", f"{user.name()} will get a SIGBUS that names no memory error")
    if isinstance(entry, SwapPte):
        cached = vm.swap.cache.get(entry.entry)
        stopped = cached is not None and cached.flags & pg.HWPOISON
        content = vm.swap.contents.get(entry.entry)
        if stopped or content == census.content or not census.last_copy:
            return None
        return Broken(2, f"{user.name()} will read {content!r} from swap instead of {census.content!r}")
    if isinstance(entry, Pte):
        if entry.page.pfn == census.pfn or entry.page.anon:
            return None  # still mapped: promise 4 judges that; or he has made a page of his own since
        found: str | None = entry.page.content
    elif census.mapping is None:
        found = ZEROS
    else:
        found = _file_shows(census)
    if found in (None, census.content):
        return None
    if not census.last_copy:
        if _changed_since(census):
            return None
        return Broken(2, f"{user.name()} would see {found!r}, {census.content!r} exists elsewhere")
    if _reported(census):
        return None
    return Broken(2, f"{user.name()} would see {found!r} instead of {census.content!r} and was not told")


def _changed_since(census: Census) -> bool:
    """The file got new contents after the error: whoever reads them reads right."""
    return census.mapping is not None and _file_shows(census) not in (census.content, None)


def _file_shows(census: Census) -> str | None:
    """What a read of the file gives now; None: an error, or a page that stops the reader."""
    mapping = census.mapping
    if mapping is None:
        return None
    page = mapping.pages.get(census.index)
    if page is not None:
        return None if page.flags & pg.HWPOISON else page.content
    if census.index in mapping.swap_entries:
        return mapping.vm.swap.contents.get(mapping.swap_entries[census.index])
    if not mapping.can_writeback:
        return ZEROS
    return mapping.host.blocks.get(census.index, ZEROS)


def _reported(census: Census) -> bool:
    """Does every open file get an error from fsync, or has it had one?"""
    mapping = census.mapping
    return (
        mapping is not None
        and bool(census.files)
        and all(mapping.wb_err.check(cursor) for _file, cursor in census.files)
    )


def _file_told(census: Census, shown: str | None) -> Iterator[Broken]:
    """Every open file of a file on a disk gets an error; and does a read give the contents of before?"""
    mapping = census.mapping
    if mapping is None or not census.files:
        return
    for file, cursor in census.files:
        if not mapping.wb_err.check(cursor):
            yield Broken(2, f"{file} will not hear that {census.content!r} was lost")
    if shown == census.block and census.index < mapping.host.size:
        text = f"read(2) of {mapping.host.name} gives {shown!r} instead of {census.content!r}"
        yield broke("stale-read", text)


def _innocent(vm: Machine, failure: MemoryFailure, census: Census, later: dict[int, int]) -> Iterator[Broken]:
    """3. Nobody is signalled who did not use the page; nobody at all when its contents exist elsewhere.

    ``later``: how many signals each task had received when the next error struck; those are not ours.
    """
    if _verdict(failure, census.pfn) is not MfResult.RECOVERED:
        return
    uses = {(task.pid, user.vpn) for user in census.users for task in user.tasks}
    for task in (thread for leader in vm.tasks.values() for thread in leader.threads):
        for info in task.received[census.signals.get(task.pid, 0) : later.get(task.pid)]:
            if info.code not in MCEERR or info.address is None:
                continue
            used = (task.pid, info.address >> PAGE_SHIFT) in uses
            if used and not census.last_copy:
                yield Broken(3, f"{task} got {info.text()} though {census.content!r} exists elsewhere")
            if not used and info.code is SiCode.BUS_MCEERR_AO:
                yield Broken(3, f"{task} got {info.text()} but did not use {census.pfn:#x}")


def _truthful(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """4. The verdict is true."""
    verdict = _verdict(failure, census.pfn)
    page = vm.zone.page(census.pfn)
    if not page.flags & pg.HWPOISON:
        return
    if verdict is MfResult.RECOVERED and (page.maybe_dma_pinned or page.pfn in vm.held):
        text = f"{page} is called Recovered, but somebody holds a reference to it"
        yield broke("pinned-anonymous", text) if census.mapping is None else Broken(4, text)
    slot = page.private if isinstance(page.private, int) else 0
    if verdict is MfResult.DELAYED and vm.swap.cache.get(slot) is not page:
        for user in census.users:
            if not user.gone and isinstance(user.mm.entry(user.vpn), SwapPte):
                yield Broken(4, f"{page} is called Delayed, but {user.name()} will not be stopped")
