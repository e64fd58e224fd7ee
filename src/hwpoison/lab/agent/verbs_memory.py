"""The verbs about memory: mapping, touching, swap, and references that others hold."""

from __future__ import annotations

import os
import struct
from dataclasses import replace

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm
from hwpoison.scenario.steps import Step, fate

from . import frames, huge
from . import syscalls as nr
from .bench import Area, Bench, named
from .files import label
from .holds import hold_file, hold_memory, pin_memory
from .memfiles import lock_segment
from .problems import CannotSetUp, WitnessFailed
from .quiet import write_once
from .remote import DATA
from .syscalls import PAGE
from .tasks import Task
from .vdso import map_vdso

AREAS = 0x10_0000_0000  # where the first area is; the next ones follow in steps
AREA_STEP = 0x4000_0000  # the largest huge page
TRIES = 3  # to move a page
FEW = 16  # pages that are worth a look each
NOWHERE = 1 << 20  # no node: the page was not moved, and its status not set
HUGE = 512 * PAGE
SPLIT = "/sys/kernel/debug/split_huge_pages"


class Signalled(Exception):
    """An access was ended by a signal, which is seen with all others."""


class MemoryVerbs(Bench):
    def do_map(self, step: Step) -> None:
        task = self.tasks.get(step.args["task"])
        pages = step.number("pages")
        address = AREAS + len(self.areas) * AREA_STEP
        flags = nr.MAP_FIXED_NOREPLACE | (nr.MAP_SHARED if step.args["shared"] == "yes" else nr.MAP_PRIVATE)
        if (size := step.get("hugetlb")) is not None:
            flags |= huge.map_flags(size)
        there, offset = -1, step.number("first") * PAGE
        if (frame := step.get("frame")) is not None and named(self.frames, frame).vdso:
            address = map_vdso(task.remote)
            self.areas[step.subject] = Area(step.subject, address, 1, task, None, 0, shared=True)
            return
        if (name := step.get("file")) is not None and (segment := self._segment(name)) is not None:
            if step.args["shared"] != "yes" or step.number("first"):
                raise CannotSetUp("a System V segment is attached from its beginning, and shared")
            address = task.remote.call(nr.SHMAT, segment, address, 0)
            self.areas[step.subject] = Area(
                step.subject, address, pages, task, self._file_of(step), step.number("first"), True
            )
            return
        if name is not None:
            there = self.fetch_from_hand(task, self.descriptor(name))
        elif (name := step.get("frame")) is not None:
            source = named(self.frames, name).source
            if source is None:
                raise CannotSetUp("only memory of drivers can be mapped without harm to every later process")
            descriptor, offset = source
            flags = nr.MAP_FIXED_NOREPLACE | nr.MAP_SHARED
            if offset == frames.SQES:
                flags, address = nr.MAP_SHARED, 0  # io_uring does not let us choose
            there = task.remote.take(descriptor)
        else:
            flags |= nr.MAP_ANONYMOUS
        if step.get("huge") is not None:
            huge.keep_bad_blocks()
            huge.allow_folios(step.args["huge"])
        address = task.remote.call(nr.MMAP, address, pages * PAGE, nr.PROT_RW, flags, there, offset)
        if there >= 0:
            task.remote.call(nr.CLOSE, there)
        if step.get("huge") is not None:
            task.remote.call(nr.MADVISE, address, pages * PAGE, nr.MADV_HUGEPAGE)
        shared = bool(flags & nr.MAP_SHARED)
        self.areas[step.subject] = Area(
            step.subject, address, pages, task, self._file_of(step), step.number("first"), shared, size
        )
        # Since 7.3 an array of BPF is mapped page by page, by faults.
        if step.get("frame") is not None and not task.remote.copy(DATA, address, 1):
            raise Signalled("the task was hit instead")

    def _segment(self, name: str) -> int | None:
        """The number of the System V segment that this open file is, if it is one."""
        made = named(self.open_files, name)[1].made
        return None if made is None else made.segment

    def _file_of(self, step: Step) -> str | None:
        name = step.get("file")
        return None if name is None else named(self.open_files, name)[1].name

    def do_unmap(self, step: Step) -> None:
        task, address = self.place(step)
        task.remote.call(nr.MUNMAP, address, named(self.areas, step.subject).pages * PAGE)

    def do_msync(self, step: Step) -> None:
        task, address = self.place(step)
        task.remote.call(nr.MSYNC, address, named(self.areas, step.subject).pages * PAGE, nr.MS_SYNC)
        self.see("call", step.subject, data="ok")

    def do_load(self, step: Step) -> None:
        task, address = self.place(step)
        before = self.word(step)
        if not task.remote.copy(DATA, address):
            raise Signalled("the task was hit instead")
        self.remember(step, before)
        self.see("call", task.name, data=label(self.tasks.shared.data))

    def do_store(self, step: Step) -> None:
        task, address = self.place(step)
        self.tasks.shared.data = step.args["data"].encode()
        before = self.word(step)
        if not task.remote.copy(address, DATA):
            raise Signalled("the task was hit instead")
        self.remember(step, before)
        self.see("call", task.name, data="ok")

    def do_discard(self, step: Step) -> None:
        task, address = self.place(step)
        task.remote.call(nr.MADVISE, address, step.number("pages") * PAGE, nr.MADV_DONTNEED)

    def do_collapse(self, step: Step) -> None:
        task, address = self.place(step)
        task.remote.call(nr.MADVISE, address, HUGE, nr.MADV_COLLAPSE)
        self.see("call", step.subject, data="ok")

    def do_split(self, step: Step) -> None:
        if step.subject in self.files:
            where = f"{named(self.files, step.subject).path},{step.page:#x},{step.page + 1:#x}"
        else:
            task, address = self.place(step)
            where = f"{task.remote.pid},{address:#x},{address + PAGE:#x}"
        write_once(SPLIT, ",".join(word for word in (where, step.get("order")) if word is not None))

    def do_lock(self, step: Step) -> None:
        if step.subject in self.files:
            self._lock_segment(step, on=True)
            return
        task, address = self.place(step)
        area = named(self.areas, step.subject)
        pages = [replace(step, page=index) for index in range(area.pages if area.pages <= FEW else 0)]
        before = [self.word(page) for page in pages]
        try:
            task.remote.call(nr.MLOCK, address, area.pages * PAGE)
        finally:
            for page, word in zip(pages, before, strict=True):  # it brings back what was in swap
                self.remember(page, word)

    def _lock_segment(self, step: Step, *, on: bool) -> None:
        made = named(self.files, step.subject).made
        if made is None or made.segment is None:
            raise CannotSetUp(f"{step.subject} is no segment of System V shared memory")
        lock_segment(made.segment, on=on)

    def do_unlock(self, step: Step) -> None:
        if step.subject in self.files:
            self._lock_segment(step, on=False)
            return
        task, address = self.place(step)
        task.remote.call(nr.MUNLOCK, address, named(self.areas, step.subject).pages * PAGE)

    def do_swapout(self, step: Step) -> None:
        task, address = self.place(step)
        pfn = self.pfn(step)
        addresses = range(address, address + step.number("pages", 1) * PAGE, PAGE)
        before = {there: pm.pfn_of(frames.entry(task.remote.pid, there)) for there in addresses}
        before[address] = pfn  # where it may not be mapped
        self._page_out(step, task, address, pfn)
        for there, frame in before.items():
            slot = frames.swap_slot(frames.entry(task.remote.pid, there))
            if slot is not None and frame is not None:
                self.slots[slot] = frame

    def _page_out(self, step: Step, task: Task, address: int, pfn: int) -> None:
        if frames.words("/proc/kpagecount", pfn)[0] > 1:
            raise CannotSetUp("MADV_PAGEOUT leaves pages alone that more than one process maps")
        keep, size = step.args["keep"] == "yes", step.number("pages", 1) * PAGE
        if keep and not frames.flags(pfn) & pg.SWAPBACKED:
            raise CannotSetUp("reclaim of a page of a disk file either frees it or does nothing")
        # EINVAL of locked memory is not looked at: reclaim leaves it alone as well
        if keep and self.disks.state == "linear":
            self.disks.switch("delay")  # reclaim leaves a page whose write is under way
            task.remote.raw(nr.MADVISE, address, size, nr.MADV_PAGEOUT)
            self.disks.switch("linear")
            return
        task.remote.raw(nr.MADVISE, address, size, nr.MADV_PAGEOUT)
        if not keep and _forgotten_in_swap_cache(pfn):
            # Since 7.3 writes to swap are sent off after reclaim has looked whether they are done.
            # A page that is read back and still clean needs no write, and is freed at once.
            task.remote.copy(DATA, address, 1)
            task.remote.raw(nr.MADVISE, address, size, nr.MADV_PAGEOUT)
            if _forgotten_in_swap_cache(pfn):
                raise CannotSetUp("reclaim has left the page in the swap cache")

    def do_migrate(self, step: Step) -> None:
        """Where it is now is asked first; there are two nodes, for nothing else than this."""
        task, address = self.place(step)
        now = self._move(task, address, None)
        moved = now
        for _ in range(TRIES):  # somebody may have a reference for a moment
            if now < 0 or moved == 1 - now:
                break
            moved = self._move(task, address, 1 - now)
        if moved < 0:
            raise nr.CallFailed(-moved, nr.name_of(-moved))
        self.remember(step)
        self.see("call", task.name, data="ok" if moved == 1 - now else "stays")

    def _move(self, task: Task, address: int, node: int | None) -> int:
        """move_pages(2) of one page, or without a node to ask for it: the node that it is on, or -errno."""
        hand = self.hand
        place = hand.shared.scratch(struct.pack("<Qii", address, node or 0, 0))
        target = 0 if node is None else place + 8
        left = hand.call(nr.MOVE_PAGES, task.remote.pid, 1, place, target, place + 12, nr.MPOL_MF_MOVE_ALL)
        return NOWHERE if left else int(struct.unpack_from("<i", hand.shared.memory, PAGE + 12)[0])

    def do_compact(self, step: Step) -> None:
        task, address = self.place(step)
        before = pm.pfn_of(frames.entry(task.remote.pid, address))
        if self.room is None:
            raise WitnessFailed("the scenario began without room for compaction")
        self.room.compact(before)
        after = pm.pfn_of(frames.entry(task.remote.pid, address))
        self.remember(step)
        self.see("call", task.name, data=fate(before, after))

    def do_swapoff(self, _step: Step) -> None:
        path = self.disks.get("swap").path
        hand = self.hand
        hand.call(nr.SWAPOFF, hand.shared.scratch(path.encode() + b"\0"))

    def do_pin(self, step: Step) -> None:
        task, address = self.place(step)
        area = self.areas[step.subject]
        if (
            area.shared
            and area.file is not None
            and self.files[area.file].fs not in ("tmpfs", *huge.FILE_SYSTEMS)
        ):
            raise CannotSetUp("io_uring does not pin pages of files, which may be written back meanwhile")
        pin = pin_memory(task.remote, address, 0)
        pin.pfn = pm.pfn_of(frames.entry(task.remote.pid, address)) or 0
        self.remember(step)
        self.holds[step.args["as"]] = pin

    def do_hold(self, step: Step) -> None:
        pfn = self.pfn(step)
        name = step.args["as"]
        if step.subject in self.files:
            hand = self.hand
            path = hand.shared.scratch(bytes(named(self.files, step.subject).path) + b"\0")
            descriptor = hand.call(nr.OPEN, path, os.O_RDWR)
            self.holds[name] = hold_file(hand, descriptor, step.page, pfn)
            hand.call(nr.CLOSE, descriptor)
        else:
            task, address = self.place(step)
            self.holds[name] = hold_memory(task.remote, address, pfn)

    def do_release(self, step: Step) -> None:
        named(self.holds, step.subject).release()
        del self.holds[step.subject]

    def do_dma(self, step: Step) -> None:
        self.see("call", step.subject, data=label(named(self.holds, step.subject).take()))


def _forgotten_in_swap_cache(pfn: int) -> bool:
    """Is this frame a clean page of the swap cache that nobody maps?"""
    flags = frames.flags(pfn)
    return bool(flags & pg.SWAPCACHE and not flags & (pg.MMAP | pg.DIRTY | pg.WRITEBACK))
