"""Steering the tasks: one Remote a thread, which makes system calls there; and memory shared by all of them.

The shared memory is mapped at the same address in every task: the notes of the SIGBUS handler (a count,
then 32 bytes each from offset 32: tid, si_code, si_addr, si_addr_lsb), a page for structures and names,
a page for data, and the stacks of tasks that share memory with others.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import stub
from .problems import WitnessFailed
from .syscalls import MAP_FIXED, MAP_SHARED, MMAP, PAGE, PIDFD_GETFD, PIDFD_OPEN, PROT_RW, CallFailed, name_of

SCRATCH = stub.NOTES + PAGE
DATA = stub.NOTES + 2 * PAGE
STACKS = stub.NOTES + 3 * PAGE
STACK_SIZE = 4 * PAGE  # a signal frame with all vector registers needs most of one page
STACK_COUNT = 12
SIZE = STACKS - stub.NOTES + STACK_COUNT * STACK_SIZE
MEMORY = 201  # the descriptor of the shared memory in a task at its start
REQUEST = struct.Struct("<8q")
SLOW = 0.5  # seconds without an answer after which somebody may be waiting for us
LONGEST = 20.0  # seconds for one system call


@dataclass(frozen=True, slots=True)
class Note:
    """One SIGBUS, as a handler saw it."""

    tid: int
    code: int
    address: int
    lsb: int


class Shared:
    """The memory shared with the tasks."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("tasks")
        os.ftruncate(self.descriptor, SIZE)
        self.memory = mmap.mmap(self.descriptor, SIZE)
        self.stacks = 0

    def scratch(self, content: bytes) -> int:
        """Put a structure where every task can read it; its address there."""
        self.memory[PAGE : PAGE + len(content)] = content
        return SCRATCH

    @property
    def data(self) -> bytes:
        return self.memory[2 * PAGE : 3 * PAGE]

    @data.setter
    def data(self, content: bytes) -> None:
        self.memory[2 * PAGE : 3 * PAGE] = content.ljust(PAGE, b"\0")

    def new_stack(self) -> int:
        """The address of the top of a stack of one's own, less the room for a request."""
        if self.stacks == STACK_COUNT:
            raise WitnessFailed(f"more than {STACK_COUNT} tasks share memory with others")
        self.stacks += 1
        return STACKS + self.stacks * STACK_SIZE - 256

    def notes(self, first: int) -> list[Note]:
        """The notes from number ``first`` on."""
        count = min(struct.unpack_from("<I", self.memory)[0], stub.NOTE_COUNT)
        found = (struct.unpack_from("<IiQI", self.memory, 32 + 32 * number) for number in range(first, count))
        return [Note(*one) for one in found]


class Died(Exception):
    """The process at the other end has ended; not a problem, but something to be seen."""


@dataclass(slots=True)
class Remote:
    """One thread of execution. ``patience`` is asked when an answer takes long: did that help anything?"""

    shared: Shared
    channel: socket.socket
    pid: int
    pidfd: int
    tid: int = 0
    patience: Callable[[], None] = lambda: None
    controller: int = field(default=-1)  # our pidfd in the task's own table
    poll: select.poll | None = None  # of the channel and the process, once it is known

    def request(self, number: int, *arguments: int, channel: int = 0) -> None:
        words = [number, *arguments, *[0] * (6 - len(arguments)), channel]
        try:
            self.channel.send(REQUEST.pack(*words))
        except struct.error:  # a word with the highest bit set
            self.channel.send(struct.pack("<8Q", *(word & (1 << 64) - 1 for word in words)))
        except (BrokenPipeError, ConnectionResetError):
            raise Died("the task has ended") from None

    def answer(self) -> int:
        """What the last request came to. Raises Died if the process ended instead."""
        if self.poll is None:
            self.poll = select.poll()
            self.poll.register(self.channel, select.POLLIN)
            self.poll.register(self.pidfd, select.POLLIN)
        deadline = 0.0
        while not (ready := {descriptor for descriptor, _ in self.poll.poll(SLOW * 1000)}):
            self.patience()
            deadline = deadline or time.monotonic() + LONGEST
            if time.monotonic() > deadline:
                raise WitnessFailed(f"no answer in {LONGEST:.0f} s")
        if self.channel.fileno() in ready:
            with contextlib.suppress(ConnectionResetError):
                if len(reply := self.channel.recv(8)) == 8:
                    return int(struct.unpack("<q", reply)[0])
        raise Died("the task has ended")

    def raw(self, number: int, *arguments: int, channel: int = 0) -> int:
        """A system call there; its result, negative errno included."""
        self.request(number, *arguments, channel=channel)
        return self.answer()

    def call(self, number: int, *arguments: int) -> int:
        """A system call there. Raises CallFailed."""
        result = self.raw(number, *arguments)
        if result < 0:
            raise CallFailed(-result, name_of(-result))
        return result

    def copy(self, to: int, source: int, count: int = PAGE) -> bool:
        """Copy memory there; False if a signal ended it."""
        return self.raw(stub.COPY, to, source, count) == 0

    def attach(self) -> None:
        """Map the shared memory, at the start of the program."""
        self.call(MMAP, stub.NOTES, SIZE, PROT_RW, MAP_SHARED | MAP_FIXED, MEMORY, 0)

    def take(self, descriptor: int) -> int:
        """Our descriptor, duplicated there: the same open file. Raises CallFailed."""
        if self.controller < 0:
            self.controller = self.call(PIDFD_OPEN, os.getpid(), 0)
        return self.call(PIDFD_GETFD, self.controller, descriptor, 0)


def start(shared: Shared, program: str, patience: Callable[[], None]) -> Remote:
    """A new process with the program; the one thread of it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    actions = [
        (os.POSIX_SPAWN_DUP2, its.fileno(), stub.CHANNEL),
        (os.POSIX_SPAWN_DUP2, shared.descriptor, MEMORY),
    ]
    pid = os.posix_spawn(program, ["task"], {}, file_actions=actions)
    its.close()
    remote = Remote(shared, ours, pid, os.pidfd_open(pid), pid, patience)
    remote.attach()
    return remote
