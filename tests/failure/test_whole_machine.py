"""Anything that processes, files, swap and errors can do, in any order, against a tiny account of contents.

The account knows what was last written where, on which disk it is, and whose page was hit by an error. A
load or read gives the last contents, or the process is told of an error; nobody is told who was not hit;
after each step the books balance, and at the end nothing is left but bad frames.

HWPOISON_EXAMPLES=5000 searches longer. What fails is kept in .hypothesis and tried first; what failed once
stands in REGRESSIONS, as steps that hypothesis printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode, Signal
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import corrupt_pfn, deferred, hard_offline_page, madvise
from hwpoison.failure.profiles import PROFILES
from hwpoison.mm.check import known_references
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, Inode, SysError
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.pte import PoisonPte, Pte, SwapErrorPte, SwapPte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import invalidate_mapping_pages, punch_hole, truncate
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

EXAMPLES = int(os.environ.get("HWPOISON_EXAMPLES", "80"))
FRAMES, RESERVED, SLOTS, PAGES, TASKS = 400, 2, 6, 3, 4
NUMBER = st.integers(0, 11)
LOST = (SiCode.BUS_MCEERR_AR, SiCode.BUS_MCEERR_AO)


@dataclass
class Account:
    """What is known of one file. Sets hold what may be found: more than one after a loss or a failed write."""

    inode: Inode
    seen: dict[int, set[str]] = field(default_factory=dict)
    disk: dict[int, set[str]] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)
    owed: dict[File, bool] = field(default_factory=dict)
    unheard: bool = False

    def may_be(self, index: int) -> set[str]:
        return self.seen.setdefault(index, set(self.disk.setdefault(index, {ZEROS})))

    def wrote(self, index: int, data: str) -> None:
        self.seen[index] = {data}

    def found(self, index: int, data: str) -> None:
        assert data in self.may_be(index), f"page {index} of {self.inode} is {data}, not {self.may_be(index)}"
        if {data} == self.disk[index]:
            self.seen[index] = {data}  # it was read from the disk: what was only in memory is gone

    def lost(self) -> None:
        """An error that every open file is told of once."""
        self.owed = dict.fromkeys(self.owed, True)
        self.unheard = True

    def emptied(self, indices: Iterator[int] | range | list[int]) -> None:
        for index in indices:
            self.seen[index], self.disk[index] = {ZEROS}, {ZEROS}
            self.hit.discard(index)


@dataclass
class Area:
    """What is known of one area: the private contents, and the addresses that an error has hit."""

    vma: Vma
    account: Account | None
    own: dict[int, str] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)

    @property
    def shared(self) -> bool:
        return self.vma.shared


@dataclass
class Process:
    task: Task
    areas: list[Area] = field(default_factory=list)


class WholeMachine(RuleBasedStateMachine):
    """Each rule takes small numbers that choose among what there is, so that its steps can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False
        self.processes: list[Process] = []
        self.accounts: list[Account] = []
        self.pins: list[tuple[Page, Process, Area, int]] = []
        self.written = 0

    @initialize(profile=st.sampled_from(sorted(PROFILES)), early=st.booleans())
    def boot(self, profile: str, early: bool) -> None:
        # Every kernel is held to what we owe about free pages (R22); the deviation has tests of its own.
        traits = replace(PROFILES[profile].traits, checks_new_pages=True)
        self.vm = Machine(frames=FRAMES, reserved=RESERVED, swap_slots=SLOTS, traits=traits)
        self.failure = MemoryFailure(self.vm, PROFILES[profile])
        self.vm.sysctls.memory_failure_early_kill = early
        for fs in ("ext4", "tmpfs", "vfat"):
            self.accounts.append(self.account(self.vm.create(f"on {fs}", fs, PAGES)))
        self.start(0)

    def account(self, inode: Inode) -> Account:
        disk = {index: {inode.blocks.get(index, ZEROS)} for index in range(PAGES)}
        return Account(inode, disk=disk)

    # Choosing.

    def process(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    def place(self, process: int, area: int, page: int) -> tuple[Process, Area, int] | None:
        owner = self.process(process)
        if not owner.areas:
            return None
        chosen = owner.areas[area % len(owner.areas)]
        return owner, chosen, chosen.vma.start + page % PAGES

    def data(self) -> str:
        self.written += 1
        return f"#{self.written}"

    def expected(self, area: Area, vpn: int) -> set[str]:
        if not area.shared and vpn in area.own:
            return {area.own[vpn]}
        return {ZEROS} if area.account is None else area.account.may_be(area.vma.index_of(vpn))

    def beyond(self, area: Area, vpn: int) -> bool:
        """Past the end of the file, and no private copy of before."""
        account = area.account
        return account is not None and area.vma.index_of(vpn) >= account.inode.size

    def was_hit(self, area: Area, vpn: int) -> bool:
        account = area.account
        return vpn in area.hit or (account is not None and area.vma.index_of(vpn) in account.hit)

    # What may happen to whoever does something.

    @contextmanager
    def survives(self, area: Area, vpn: int) -> Iterator[None]:
        """An access: it may be told of an error if there is one, and the machine may stop if that is real."""
        try:
            yield
        except Signalled as signalled:
            info = signalled.info
            assert info.signal is Signal.SIGBUS
            assert info.address is None or info.address >> PAGE_SHIFT == vpn
            if info.code in LOST:
                assert self.was_hit(area, vpn), f"{signalled} was not hit"
            else:
                assert self.beyond(area, vpn) or self.was_hit(area, vpn), f"{signalled} has its page"
            self.bury()
        except SysError as error:
            assert error.errno in (Errno.EFAULT, Errno.ENOMEM)
            hit = any(self.was_hit(area, v) or self.beyond(area, v) for v in range(area.vma.start, area.vma.end))
            assert hit, f"{error}, and nothing is wrong with {area.vma}"
        except Panic:
            self.panic()

    def panic(self) -> None:
        assert any(page.bad for page in self.vm.zone.pages.values()), "the machine stops for nothing"
        self.over = True

    def bury(self) -> None:
        self.processes = [process for process in self.processes if not process.task.exited]

    # Processes.

    @precondition(lambda self: len(self.processes) < TASKS and not self.over)
    @rule(kind=NUMBER)
    def start(self, kind: int) -> None:
        task = self.vm.new_task("app")
        task.sigbus = "handler" if kind & 1 else "default"
        task.prctl_mce_kill((None, McePolicy.EARLY, McePolicy.LATE)[kind % 3])
        self.processes.append(Process(task))

    @precondition(lambda self: 0 < len(self.processes) < TASKS and not self.over)
    @rule(process=NUMBER)
    def fork(self, process: int) -> None:
        parent = self.process(process)
        try:
            child = Process(parent.task.fork("child"))
        except Panic:
            return self.panic()
        for area, vma in zip(parent.areas, child.task.alive_mm().vmas, strict=True):
            child.areas.append(Area(vma, area.account, dict(area.own), set(area.hit)))
        self.processes.append(child)

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER)
    def exit(self, process: int) -> None:
        self.process(process).task.exit()
        self.bury()

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER)
    def execute(self, process: int) -> None:
        owner = self.process(process)
        owner.task.execve("new")
        owner.areas.clear()

    # Memory.

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, kind=st.integers(0, 7))
    def map(self, process: int, kind: int) -> None:
        owner = self.process(process)
        if len(owner.areas) == 3:
            return
        mm = owner.task.alive_mm()
        if kind < 6:
            account = self.accounts[kind % 3]
            file = File(account.inode, "of a mapping")
            vma = do_mmap(mm, PAGES, file=file, shared=kind < 3)
            file.close()
        else:
            vma = do_mmap(mm, PAGES, shared=kind == 6)
            account = Account(vma.inode) if vma.inode is not None else None
        owner.areas.append(Area(vma, account))

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, area=NUMBER)
    def unmap(self, process: int, area: int) -> None:
        place = self.place(process, area, 0)
        if place is not None:
            owner, chosen, _ = place
            munmap(owner.task.alive_mm(), chosen.vma)
            owner.areas.remove(chosen)

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, area=NUMBER, page=NUMBER)
    def load(self, process: int, area: int, page: int) -> None:
        place = self.place(process, area, page)
        if place is None:
            return
        owner, chosen, vpn = place
        with self.survives(chosen, vpn):
            data = load(owner.task, vpn)
            assert not self.beyond(chosen, vpn)
            if not chosen.shared and vpn in chosen.own or chosen.account is None:
                assert {data} == self.expected(chosen, vpn)
            else:
                chosen.account.found(chosen.vma.index_of(vpn), data)

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, area=NUMBER, page=NUMBER)
    def store(self, process: int, area: int, page: int) -> None:
        place = self.place(process, area, page)
        if place is None:
            return
        owner, chosen, vpn = place
        data = self.data()
        with self.survives(chosen, vpn):
            store(owner.task, vpn, data)
            assert not self.beyond(chosen, vpn)
            if chosen.shared and chosen.account is not None:
                chosen.account.wrote(chosen.vma.index_of(vpn), data)
            else:
                chosen.own[vpn] = data

    def copied(self, owner: Process, area: Area) -> None:
        """The kernel has touched private memory as by a store: copies of what was there."""
        for vpn in range(area.vma.start, area.vma.end):
            entry = owner.task.alive_mm().entry(vpn)
            private = isinstance(entry, Pte) and entry.page.anon and not area.shared
            if private and vpn not in area.own:
                assert entry.page.content in self.expected(area, vpn)
                area.own[vpn] = entry.page.content

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, area=NUMBER, on=st.booleans())
    def lock(self, process: int, area: int, on: bool) -> None:
        place = self.place(process, area, 0)
        if place is None:
            return
        owner, chosen, vpn = place
        with self.survives(chosen, vpn):
            try:
                mlock(owner.task.alive_mm(), chosen.vma, on=on)
            finally:
                self.copied(owner, chosen)

    @precondition(lambda self: self.processes and len(self.pins) < 3 and not self.over)
    @rule(process=NUMBER, area=NUMBER, page=NUMBER)
    def pin(self, process: int, area: int, page: int) -> None:
        place = self.place(process, area, page)
        if place is None:
            return
        owner, chosen, vpn = place
        with self.survives(chosen, vpn):
            held = pin_user_page(owner.task, vpn)
            self.copied(owner, chosen)
            self.pins.append((held, owner, chosen, vpn))

    @precondition(lambda self: self.pins and not self.over)
    @rule(number=NUMBER)
    def unpin(self, number: int) -> None:
        page, owner, area, vpn = self.pins.pop(number % len(self.pins))
        if not area.shared and owner in self.processes and area in owner.areas and vpn in area.own:
            if not self.was_hit(area, vpn):
                assert page.content == area.own[vpn], "the device and the process see different pages"
        unpin_user_page(page)

    # Files.

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2))
    def open(self, file: int) -> None:
        account = self.accounts[file]
        if len(account.owed) < 3:
            account.owed[File(account.inode, f"fd {len(account.owed)}")] = account.unheard

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), number=NUMBER)
    def close(self, file: int, number: int) -> None:
        account = self.accounts[file]
        if account.owed:
            closing = list(account.owed)[number % len(account.owed)]
            closing.close()
            del account.owed[closing]

    @contextmanager
    def call(self, account: Account, index: int) -> Iterator[None]:
        """read(2) or write(2): EIO only of a page in memory that an error has hit."""
        try:
            yield
        except SysError as error:
            assert error.errno is Errno.EIO
            assert index in account.hit
            assert account.inode.fs.swap_backed
        except Panic:
            self.panic()

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES))
    def read(self, file: int, index: int) -> None:
        account = self.accounts[file]
        handle = File(account.inode, "reader")
        with self.call(account, index):
            data = self.vm.read(handle, index)
            if index < account.inode.size:
                account.found(index, data)
            else:
                assert data == ""
        handle.close()

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES - 1))
    def write(self, file: int, index: int) -> None:
        account, data = self.accounts[file], self.data()
        handle = File(account.inode, "writer")
        with self.call(account, index):
            self.vm.write(handle, index, data)
            account.wrote(index, data)
        handle.close()

    def written_back(self, account: Account) -> None:
        """Everything dirty has gone to the disk, or was lost on the way."""
        for index in range(PAGES):
            seen, disk = account.may_be(index), account.disk[index]
            if self.vm.disk.failing:
                seen |= disk
            elif len(seen) == 1:
                account.disk[index] = set(seen)
            else:
                disk |= seen

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), number=NUMBER)
    def sync(self, file: int, number: int) -> None:
        account = self.accounts[file]
        if not account.owed:
            return
        handle = list(account.owed)[number % len(account.owed)]
        if account.inode.fs.can_writeback and account.inode.mapping.dirty and self.vm.disk.failing:
            account.lost()
        try:
            fsync(handle)
        except SysError as error:
            assert error.errno is Errno.EIO
            assert account.owed[handle], "told of an error that did not happen, or twice"
            account.owed[handle] = account.unheard = False
        else:
            assert not account.owed[handle], "a loss that nobody was told of"
        if account.inode.fs.can_writeback:
            self.written_back(account)

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), size=st.integers(0, PAGES))
    def truncate(self, file: int, size: int) -> None:
        account = self.accounts[file]
        account.emptied(range(min(size, account.inode.size), PAGES + 1))
        truncate(account.inode, size)
        for process in self.processes:
            for area in process.areas:
                if area.account is account:
                    gone = [vpn for vpn in area.own if area.vma.index_of(vpn) >= size]
                    for vpn in gone:
                        del area.own[vpn]

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES - 1))
    def punch(self, file: int, index: int) -> None:
        account = self.accounts[file]
        account.emptied([index])
        punch_hole(account.inode, index, index + 1)

    @precondition(lambda self: not self.over)
    @rule(file=st.integers(0, 2))
    def drop_caches(self, file: int) -> None:
        invalidate_mapping_pages(self.accounts[file].inode.mapping)

    # Disk, reclaim, swap.

    @precondition(lambda self: not self.over)
    @rule(failing=st.booleans())
    def disk_fails(self, failing: bool) -> None:
        self.vm.disk.release()
        self.vm.disk.failing = failing

    @precondition(lambda self: not self.over and not self.vm.disk.failing)
    @rule(held=st.booleans(), file=st.sampled_from([0, 2]))
    def disk_is_slow(self, held: bool, file: int) -> None:
        if held:
            self.vm.disk.held = True
            account = self.accounts[file]
            filemap_fdatawrite(account.inode.mapping)
            self.written_back(account)
        else:
            self.vm.disk.release()

    @precondition(lambda self: not self.over)
    @rule(number=st.integers(0, 30), drop=st.booleans())
    def reclaim(self, number: int, drop: bool) -> None:
        self.vm.lru.add_drain_all()
        pages = list(self.vm.lru.pages.values())
        if pages:
            reclaim_folio(pages[number % len(pages)], drop=drop)

    @precondition(lambda self: not self.over)
    @rule()
    def swap_off_and_on(self) -> None:
        try:
            self.vm.swap.swapoff()
        except Panic:
            self.panic()
        self.vm.swap.slots = SLOTS

    # Errors.

    def users_of(self, page: Page) -> None:
        """Note whom an error on this frame may hurt: before it happens."""
        for process in self.processes:
            for area in process.areas:
                for vpn in range(area.vma.start, area.vma.end):
                    entry = process.task.alive_mm().entry(vpn)
                    if isinstance(entry, Pte) and entry.page is page:
                        area.hit.add(vpn)
                    if isinstance(entry, SwapPte) and self.vm.swap.cache.get(entry.entry) is page:
                        area.hit.add(vpn)
                    if area.account is not None and self.at(area.account, area.vma.index_of(vpn)) is page:
                        area.hit.add(vpn)

    def at(self, account: Account, index: int) -> Page | None:
        """The page of a file, in its cache or on its way to swap."""
        mapping = account.inode.mapping
        return mapping.pages.get(index) or self.vm.swap.cache.get(mapping.swap_entries.get(index, 0))

    def hit(self, page: Page, inject: Callable[[], object]) -> None:
        """One error: whose page it was, what is lost, and who was told."""
        self.users_of(page)
        losing = []
        for account in {id(area.account): area.account for area in self.all_areas()}.values():
            for index in range(PAGES):
                if account is not None and self.at(account, index) is page:
                    account.hit.add(index)
                    if index in account.inode.mapping.dirty and account.inode.fs.can_writeback:
                        losing.append((account, index))
        events = len(self.failure.events)
        try:
            inject()
        except Panic:
            return self.panic()
        verdicts = [event for event in self.failure.events[events:] if event.type is not PageType.ALREADY_POISONED]
        if any("DIRTY" in event.type.name for event in verdicts):
            for account, index in losing:
                account.lost()
                account.may_be(index).update(account.disk[index])
        told = {process.task: len(process.task.received) for process in self.processes}
        self.vm.deliver_signals()
        for process in self.processes:
            for info in process.task.received[told[process.task] :]:
                places = {vpn << PAGE_SHIFT for area in process.areas for vpn in area.hit}
                assert info.signal is Signal.SIGKILL or info.address in places, f"{process.task} did not use {page}"
        self.bury()

    def all_areas(self) -> list[Area]:
        mapped = [area for process in self.processes for area in process.areas]
        return mapped + [Area(None, account) for account in self.accounts]  # type: ignore[arg-type]

    @precondition(lambda self: not self.over)
    @rule(pfn=st.integers(1, FRAMES + 1), way=st.sampled_from([hard_offline_page, corrupt_pfn, deferred]))
    def error_anywhere(self, pfn: int, way: Callable[[MemoryFailure, int], int]) -> None:
        self.hit(self.vm.zone.page(min(pfn, FRAMES - 1)), lambda: way(self.failure, pfn))

    @precondition(lambda self: not self.over)
    @rule(number=st.integers(0, 40), way=st.sampled_from([hard_offline_page, corrupt_pfn, deferred]))
    def error_in_use(self, number: int, way: Callable[[MemoryFailure, int], int]) -> None:
        used = [page for page in self.vm.zone.pages.values() if page.refcount and not page.flags & pg.RESERVED]
        if used:
            page = used[number % len(used)]
            self.hit(page, lambda: way(self.failure, page.pfn))

    @precondition(lambda self: self.processes and not self.over)
    @rule(process=NUMBER, area=NUMBER, page=NUMBER, consumed=st.booleans())
    def error_by_user(self, process: int, area: int, page: int, consumed: bool) -> None:
        """madvise(MADV_HWPOISON), or a load that meets a real error."""
        place = self.place(process, area, page)
        if place is None:
            return
        owner, chosen, vpn = place
        with suppress(Signalled, SysError):
            load(owner.task, vpn)
        self.bury()
        entry = owner.task.alive_mm().entry(vpn) if owner in self.processes else None
        if not isinstance(entry, Pte) or entry.page is self.vm.zero_page:
            return

        def consume() -> None:
            self.vm.strike(entry.page.pfn, hardware=True)
            with suppress(Signalled):
                load(owner.task, vpn)

        self.hit(entry.page, consume if consumed else lambda: madvise(self.failure, owner.task, vpn))

    # What must always hold.

    @invariant()
    def the_books_balance(self) -> None:
        if self.over or not hasattr(self, "vm") or self.vm.disk.under_way:
            return  # a write under way holds its page
        assert self.vm.check() == []
        self.every_frame_is_somewhere()
        self.verdicts_are_true()

    def every_frame_is_somewhere(self) -> None:
        free = set(self.vm.zone.free_pfns())
        for pfn in range(RESERVED, FRAMES):
            page = self.vm.zone.pages.get(pfn)
            if page is None or page.head is not page:
                assert page is not None or pfn in free
            elif pfn not in free and not page.refcount:
                assert page.flags & pg.HWPOISON or pfn in self.vm.zone.refused or self.vm.zone.refused, page

    def verdicts_are_true(self) -> None:
        """Promise 4, and the reference of the handler: exactly one, for ever."""
        known = known_references(self.vm)
        for event in self.failure.events:
            if event.type in (PageType.ALREADY_POISONED, PageType.PFN_MAP):
                continue
            page = self.vm.zone.page(event.pfn)
            assert page.flags & pg.HWPOISON
            if event.result in (MfResult.RECOVERED, MfResult.DELAYED):
                assert not page.mapped
                assert page.refcount > known[page.pfn], f"{page} may be freed"

    def teardown(self) -> None:
        """Everybody leaves: what is left are the bad frames."""
        if self.over or not hasattr(self, "vm"):
            return
        vm = self.vm
        vm.disk.release()
        vm.disk.failing = False
        for page, *_ in self.pins:
            unpin_user_page(page)
        for process in self.processes:
            process.task.exit()
        for account in self.accounts:
            truncate(account.inode, 0)
        vm.lru.add_drain_all()
        for page in list(vm.lru.pages.values()):
            reclaim_folio(page)  # pages that were under writeback when their last user went
        vm.lru.add_drain_all()
        assert vm.check() == []
        assert not vm.swap.count
        left = set(range(RESERVED, FRAMES)) - set(vm.zone.free_pfns())
        assert not [pfn for pfn in left if not vm.zone.page(pfn).flags & pg.HWPOISON and not vm.zone.refused]


def test_anything_in_any_order() -> None:
    run_state_machine_as_test(
        WholeMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
    )


REGRESSIONS: dict[str, list[tuple[object, ...]]] = {}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_failed_once(name: str) -> None:
    state = WholeMachine()
    for step, *arguments in REGRESSIONS[name]:
        getattr(state, str(step))(*arguments)
        state.the_books_balance()
    state.teardown()
