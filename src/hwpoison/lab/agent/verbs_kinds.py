"""The verbs about kinds of memory that need calls of their own: merged, lazily freed, marked, sealed."""

from __future__ import annotations

import errno
import struct
import time

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap as pm
from hwpoison.scenario.steps import Step

from . import frames
from . import syscalls as nr
from .bench import Bench, named
from .memfiles import add_seal
from .problems import CannotSetUp
from .quiet import KSM_REST, KSM_RUN, put
from .syscalls import PAGE

MERGE_SECONDS = 15.0  # two passes of ksmd over a few pages take well under one, if nothing else runs
UFFD_API, UFFD_FEATURE_POISON = 0xAA, 1 << 14
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_POISON = 0xC018AA3F, 0xC020AA00, 0xC020AA08
REGISTER_MISSING = 1
CLOSE_ON_EXEC = 0x80000


class KindVerbs(Bench):
    def do_merge(self, step: Step) -> None:
        task, address = self.place(step)
        name, _, page = step.args["with"].partition(":")
        area = named(self.areas, name)
        other, there = self.tasks.get(area.owner.name), area.address + int(page or 0) * PAGE
        first = named(self.areas, step.subject)
        task.remote.call(nr.MADVISE, first.address, first.pages * PAGE, nr.MADV_MERGEABLE)
        other.remote.call(nr.MADVISE, area.address, area.pages * PAGE, nr.MADV_MERGEABLE)
        put(KSM_RUN)
        deadline = time.monotonic() + MERGE_SECONDS
        try:
            while not _one_page(
                frames.entry(task.remote.pid, address), frames.entry(other.remote.pid, there)
            ):
                if time.monotonic() > deadline:
                    raise CannotSetUp(f"ksmd has not merged the two pages in {MERGE_SECONDS:.0f} s")
                time.sleep(0.05)
        finally:
            put(KSM_REST)
        self.remember(step)
        self.see("call", step.subject, data="ok")

    def do_unmerge(self, step: Step) -> None:
        task, address = self.place(step)
        size = named(self.areas, step.subject).pages * PAGE
        task.remote.call(nr.MADVISE, address, size, nr.MADV_UNMERGEABLE)
        self.see("call", step.subject, data="ok")

    def do_lazyfree(self, step: Step) -> None:
        task, address = self.place(step)
        task.remote.call(nr.MADVISE, address, PAGE, nr.MADV_FREE)
        self.see("call", step.subject, data="ok")

    def do_marker(self, step: Step) -> None:
        task, address = self.place(step)
        remote = task.remote
        descriptor = remote.call(nr.USERFAULTFD, CLOSE_ON_EXEC)
        try:
            for request, words in (
                (UFFDIO_API, (UFFD_API, UFFD_FEATURE_POISON, 0)),
                (UFFDIO_REGISTER, (address, PAGE, REGISTER_MISSING, 0)),
                (UFFDIO_POISON, (address, PAGE, 0, 0)),
            ):
                structure = remote.shared.scratch(struct.pack(f"<{len(words)}Q", *words))
                remote.call(nr.IOCTL, descriptor, request, structure)
        finally:
            remote.call(nr.CLOSE, descriptor)
        self.see("call", step.subject, data="ok")

    def do_seal(self, step: Step) -> None:
        file = named(self.files, step.subject)
        try:
            add_seal(file.path, step.args["against"])
        except OSError as error:
            number = error.errno or errno.EIO
            raise nr.CallFailed(number, nr.name_of(number)) from None
        self.see("call", step.subject, data="ok")


def _one_page(left: int, right: int) -> bool:
    """Do two pagemap words name the same merged frame?"""
    pfn = pm.pfn_of(left)
    return pfn is not None and pfn == pm.pfn_of(right) and bool(frames.flags(pfn) & pg.KSM)
