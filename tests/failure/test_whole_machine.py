"""Anything that processes, files, swap and errors can do, in any order, against a tiny account of contents.

The account knows what was last written where, on which disk it is, and whose page was hit by an error. A
load or read gives the last contents, or the process is told of an error; nobody is told who was not hit;
after each step the books balance, and at the end nothing is left but bad frames.

HWPOISON_EXAMPLES=5000 searches longer. What fails is kept in .hypothesis and tried first; what failed once
stands in REGRESSIONS, in the steps that hypothesis printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import wraps

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode, Signal
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import corrupt_pfn, deferred, hard_offline_page, madvise
from hwpoison.failure.profiles import PROFILES
from hwpoison.mm.check import known_references
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.pte import Pte, SwapPte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import invalidate_mapping_pages, punch_hole, truncate
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

from .accounts import Account

EXAMPLES = int(os.environ.get("HWPOISON_EXAMPLES", "80"))
FRAMES, RESERVED, SLOTS, PAGES, TASKS = 400, 2, 6, 4, 4
Rule = Callable[..., None]
NUMBER = st.integers(0, 11)
WAYS = st.sampled_from([hard_offline_page, corrupt_pfn, deferred])


@dataclass
class Area:
    """What is known of one area: the private contents, and the addresses that an error has hit."""

    vma: Vma
    account: Account | None
    own: dict[int, str] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)


@dataclass
class Process:
    task: Task
    areas: list[Area] = field(default_factory=list)


running = precondition(lambda self: not self.over)
used = precondition(lambda self: self.processes and not self.over)


def somewhere(**more: st.SearchStrategy[object]) -> Callable[[Rule], Rule]:
    """A rule about one page of one area of one process: the rule takes three numbers."""

    def decorate(function: Rule) -> Rule:
        @wraps(function)
        def step(self: WholeMachine, process: int, area: int, page: int, **rest: object) -> None:
            owner = self.process(process)
            if owner.areas:
                chosen = owner.areas[area % len(owner.areas)]
                function(self, owner, chosen, chosen.vma.start + page % PAGES, **rest)

        return used(rule(process=NUMBER, area=NUMBER, page=NUMBER, **more)(step))

    return decorate


class WholeMachine(RuleBasedStateMachine):
    """Each rule takes small numbers that choose among what there is, so steps can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False
        self.processes: list[Process] = []
        self.accounts: list[Account] = []  # the three files, then those of shared anonymous memory
        self.pins: list[tuple[Page, Process, Area, int]] = []
        self.written = 0

    @initialize(profile=st.sampled_from(sorted(PROFILES)), early=st.booleans())
    def boot(self, profile: str, early: bool) -> None:
        # Every kernel is held to what we owe about free pages (R22); the deviation has tests of its own.
        traits = replace(PROFILES[profile].traits, checks_new_pages=True)
        self.vm = Machine(frames=FRAMES, reserved=RESERVED, swap_slots=SLOTS, traits=traits)
        self.failure = MemoryFailure(self.vm, PROFILES[profile])
        self.vm.sysctls.memory_failure_early_kill = early
        for fs in ("ext4", "tmpfs", "bdev"):
            self.accounts.append(Account(self.vm.create(f"on {fs}", fs, PAGES)))
        self.start(0)

    def process(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    def data(self) -> str:
        self.written += 1
        return f"#{self.written}"

    def expected(self, area: Area, vpn: int) -> set[str]:
        if not area.vma.shared and vpn in area.own:
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
            if info.code in (SiCode.BUS_MCEERR_AR, SiCode.BUS_MCEERR_AO):
                assert self.was_hit(area, vpn), f"{signalled} was not hit"
            else:
                assert self.beyond(area, vpn) or self.was_hit(area, vpn), f"{signalled} has its page"
            self.bury()
        except SysError as error:
            assert error.errno in (Errno.EFAULT, Errno.ENOMEM)
            pages = range(area.vma.start, area.vma.end)
            wrong = any(self.was_hit(area, page) or self.beyond(area, page) for page in pages)
            assert wrong, f"{error}, and nothing is wrong with {area.vma}"
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

    @used
    @rule(process=NUMBER, execve=st.booleans())
    def leave(self, process: int, execve: bool) -> None:
        owner = self.process(process)
        owner.task.execve("new") if execve else owner.task.exit()
        owner.areas.clear()
        self.bury()

    # Memory.

    @used
    @rule(process=NUMBER, kind=st.integers(0, 7))
    def map(self, process: int, kind: int) -> None:
        owner = self.process(process)
        if len(owner.areas) == 3:
            return
        account = self.accounts[kind % 3] if kind < 6 else None
        if account is not None:
            vma = do_mmap(owner.task.alive_mm(), PAGES, file=account.file, shared=kind < 3)
        else:
            vma = do_mmap(owner.task.alive_mm(), PAGES, shared=kind == 6)
            if vma.inode is not None:
                account = Account(vma.inode)
                self.accounts.append(account)
        owner.areas.append(Area(vma, account))

    @somewhere()
    def unmap(self, owner: Process, chosen: Area, vpn: int) -> None:
        munmap(owner.task.alive_mm(), chosen.vma)
        owner.areas.remove(chosen)

    @somewhere()
    def load(self, owner: Process, chosen: Area, vpn: int) -> None:
        with self.survives(chosen, vpn):
            data = load(owner.task, vpn)
            assert not self.beyond(chosen, vpn)
            if chosen.account is None or (not chosen.vma.shared and vpn in chosen.own):
                assert {data} == self.expected(chosen, vpn)
            else:
                chosen.account.found(chosen.vma.index_of(vpn), data)

    @somewhere()
    def store(self, owner: Process, chosen: Area, vpn: int) -> None:
        data = self.data()
        with self.survives(chosen, vpn):
            store(owner.task, vpn, data)
            assert not self.beyond(chosen, vpn)
            if chosen.vma.shared and chosen.account is not None:
                chosen.account.wrote(chosen.vma.index_of(vpn), data)
            else:
                chosen.own[vpn] = data

    def copied(self, owner: Process, area: Area) -> None:
        """The kernel has touched private memory as by a store: copies of what was there."""
        for vpn in range(area.vma.start, area.vma.end):
            entry = owner.task.alive_mm().entry(vpn)
            private = isinstance(entry, Pte) and entry.page.anon and not area.vma.shared
            if private and vpn not in area.own:
                assert entry.page.content in self.expected(area, vpn)
                area.own[vpn] = entry.page.content

    @somewhere(on=st.booleans())
    def lock(self, owner: Process, chosen: Area, vpn: int, on: bool) -> None:
        with self.survives(chosen, vpn):
            try:
                mlock(owner.task.alive_mm(), chosen.vma, on=on)
            finally:
                self.copied(owner, chosen)

    @precondition(lambda self: len(self.pins) < 3)
    @somewhere()
    def pin(self, owner: Process, chosen: Area, vpn: int) -> None:
        with self.survives(chosen, vpn):
            held = pin_user_page(owner.task, vpn)
            self.copied(owner, chosen)
            self.pins.append((held, owner, chosen, vpn))

    @precondition(lambda self: self.pins and not self.over)
    @rule(number=NUMBER)
    def unpin(self, number: int) -> None:
        page, owner, area, vpn = self.pins.pop(number % len(self.pins))
        there = owner in self.processes and area in owner.areas and not self.was_hit(area, vpn)
        if there and not area.vma.shared and vpn in area.own:
            assert page.content == area.own[vpn], "the device and the process see different pages"
        unpin_user_page(page)

    # Files.

    @running
    @rule(file=st.integers(0, 2))
    def open(self, file: int) -> None:
        account = self.accounts[file]
        if len(account.owed) < 3:
            account.owed[File(account.inode, f"fd {len(account.owed)}")] = account.unheard

    @running
    @rule(file=st.integers(0, 2), number=NUMBER)
    def close(self, file: int, number: int) -> None:
        if owed := self.accounts[file].owed:
            del owed[list(owed)[number % len(owed)]]

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

    @running
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES))
    def read(self, file: int, index: int) -> None:
        account = self.accounts[file]
        with self.call(account, index):
            data = self.vm.read(account.file, index)
            if index < account.inode.size:
                account.found(index, data)
            else:
                assert data == ""

    @running
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES - 1))
    def write(self, file: int, index: int) -> None:
        account, data = self.accounts[file], self.data()
        with self.call(account, index):
            self.vm.write(account.file, index, data)
            account.wrote(index, data)

    @running
    @rule(file=st.integers(0, 2))
    def write_all(self, file: int) -> None:
        """One write(2) of the whole file, which makes a large folio where the file system has them."""
        account, data = self.accounts[file], self.data()
        if account.hit and account.inode.fs.swap_backed:
            return  # it may stop half way
        with self.call(account, 0):
            self.vm.write(account.file, 0, data, PAGES)
            for index in range(PAGES):
                account.wrote(index, data)

    def written_back(self, account: Account) -> None:
        """Everything dirty has gone to the disk, or was lost on the way."""
        for index in range(PAGES):
            seen, disk = account.may_be(index), account.disk[index]
            if self.vm.disk.failing:
                seen |= disk
            elif len(seen) == 1 and not self.vm.disk.held:
                account.disk[index] = set(seen)
            else:
                disk |= seen

    @running
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

    @running
    @rule(file=st.integers(0, 2), size=st.integers(0, PAGES))
    def truncate(self, file: int, size: int) -> None:
        account = self.accounts[file]
        account.emptied(min(size, account.inode.size), PAGES + 1)
        truncate(account.inode, size)
        for area in (area for process in self.processes for area in process.areas if area.account is account):
            area.own = {vpn: data for vpn, data in area.own.items() if area.vma.index_of(vpn) < size}

    @running
    @rule(file=st.integers(0, 2), index=st.integers(0, PAGES - 1))
    def punch(self, file: int, index: int) -> None:
        account = self.accounts[file]
        mapping, writes = account.inode.mapping, self.vm.traits.punch_writes_if_dirty
        if account.inode.fs.name in writes and index in mapping.dirty and self.vm.disk.failing:
            account.lost()
        try:
            punch_hole(account.inode, index, index + 1)
        except SysError as error:  # it had to write first, and no hole was made
            assert error.errno is Errno.EIO and account.inode.fs.name in writes
            self.written_back(account)
        else:
            account.emptied(index, index + 1)

    @running
    @rule(file=st.integers(0, 2))
    def drop_caches(self, file: int) -> None:
        invalidate_mapping_pages(self.accounts[file].inode.mapping)

    # Disk, reclaim, swap.

    @running
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

    @running
    @rule(number=st.integers(0, 30), drop=st.booleans())
    def reclaim(self, number: int, drop: bool) -> None:
        self.vm.lru.add_drain_all()
        if pages := list(self.vm.lru.pages.values()):
            reclaim_folio(pages[number % len(pages)], drop=drop)

    @running
    @rule()
    def swap_off_and_on(self) -> None:
        try:
            self.vm.swap.swapoff()
        except Panic:
            self.panic()
        self.vm.swap.slots = SLOTS

    # Errors.

    def mark(self, page: Page) -> list[tuple[Account, int]]:
        """Note whom an error on this frame may hurt, before it happens; which contents of disk files."""
        losing = []
        for account in self.accounts:
            for index in (index for index in range(PAGES) if account.page(index) is page):
                account.hit.add(index)
                if index in account.inode.mapping.dirty and account.inode.fs.can_writeback:
                    losing.append((account, index))
        for process in self.processes:
            for area in process.areas:
                for vpn in range(area.vma.start, area.vma.end):
                    entry = process.task.alive_mm().entry(vpn)
                    mapped = isinstance(entry, Pte) and entry.page is page
                    swapped = isinstance(entry, SwapPte) and self.vm.swap.cache.get(entry.entry) is page
                    of_file = area.account is not None and area.account.page(area.vma.index_of(vpn)) is page
                    if mapped or swapped or of_file:
                        area.hit.add(vpn)
        return losing

    def strike(self, page: Page, inject: Callable[[], object]) -> None:
        """One error: whose page it was, what is lost, and who was told."""
        losing, events = self.mark(page), len(self.failure.events)
        told = {process.task: len(process.task.received) for process in self.processes}
        try:
            inject()
        except Panic:
            return self.panic()
        if any("DIRTY" in event.type.name for event in self.failure.events[events:]):
            for account, index in losing:
                account.lost()
                account.may_be(index).update(account.disk[index])
        self.vm.deliver_signals()
        for process in self.processes:
            places = {vpn << PAGE_SHIFT for area in process.areas for vpn in area.hit}
            for info in process.task.received[told[process.task] :]:
                # Without an address: killed, or it consumed an error that could not be handled.
                assert info.address in places or info.code is SiCode.SI_KERNEL, f"{process.task}: why?"
        self.bury()

    @running
    @rule(pfn=st.integers(1, FRAMES + 1), way=WAYS)
    def error_anywhere(self, pfn: int, way: Callable[[MemoryFailure, int], int]) -> None:
        self.strike(self.vm.zone.page(min(pfn, FRAMES - 1)), lambda: way(self.failure, pfn))

    @running
    @rule(number=st.integers(0, 40), way=WAYS)
    def error_in_use(self, number: int, way: Callable[[MemoryFailure, int], int]) -> None:
        pages = self.vm.zone.pages.values()
        if in_use := [page for page in pages if page.refcount and page.pfn >= RESERVED]:
            page = in_use[number % len(in_use)]
            self.strike(page, lambda: way(self.failure, page.pfn))

    @somewhere(consumed=st.booleans())
    def error_by_user(self, owner: Process, chosen: Area, vpn: int, consumed: bool) -> None:
        """madvise(MADV_HWPOISON), or a load that meets a real error."""
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

        self.strike(entry.page, consume if consumed else lambda: madvise(self.failure, owner.task, vpn))

    @precondition(lambda self: self.over)
    @rule()
    def nothing_more(self) -> None:
        """The machine has stopped."""

    # What must always hold.

    @invariant()
    def the_books_balance(self) -> None:
        if self.over or not hasattr(self, "vm") or self.vm.disk.under_way:
            return  # a write under way holds its page
        assert self.vm.check() == []
        pages = self.vm.zone.pages
        free = set(self.vm.zone.free_pfns())
        for pfn in set(range(RESERVED, FRAMES)) - free:
            assert pages[pfn].head.refcount or pages[pfn].flags & pg.HWPOISON, f"{pages[pfn]} is nowhere"
        known = known_references(self.vm)
        for event in self.failure.events:
            if event.result in (MfResult.RECOVERED, MfResult.DELAYED):
                page = pages[event.pfn]
                assert page.flags & pg.HWPOISON
                assert not page.mapped, f"{page} was called {event.result.text}"
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
        for account in self.accounts[:3]:
            truncate(account.inode, 0)
        vm.lru.add_drain_all()
        for page in list(vm.lru.pages.values()):
            reclaim_folio(page)  # pages that were under writeback when their last user went
        vm.lru.add_drain_all()
        assert vm.check() == []
        assert not vm.swap.count
        left = [vm.zone.page(pfn) for pfn in set(range(RESERVED, FRAMES)) - set(vm.zone.free_pfns())]
        assert all(page.flags & pg.HWPOISON for page in left)


def test_anything_in_any_order() -> None:
    run_state_machine_as_test(
        WholeMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
    )


def dirty_page_back_from_swap(state: WholeMachine) -> None:
    """A tmpfs page whose write to swap failed came back without its dirty tag."""
    state.boot(profile="6.1", early=False)
    state.disk_fails(failing=True)
    state.write(file=1, index=0)
    state.reclaim(number=0, drop=False)
    state.read(file=1, index=0)


def slot_for_nobodys_page(state: WholeMachine) -> None:
    """A page that its file had let go of, held by the handler, was given a slot in swap for ever."""
    state.boot(profile="6.1", early=False)
    state.map(process=0, kind=6)
    state.pin(process=0, area=0, page=0)
    state.leave(process=0, execve=True)
    state.error_in_use(number=0, way=deferred)
    state.reclaim(number=0, drop=True)


REGRESSIONS: list[Callable[[WholeMachine], None]] = [dirty_page_back_from_swap, slot_for_nobodys_page]


@pytest.mark.parametrize("steps", REGRESSIONS, ids=lambda steps: steps.__name__)
def test_what_failed_once(steps: Callable[[WholeMachine], None]) -> None:
    state = WholeMachine()
    steps(state)
    state.the_books_balance()
    state.teardown()
