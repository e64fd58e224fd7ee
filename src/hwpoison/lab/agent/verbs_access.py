"""The verbs about ways to bytes other than a task's own load, store, read and write."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

from hwpoison.scenario.steps import Step

from . import syscalls as nr
from .bench import Bench, named
from .corefile import memory
from .files import label
from .problems import CannotSetUp, WitnessFailed
from .remote import DATA, Remote
from .syscalls import PAGE

SEIZE, INTERRUPT, DETACH, PEEK, POKE = 0x4206, 0x4207, 17, 2, 5
ALL_CHILDREN = 0x40000000  # __WALL: of other threads as well
WORD = 8
NO_SUCH_COMMAND = 1199  # of fcntl(2): what a program gets that asks for lost ranges
DUMP_EVERYTHING = "0x7f"  # coredump_filter: private and shared, anonymous, of files and of huge pages


class AccessVerbs(Bench):
    def do_peek(self, step: Step) -> None:
        task, address = self.place(step)
        by = self.tasks.get(step.args["by"])
        self.tasks.shared.data = b""
        _WAYS[step.args["via"]](by.remote, task.remote.pid, address, False)
        self.see("call", by.name, data=label(self.tasks.shared.data))

    def do_poke(self, step: Step) -> None:
        task, address = self.place(step)
        by = self.tasks.get(step.args["by"])
        self.tasks.shared.data = step.args["data"].encode()
        _WAYS[step.args["via"]](by.remote, task.remote.pid, address, True)
        self.see("call", by.name, data="ok")

    def do_readv(self, step: Step) -> None:
        self._transfer(step, nr.PREADV, step.args["into"])

    def do_writev(self, step: Step) -> None:
        self._transfer(step, nr.PWRITEV, step.args["from"])

    def _transfer(self, step: Step, number: int, memory_at: str) -> None:
        """One call by the owner of the memory, on the hand's open file."""
        name, _, page = memory_at.partition(":")
        area = named(self.areas, name)
        task = self.tasks.get(step.get("task") or area.owner.name)
        there = self.fetch_from_hand(task, self.descriptor(step.subject))
        pages = step.number("pages")
        start = area.address + int(page or 0) * PAGE
        vectors = b"".join(struct.pack("<QQ", start + index * PAGE, PAGE) for index in range(pages))
        try:
            structure = task.remote.shared.scratch(vectors)
            count = task.remote.call(number, there, structure, pages, step.page * PAGE, 0)
        finally:
            task.remote.call(nr.CLOSE, there)
        whole = f"{count // PAGE} of {pages}" if count % PAGE == 0 else f"{count} bytes"
        self.see("call", step.subject, data=whole)

    def do_splice(self, step: Step) -> None:
        hand, there = self.hand, self.descriptor(step.subject)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        its = hand.take(writer)
        os.close(writer)
        offset = hand.shared.scratch(struct.pack("<Q", step.page * PAGE))
        try:
            if step.args["via"] == "splice":
                hand.call(nr.SPLICE, there, offset, its, 0, PAGE, 0)
            else:
                hand.call(nr.SENDFILE, its, there, offset, PAGE)
            try:
                found = os.read(reader, PAGE)
            except BlockingIOError:
                found = b""
        finally:
            hand.call(nr.CLOSE, its)
            os.close(reader)
        self.see("call", step.subject, data=label(found))

    def do_lost(self, step: Step) -> None:
        self.hand.call(nr.FCNTL, self.descriptor(step.subject), NO_SUCH_COMMAND, 0)
        raise WitnessFailed("this kernel knows a command of fcntl(2) that none had")

    do_acknowledge = do_lost

    def do_coredump(self, step: Step) -> None:
        task, address = self.place(step)
        process = task.process
        Path(f"/proc/{process.remote.pid}/coredump_filter").write_text(DUMP_EVERYTHING)
        os.kill(process.remote.pid, signal.SIGABRT)
        self.tasks.bury(process)
        found = memory(self.tasks.cores / f"core.{process.remote.pid}", address, PAGE)
        if found is None:
            raise CannotSetUp("the core file does not have this area")
        self.see("call", task.name, data=label(found))


def _process_vm(by: Remote, pid: int, address: int, write: bool) -> None:
    vectors = by.shared.scratch(struct.pack("<4Q", DATA, PAGE, address, PAGE))
    number = nr.PROCESS_VM_WRITEV if write else nr.PROCESS_VM_READV
    by.call(number, pid, vectors, 1, vectors + 16, 1, 0)


def _proc_mem(by: Remote, pid: int, address: int, write: bool) -> None:
    there = by.call(nr.OPEN, by.shared.scratch(f"/proc/{pid}/mem".encode() + b"\0"), os.O_RDWR)
    try:
        by.call(nr.PWRITE64 if write else nr.PREAD64, there, DATA, PAGE, address)
    finally:
        by.call(nr.CLOSE, there)


def _ptrace(by: Remote, pid: int, address: int, write: bool) -> None:
    """By words, as debuggers did it: the first 64 bytes are enough for a label."""
    if by.pid == pid:
        raise WitnessFailed("a task cannot trace itself")
    by.call(nr.PTRACE, SEIZE, pid, 0, 0)
    by.call(nr.PTRACE, INTERRUPT, pid, 0, 0)
    by.call(nr.WAIT4, pid, 0, ALL_CHILDREN, 0)
    content = by.shared.data
    try:
        for offset in range(0, 64, WORD):
            if write:
                word = struct.unpack_from("<Q", content, offset)[0]
                by.call(nr.PTRACE, POKE, pid, address + offset, word)
            else:
                by.call(nr.PTRACE, PEEK, pid, address + offset, DATA + offset)
    finally:
        by.call(nr.PTRACE, DETACH, pid, 0, 0)


_WAYS = {"process_vm": _process_vm, "proc-mem": _proc_mem, "ptrace": _ptrace}
