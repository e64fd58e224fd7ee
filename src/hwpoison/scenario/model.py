"""The model as a witness: runs a scenario on a machine of its own and says what could be seen.

One method a verb, named ``do_<verb>``. Every step ends with all tasks having been in user mode once,
so signals take effect; what they got is observed at that step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse, unknown_name
from hwpoison.abi.records import Broken, Kind, Observation, Outcome, StoryStep, Value
from hwpoison.abi.signals import PAGE_SHIFT, McePolicy, Signal, errno_name
from hwpoison.failure import inject
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.mm import gup, memory, slab, truncate, vmscan, writeback
from hwpoison.mm.filemap import Buffers
from hwpoison.mm.inode import FILE_SYSTEMS, AddressSpace, File, Inode, SysError
from hwpoison.mm.locks import Chooser, KernelBug
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, insert_page, munmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Signalled, Task

from .census import Census
from .load import Scenario
from .promises import at_once, broken_promises
from .steps import Step
from .views import counters_view, disk_view, entry_view, page_view

T = TypeVar("T")
POLICIES = {"default": McePolicy.DEFAULT, "early": McePolicy.EARLY, "late": McePolicy.LATE, "clear": None}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario on the model."""

    scenario: Scenario
    profile: Profile
    outcome: Outcome
    story: tuple[StoryStep, ...]


def run(scenario: Scenario, profile: Profile = NEWEST, *, chooser: Chooser | None = None) -> Run:
    """Run a scenario from a new machine to its end. WrongUse if a step names something that is not there."""
    return Model(scenario, profile, chooser).run()


@dataclass(frozen=True, slots=True)
class Area:
    """A named area: where it begins in every process that has it, and who had it first."""

    name: str
    start: int
    pages: int
    owner: Task


