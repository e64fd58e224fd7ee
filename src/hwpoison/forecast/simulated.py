"""A made-up host for whoever may not read this one: a model machine, shown through files like those of /proc.

It is not a measurement of anything: some processes, files and pages of the kernel, enough to meet each
consequence. The files are read by the same code as those of a real host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hwpoison.abi.signals import PAGE_SIZE
from hwpoison.host.proc import Host
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.proc import page_count, stable_page_flags
from hwpoison.mm.pte import Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

FRAMES = 4096
RESERVED = 64
RELEASE = "7.3.0-simulated"
FILES = {
    "proc/sys/kernel/osrelease": RELEASE,
    "proc/sys/vm/memory_failure_early_kill": "0",
    "proc/sys/vm/memory_failure_recovery": "1",
    "proc/zoneinfo": (
        f"Node 0, zone   Normal\n        spanned  {FRAMES}\n        present  {FRAMES}\n"
        f"        managed  {FRAMES - RESERVED}\n  start_pfn:           0"
    ),
}


@contextmanager
def simulated_host() -> Iterator[Host]:
    """The files of the made-up host, as long as they are needed."""
    vm = machine()
    with tempfile.TemporaryDirectory(prefix="hwpoison-") as name:
        root = Path(name)
        for path, text in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text + "\n")
        flags = [stable_page_flags(vm, pfn) for pfn in range(FRAMES)]
        counts = [page_count(vm.zone.page(pfn)) for pfn in range(FRAMES)]
        np.array(flags, np.uint64).tofile(root / "proc/kpageflags")
        np.array(counts, np.uint64).tofile(root / "proc/kpagecount")
        yield Host(root, PAGE_SIZE)


def machine() -> Machine:
    """A small server at work: a web server, a database, a backup, and what the kernel needs for itself."""
    vm = Machine(frames=FRAMES, reserved=RESERVED, swap_slots=64)
    for kind, pages in (("slab", 240), ("vmalloc", 60), ("balloon", 40)):
        for _ in range(pages):
            kernel_page(vm, kind)
    library = _library(vm)
    web, database = vm.new_task("web"), vm.new_task("database")
    for task in (web, database):
        _run(task, library)
    _memory(web, 200)
    _memory(database, 700)
    for _ in range(3):
        web.fork()
    _files(vm)
    _shared_memory(vm, database, web)
    _swapped(vm, database)
    vm.lru.add_drain_all()
    _memory(vm.new_task("backup"), 6)  # still in the batch of a CPU
    return vm


def _library(vm: Machine) -> File:
    file = File(vm.create("libc", "ext4", 90), "loader")
    for index in range(90):
        vm.read(file, index)
    return file


def _run(task: Task, library: File) -> None:
    """Map the library, and have half of it in the page tables."""
    area = do_mmap(task.alive_mm(), 90, file=library, writable=False)
    for vpn in range(area.start, area.start + 45):
        load(task, vpn)


def _memory(task: Task, pages: int) -> Vma:
    """Anonymous memory, written to."""
    area = do_mmap(task.alive_mm(), pages)
    for vpn in range(area.start, area.end):
        store(task, vpn, f"{task.comm}:{vpn}")
    return area


def _files(vm: Machine) -> None:
    """Read a lot, written a little; some of that on the disk, some on its way, some only in memory."""
    logs = File(vm.create("log", "ext4", 500), "backup")
    for index in range(500):
        vm.read(logs, index)
    for index in range(30):
        vm.write(logs, index, f"line {index}")
    fsync(logs)
    for index in range(20, 40):
        vm.write(logs, index, f"newer line {index}")
    data = File(vm.create("data", "xfs", 12), "backup")
    for index in range(12):
        vm.write(data, index, f"row {index}")
    vm.disk.held = True
    filemap_fdatawrite(data.inode.mapping)


def _shared_memory(vm: Machine, first: Task, second: Task) -> None:
    """A segment in tmpfs that two processes map, partly held in memory."""
    segment = File(vm.create("segment", "tmpfs", 40), "database")
    areas = [(task, do_mmap(task.alive_mm(), 40, file=segment, shared=True)) for task in (first, second)]
    for index in range(40):
        store(first, areas[0][1].start + index, f"shared {index}")
        if index % 2:
            load(second, areas[1][1].start + index)
    pinned = do_mmap(first.alive_mm(), 8, file=segment, shared=True)
    for vpn in range(pinned.start, pinned.end):
        load(first, vpn)
    mlock(first.alive_mm(), pinned)


def _swapped(vm: Machine, task: Task) -> None:
    """Some memory has been to swap: still cached, read back, or written again since."""
    vm.disk.held = False
    area = _memory(task, 24)
    for number, vpn in enumerate(range(area.start, area.end)):
        entry = task.alive_mm().entry(vpn)
        if isinstance(entry, Pte):
            reclaim_folio(entry.page, drop=False)
        if number % 3 == 1:
            load(task, vpn)
        elif number % 3 == 2:
            store(task, vpn, f"again {vpn}")
