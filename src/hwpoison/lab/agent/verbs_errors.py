"""The verbs about errors, frames of the kernel's, and looking."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm
from hwpoison.abi.records import Value
from hwpoison.abi.signals import errno_name
from hwpoison.scenario.steps import Step

from . import corrected, frames, groups, hotplug, huge, pmem
from . import syscalls as nr
from .bench import Bench, KernelFrame, named
from .disks import modules
from .files import File, on_disk
from .injection import WAYS, soft_offline, unpoison_pfn
from .problems import CannotSetUp, NeedsFreshBoot
from .quiet import write_once
from .remote import DATA, Remote
from .syscalls import PAGE
from .vdso import map_vdso

NOT_REACHED = (errno.EFAULT, errno.ENOMEM, errno.EINVAL)  # madvise(2) that never got to the handler
ANY = 0xFFFFFFFF
# For the balloon a guest has 2176 MiB (lab/boot.py, MEMORY); it gives back four, in less than ten seconds.
BALLOON_MIB, BALLOON_TRIES = 2172, 100
ZEROS_ARE_BAD = "an earlier scenario has poisoned the page of zeros, which this one meets"
FILTER = "/sys/kernel/debug/hwpoison/corrupt-filter-"


class ErrorVerbs(Bench):
    def do_frame(self, step: Step) -> None:
        kind = step.args["kind"]
        if kind == "nostruct":
            found = KernelFrame(frames.end_of_memory() + (1 << 30), owned=False)
        elif kind == "free":
            found = KernelFrame(frames.free_frame(), owned=False)
        elif kind == "removable":
            found = KernelFrame(hotplug.removable_frame(), owned=False)
        elif kind == "registered":
            raise CannotSetUp(
                "on x86 no driver maps memory without pages and tells the handler (nvgrace-gpu does)"
            )
        elif kind in ("register", "firmware"):
            pfn = frames.REGISTER if kind == "register" else frames.firmware_frame()
            found = KernelFrame(pfn, owned=kind == "firmware", source=frames.by_number(pfn))
        elif kind.startswith("pmem-"):
            found = KernelFrame(pmem.device(step.args["fs"]).frame(kind), owned=False)
        elif kind == "slab":
            found = KernelFrame(frames.frame_with(pg.SLAB, set()))
        elif kind == "reserved":
            found = KernelFrame(frames.frame_with(pg.RESERVED, frames.mapped_by_everybody()))
        elif kind in ("driver", "vmalloc"):
            source = frames.driver_memory() if kind == "driver" else frames.vmalloc_memory()
            found = KernelFrame(frames.frame_of(*source), source=source)
        elif kind == "hugepage":
            taken = {frame.pfn for frame in self.frames.values()} | set(self.known.values())
            found = KernelFrame(huge.free_huge_page(taken), owned=False)
        elif kind == "pagetable":
            before = frames.snapshot()
            self.tasks.start(step.subject)
            found = KernelFrame(frames.new_page_table(before))
        elif kind == "vdso":
            task = self.tasks.start(step.subject)
            address = map_vdso(task.remote)
            task.remote.copy(DATA, address)
            found = KernelFrame(pm.pfn_of(frames.entry(task.remote.pid, address)) or 0, vdso=True)
            if not found.pfn or frames.is_bad(found.pfn):
                raise NeedsFreshBoot("the page of the vDSO is known to be bad")
        elif kind == "balloon":
            found = KernelFrame(self._frame_given_back())
        else:
            raise CannotSetUp(f"a guest has no {kind} frame")
        self.frames[step.subject] = found

    def _frame_given_back(self) -> int:
        """A frame that the guest has given to its host."""
        modules("virtio_balloon")
        self.hardware.ask(do="balloon", mib=BALLOON_MIB)
        for _ in range(BALLOON_TRIES):
            with contextlib.suppress(CannotSetUp):
                return frames.frame_with(pg.OFFLINE, set())
            time.sleep(0.1)
        raise CannotSetUp("the host has asked for memory, and the guest's balloon gave none")

    def do_filter(self, step: Step) -> None:
        for name in ("mask", "value"):
            flags = pg.parse(word for word in step.args[name].split(",") if word)
            write_once(f"{FILTER}flags-{name}", str(flags))
        device = self.file_systems.device(fs) if (fs := step.get("fs")) else None
        for name, number in zip(("major", "minor"), device or (ANY, ANY), strict=True):
            write_once(f"{FILTER}dev-{name}", str(number))
        group = step.get("group")
        write_once(f"{FILTER}memcg", "0" if group is None else str(groups.number(group)))
        write_once(f"{FILTER}enable", "1" if step.subject == "on" else "0")

    def do_nomemory(self, step: Step) -> None:
        self.hardware.fail_allocations(step.number("times"))

    def do_inject(self, step: Step) -> None:
        if step.args["via"] == "madvise":
            self._madvise(step)
            return
        if step.args["via"] == "scrub":
            pfn = self.struck[self.key(step)] = self.pfn(step)
            self._about_to(pfn)
            self.hardware.scrub(pfn)  # nobody gets the handler's return code
        else:
            self._by_frame(step, WAYS[step.args["via"]])

    def do_soft_offline(self, step: Step) -> None:
        if step.args["via"] == "madvise":
            self._madvise(step, nr.MADV_SOFT_OFFLINE)
        elif step.args["via"] == "corrected":
            pfn = self.struck[self.key(step)] = self.pfn(step)
            self._about_to(pfn)
            corrected.give_up(pfn)
        else:
            self._soft_offline(step)

    def _soft_offline(self, step: Step) -> None:
        """A page that has a slot of swap is moved, and waits for those who know the slot in another frame."""
        pfn = self.pfn(step)
        slots = [slot for slot, frame in self.slots.items() if frame == pfn]
        before = frames.snapshot() if slots else {}
        self._by_frame(step, soft_offline)
        if slots and not frames.flags(pfn) & pg.SWAPCACHE:
            new = frames.newly(pg.SWAPCACHE, before)
            if len(new) == 1:
                self.slots.update(dict.fromkeys(slots, new[0]))

    def _by_frame(self, step: Step, way: Callable[[Remote, int], int]) -> None:
        pfn = self.struck[self.key(step)] = self.pfn(step)
        self._about_to(pfn)
        self.see("return", step.subject, code=errno_name(way(self.hand, pfn)))

    def _madvise(self, step: Step, advice: int = nr.MADV_HWPOISON) -> None:
        task, address = self.place(step)
        area = named(self.areas, step.subject)
        before = frames.entry(task.remote.pid, address)
        untouched = frames.is_empty(before) and not (area.file or area.shared or area.huge)
        self._about_to(self.zero_page if untouched else pm.pfn_of(before))  # madvise(2) reads it first
        self.remember(step)
        if pfn := pm.pfn_of(before):
            self.struck[self.key(step)] = pfn  # the task may not live to return
        returned = task.remote.raw(nr.MADVISE, address, PAGE, advice)
        if not pfn and (pfn := frames.poisoned(frames.entry(task.remote.pid, address))):
            self._about_to(pfn)
            self.note(step, pfn)
            self.struck[self.key(step)] = pfn
        if returned in (-number for number in NOT_REACHED):
            raise nr.CallFailed(-returned, nr.name_of(-returned))
        self.see("return", step.subject, code=errno_name(returned))

    def _about_to(self, pfn: int | None) -> None:
        """Say what was seen until now: the machine may stop."""
        if pfn == self.zero_page and self.zero_page_was_bad:
            raise NeedsFreshBoot(ZEROS_ARE_BAD)
        kept = {self.zero_page, *(frame.pfn for frame in self.frames.values() if frame.owned)}
        # unpoisoning a frame that the kernel uses takes a reference from it, and may free it under its owner
        self.about_to(self.number, None if pfn in kept else pfn, self.seen)

    def do_unpoison(self, step: Step) -> None:
        frame = self.frames.get(step.subject)
        # Its owner does not show in its flags, other than those of the firmware, or of no page at all.
        shown = pg.RESERVED | pg.NOPAGE
        hidden = frame is not None and frame.source is not None and not frames.flags(frame.pfn) & shown
        if frame is not None and hidden and not frames.words("/proc/kpagecount", frame.pfn)[0]:
            raise CannotSetUp("the kernel would free the page under its owner, which no guest lives through")
        pfn = frame.pfn + step.page if frame is not None else self.struck.get(self.key(step))
        if pfn is None:
            raise CannotSetUp("which frame was struck there is not known: it was mapped by the call alone")
        self.see("return", step.subject, code=errno_name(unpoison_pfn(self.hand, pfn)))

    def do_offline_block(self, step: Step) -> None:
        self._switch_block(step, "offline")

    def do_online_block(self, step: Step) -> None:
        self._switch_block(step, "online")

    def _switch_block(self, step: Step, state: str) -> None:
        returned = hotplug.switch(named(self.frames, step.subject).pfn, state)
        self.see("return", step.subject, code=errno_name(returned))

    def do_note(self, step: Step) -> None:
        self.frames[step.args["as"]] = KernelFrame(self.pfn(step), owned=False)

    def do_break(self, step: Step) -> None:
        pfn = self.pfn(step)
        self._about_to(pfn)
        self.hardware.make_bad(pfn, contained=step.get("contained") != "no")
        self.broken.add(pfn)

    def do_look(self, step: Step) -> None:
        name = f"{step.subject}:{step.page}"
        if step.subject in self.files:
            file = named(self.files, step.subject)
            self.see("page", name, **self._page_view(file, step.page))
            self.see("disk", name, data=on_disk(file, step.page))
        elif step.subject in self.frames:
            bad = frames.is_bad(named(self.frames, step.subject).pfn)
            self.see("page", step.subject, bad="yes" if bad else "no")
        else:
            task, address = self.place(step)
            word = frames.entry(task.remote.pid, address)
            if pm.pfn_of(word) == self.zero_page and self.zero_page_was_bad:
                raise NeedsFreshBoot(ZEROS_ARE_BAD)
            self.see("pte", name, **frames.entry_view(word))

    def _page_view(self, file: File, index: int) -> dict[str, Value]:
        if not self.in_cache(file, index):
            return {"cached": "no"}
        pfn = self.file_frame(file, index)
        if pfn is None:
            raise CannotSetUp(f"the frame of a page of {file.name} is not known, and it cannot be touched")
        flags = frames.flags(frames.head_of(pfn))  # 6.1 shows a tail's own word, which is almost empty
        return {
            "cached": "yes",
            "dirty": "yes" if flags & pg.DIRTY else "no",
            "bad": "yes" if frames.is_bad(pfn) else "no",
            **frames.order_view(pfn),
        }

    def do_hugepages(self, step: Step) -> None:
        before = self.pools[step.subject]
        huge.keep_bad_blocks()
        huge.set_pool(step.subject, self.on_node[step.subject] + step.number("pages"), step.number("surplus"))
        # What earlier scenarios left in use was surplus, and is the pool's own again now that it has grown.
        before["surplus"] = 0

    def do_demote(self, step: Step) -> None:
        huge.demote(step.subject, step.number("pages"))

    def do_pool(self, step: Step) -> None:
        now, before = huge.counters(step.subject), self.pools[step.subject]
        self.see("pool", step.subject, **{name: now[name] - before[name] for name in now})

    def do_counters(self, _step: Step) -> None:
        names = ("HardwareCorrupted", "ignored", "failed", "delayed", "recovered")
        counted = self.evidence.counted()
        self.see("counter", "", **{name: counted[name] for name in names if name in counted})