class Model:
    """One run. Things of the scenario are kept by name."""

    def __init__(self, scenario: Scenario, profile: Profile, chooser: Chooser | None) -> None:
        self.scenario = scenario
        self.profile = profile
        self.vm = Machine(
            frames=scenario.frames, swap_slots=scenario.swap, traits=profile.traits, chooser=chooser
        )
        self.vm.story = []
        self.failure = MemoryFailure(self.vm, profile)
        self.tasks: dict[str, Task] = {}
        self.files: dict[str, Inode] = {}
        self.open_files: dict[str, File] = {}
        self.areas: dict[str, Area] = {}
        self.frames: dict[str, int] = {}
        self.holds: dict[str, tuple[Page, bool]] = {}  # name → (page, is it a pin)
        self.censuses: list[Census] = []
        self.broken_at_once: list[Broken] = []
        self.seen: list[Observation] = []
        self.step_number = 0
        self.signals_seen: dict[str, int] = {}

    # Running.

    def run(self) -> Run:
        told = []
        stopped: str | None = None
        for number, step in enumerate(self.scenario.steps, 1):
            self.step_number = number
            notes, lines, seen = len(self.vm.story or ()), len(self.vm.log), len(self.seen)
            try:
                self._do(step)
            except Panic as panic:
                stopped = str(panic)
                self.see("panic", "", text=stopped)
            except KernelBug as bug:
                stopped = f"{type(bug).__name__}: {bug}"
            told.append(
                StoryStep(
                    number,
                    step.text(),
                    tuple((self.vm.story or ())[notes:]),
                    tuple(self.vm.log[lines:]),
                    tuple(self.seen[seen:]),
                )
            )
            if stopped is not None:
                break
        broken = self._promises(stopped)
        losses = tuple(text for census in self.censuses if (text := census.loss(self.failure)))
        seen_all = tuple(self.seen)
        outcome = Outcome(self.scenario.name, self.profile.name, "model", seen_all, broken, losses)
        return Run(self.scenario, self.profile, outcome, tuple(told))

    def _promises(self, stopped: str | None) -> tuple[Broken, ...]:
        panicked = any(seen.kind == "panic" for seen in self.seen)
        if stopped is not None and not panicked:
            return (Broken(6, stopped),)
        if panicked:
            return ()
        return (*self.broken_at_once, *broken_promises(self.vm, self.failure, self.censuses))

    def _do(self, step: Step) -> None:
        method: Callable[[Step], None] = getattr(self, f"do_{step.verb}")
        events, censuses = len(self.failure.events), len(self.censuses)
        try:
            method(step)
        except Signalled:
            pass  # seen with all other signals, below
        except SysError as error:
            self.see("call", step.subject, errno=error.errno.name)
        except OutOfMemory as error:
            raise WrongUse(f"{self.where(step)}: {error}; give the scenario more frames") from None
        self.vm.paths.finish()
        self.failure.run_queue()
        for census in self.censuses[censuses:]:
            self.broken_at_once += at_once(self.vm, self.failure, census)
        for event in self.failure.events[events:]:
            self.see("verdict", "", type=event.type.log, result=event.result.text)
        self.vm.deliver_signals()
        self._see_signals()

    def see(self, kind: Kind, who: str, **value: Value) -> None:
        self.seen.append(Observation(self.step_number, kind, who, value))

    def _see_signals(self) -> None:
        for name, task in self.tasks.items():
            for info in task.received[self.signals_seen.get(name, 0) :]:
                page = None if info.address is None else self.page_name(task, info.address >> PAGE_SHIFT)
                if info.signal is Signal.SIGBUS:
                    self.see("signal", name, code=info.code.name, page=page, lsb=info.lsb)
            self.signals_seen[name] = len(task.received)
            if task.died_of is not None and task is task.leader and not self._death_seen(name):
                self.see("died", name, signal=task.died_of.name)

    def _death_seen(self, name: str) -> bool:
        return any(seen.kind == "died" and seen.who == name for seen in self.seen)

    # Names.

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

    def page_name(self, task: Task, vpn: int) -> str:
        """An address in the words of the scenario: in an area of the task's own, else an inherited one."""
        near = [area for area in self.areas.values() if area.start <= vpn < area.start + area.pages]
        near.sort(key=lambda area: area.owner.leader is not task.leader)
        return f"{near[0].name}:{vpn - near[0].start}" if near else f"{vpn:#x}"

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
            return self.frames[name]
        if name in self.holds:
            return self.holds[name][0].pfn
        if name in self.files:
            mapping = self.files[name].mapping
            page = mapping.pages.get(step.page)
            if page is None:
                page = self.vm.swap.cache.get(mapping.swap_entries.get(step.page, 0))
            if page is None:
                raise WrongUse(f"{self.where(step)}: page {step.page} of {name} is not in the page cache")
            return page.pfn
        if name not in self.areas:
            known = [*self.areas, *self.files, *self.frames, *self.holds]
            raise WrongUse(f"{self.where(step)}: {unknown_name('area, file or frame', name, known)}")
        task, vpn = self.address(step)
        entry = task.alive_mm().entry(vpn)
        if isinstance(entry, Pte):
            return entry.page.pfn
        slot = getattr(entry, "entry", None)
        if slot in self.vm.swap.cache:
            return self.vm.swap.cache[slot].pfn
        raise WrongUse(f"{self.where(step)}: {task.comm} has no page there; touch it first")

    def page(self, step: Step) -> Page:
        """The page of that frame; WrongUse if there is none behind it."""
        return self._struct_page(step, self.pfn(step), step.subject)

    def _struct_page(self, step: Step, pfn: int, name: str) -> Page:
        if not self.vm.zone.online(pfn):
            raise WrongUse(f"{self.where(step)}: {name} has no struct page; name another frame")
        return self.vm.zone.page(pfn)

    # Tasks.

    def do_task(self, step: Step) -> None:
        task = self.vm.new_task(self.new_name(step, step.subject))
        self.tasks[step.subject] = task
        self._set_sigbus(task, step.args["sigbus"])
        task.prctl_mce_kill(POLICIES[step.args["policy"]])

    def _set_sigbus(self, task: Task, action: str) -> None:
        task.blocked = action == "blocked"
        if not task.blocked:
            task.leader.sigbus = action  # type: ignore[assignment] # checked by the table of steps

    def do_fork(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        self.tasks[name] = self.task(step, step.subject).fork(name)

    def do_thread(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        thread = self.task(step, step.subject).clone_thread(name)
        if step.args["policy"] != "default":
            thread.prctl_mce_kill(POLICIES[step.args["policy"]])
        self.tasks[name] = thread

    def do_clone(self, step: Step) -> None:
        name = self.new_name(step, step.args["as"])
        self.tasks[name] = self.task(step, step.subject).clone_vm(name)

    def do_exec(self, step: Step) -> None:
        self.task(step, step.subject).execve(step.subject)

    def do_exit(self, step: Step) -> None:
        self.task(step, step.subject).exit()

    def do_prctl(self, step: Step) -> None:
        self.task(step, step.subject).prctl_mce_kill(POLICIES[step.args["policy"]])

    def do_sigbus(self, step: Step) -> None:
        self._set_sigbus(self.task(step, step.subject), step.args["action"])

    def do_sysctl(self, step: Step) -> None:
        setattr(self.vm.sysctls, step.subject, step.args["value"] == "1")

    # Files.

    def do_file(self, step: Step) -> None:
        fs = step.args["fs"]
        if fs not in FILE_SYSTEMS:
            raise WrongUse(f"{self.where(step)}: {unknown_name('file system', fs, FILE_SYSTEMS)}")
        regular = step.args["kind"] == "regular"
        name = self.new_name(step, step.subject)
        self.files[name] = self.vm.create(name, fs, step.number("pages"), regular=regular)

    def do_open(self, step: Step) -> None:
        inode = self.look_up(step, "file", self.files, step.args["file"])
        name = self.new_name(step, step.subject)
        self.open_files[name] = File(inode, name)

    def open_file(self, step: Step, name: str) -> File:
        return self.look_up(step, "open file", self.open_files, name)

    def inode(self, step: Step) -> Inode:
        return self.look_up(step, "file", self.files, step.subject)

    def do_close(self, step: Step) -> None:
        self.open_file(step, step.subject).close()
        del self.open_files[step.subject]

    def do_read(self, step: Step) -> None:
        data = self.vm.read(self.open_file(step, step.subject), step.page)
        self.see("call", step.subject, data=data)

    def do_write(self, step: Step) -> None:
        file = self.open_file(step, step.subject)
        self.vm.write(file, step.page, step.args["data"])
        self._rewritten(file.inode.mapping, step.page, step.page + 1)
        self.see("call", step.subject, data="ok")

    def do_fsync(self, step: Step) -> None:
        writeback.fsync(self.open_file(step, step.subject))
        self.see("call", step.subject, data="ok")

    def do_truncate(self, step: Step) -> None:
        inode = self.inode(step)
        old = inode.size
        truncate.truncate(inode, step.number("pages"))
        self._rewritten(inode.mapping, inode.size, old)
        self.see("call", step.subject, data="ok")

    def do_punch(self, step: Step) -> None:
        inode, end = self.inode(step), step.page + step.number("pages")
        truncate.punch_hole(inode, step.page, end)
        self._rewritten(inode.mapping, step.page, end)
        self.see("call", step.subject, data="ok")

    def _rewritten(self, mapping: AddressSpace | None, first: int, end: int) -> None:
        """These pages of a file have other contents now: an earlier error's cost is not seen there."""
        for census in self.censuses:
            if mapping is not None and census.mapping is mapping and first <= census.index < end:
                census.rewritten = True

    def do_drop(self, step: Step) -> None:
        truncate.invalidate_mapping_pages(self.inode(step).mapping)

    def do_busy(self, step: Step) -> None:
        page = self.page(step)
        if not isinstance(page.private, Buffers):
            raise WrongUse(
                f"{self.where(step)}: the page has no buffers; write it on a file system with them"
            )
        page.private.busy = True

    def do_disk(self, step: Step) -> None:
        disk = self.vm.disk
        if step.subject == "hold":
            disk.held = True
        elif step.subject == "release":
            disk.release()
        else:
            disk.failing = step.subject == "fail"

    # Memory.

    def do_map(self, step: Step) -> None:
        task = self.task(step, step.args["task"])
        name = step.get("file")
        frame = step.get("frame")
        if name is not None and frame is not None:
            raise WrongUse(f"{self.where(step)}: both file={name} and frame={frame} are given; choose one")
        pages = step.number("pages")
        vma = do_mmap(
            task.alive_mm(),
            pages,
            file=None if name is None else self.open_file(step, name),
            pgoff=step.number("first"),
            shared=step.args["shared"] == "yes",
        )
        if frame is not None:
            pfn = self.look_up(step, "frame", self.frames, frame)
            page = self._struct_page(step, pfn, frame)
            self.vm.held.add(page.pfn)  # the driver's own reference
            insert_page(vma, vma.start, page)
        self.areas[self.new_name(step, step.subject)] = Area(step.subject, vma.start, pages, task)

    def do_unmap(self, step: Step) -> None:
        task, vma = self.area(step)
        munmap(task.alive_mm(), vma)

    def do_load(self, step: Step) -> None:
        task, vpn = self.address(step)
        self.see("call", task.comm, data=memory.load(task, vpn))

    def do_store(self, step: Step) -> None:
        task, vpn = self.address(step)
        memory.store(task, vpn, step.args["data"])
        vma = task.alive_mm().find_vma(vpn)
        if vma is not None and vma.shared:
            index = vma.index_of(vpn)
            self._rewritten(vma.mapping, index, index + 1)
        self.see("call", task.comm, data="ok")

    def do_lock(self, step: Step) -> None:
        task, vma = self.area(step)
        mlock(task.alive_mm(), vma)

    def do_unlock(self, step: Step) -> None:
        task, vma = self.area(step)
        mlock(task.alive_mm(), vma, on=False)

    def do_swapout(self, step: Step) -> None:
        page = self.page(step)
        vmscan.reclaim_folio(page, drop=step.args["keep"] == "no")

    def do_swapoff(self, step: Step) -> None:
        self.vm.swap.swapoff()

    def do_pin(self, step: Step) -> None:
        task, vpn = self.address(step)
        name = self.new_name(step, step.args["as"])
        self.holds[name] = (gup.pin_user_page(task, vpn), True)

    def do_hold(self, step: Step) -> None:
        page = self.page(step)
        get_page(page)
        self.vm.held.add(page.pfn)
        self.holds[self.new_name(step, step.args["as"])] = (page, False)

    def do_release(self, step: Step) -> None:
        page, pinned = self.look_up(step, "pin or hold", self.holds, step.subject)
        del self.holds[step.subject]
        if pinned:
            gup.unpin_user_page(page)
        else:
            self.vm.held.discard(page.pfn)
            put_page(page)

    def do_dma(self, step: Step) -> None:
        page, _pinned = self.look_up(step, "pin or hold", self.holds, step.subject)
        self.see("call", step.subject, data=self.vm.device_reads(page))

    def do_frame(self, step: Step) -> None:
        kind = step.args["kind"]
        name = self.new_name(step, step.subject)
        zone = self.vm.zone
        if kind == "nostruct":
            self.frames[name] = zone.frames + 1
        elif kind == "free":
            self.frames[name] = next(zone.free_pfns())
        elif kind == "reserved":
            self.frames[name] = zone.reserved - 1
        elif kind == "pagetable":
            task = self.tasks[name] = self.vm.new_task(name)
            self.frames[name] = task.alive_mm().pte_alloc(0).page.pfn
        else:
            self.frames[name] = slab.kernel_page(self.vm, kind).pfn

    # Errors.

    def do_filter(self, step: Step) -> None:
        self.failure.filter.enabled = step.subject == "on"
        for field, text in (("flags_mask", step.args["mask"]), ("flags_value", step.args["value"])):
            try:
                setattr(self.failure.filter, field, pg.parse(name for name in text.split(",") if name))
            except KeyError as error:
                raise WrongUse(
                    f"{self.where(step)}: {unknown_name('page flag', error.args[0], pg.BY_NAME)}"
                ) from None

    def do_nomemory(self, step: Step) -> None:
        self.failure.failing_allocations = step.number("times")

    def do_inject(self, step: Step) -> None:
        via = step.args["via"]
        if via == "madvise":
            task, vpn = self.address(step)
            gup_page = gup.get_user_page(task, vpn)
            put_page(gup_page)
            self._census(gup_page.pfn)
            returned = inject.madvise(self.failure, task, vpn)
            task.deliver()
            if task.exited:
                return  # killed before the call could return
        else:
            pfn = self.pfn(step)
            self._census(pfn)
            ways = {
                "debugfs": inject.corrupt_pfn,
                "sysfs": inject.hard_offline_page,
                "scrub": inject.deferred,
            }
            returned = ways[via](self.failure, pfn)
        self.see("return", step.subject, code=errno_name(returned))

    def do_break(self, step: Step) -> None:
        page = self.page(step)
        self._census(page.pfn)
        self.vm.strike(page.pfn, hardware=True)

    def _census(self, pfn: int) -> None:
        if self.vm.zone.online(pfn):
            self.censuses.append(Census.take(self.vm, pfn))

    # Looking.

    def do_look(self, step: Step) -> None:
        name = f"{step.subject}:{step.page}"
        if step.subject in self.files:
            inode = self.files[step.subject]
            self.see("page", name, **page_view(self.vm, inode, step.page))
            self.see("disk", name, **disk_view(inode, step.page))
        else:
            task, vpn = self.address(step)
            self.see("pte", name, **entry_view(self.vm, task, vpn))

    def do_counters(self, _step: Step) -> None:
        self.see("counter", "", **counters_view(self.vm, node=self.profile.node_counters))
