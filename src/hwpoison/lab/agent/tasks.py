"""The processes and threads of a scenario, and what becomes of them.

All are children of the controller (a fork uses CLONE_PARENT), so that it can wait for each.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hwpoison.abi.records import Kind, Value
from hwpoison.abi.signals import PAGE_SHIFT, PR_MCE_KILL, McePolicy, SiCode

from . import stub
from . import syscalls as nr
from .corefile import fatal_signal
from .problems import EndedEarly, WitnessFailed
from .remote import Died, Note, Remote, Shared, start

CLEAR, SET = 0, 1  # PR_MCE_KILL_CLEAR, PR_MCE_KILL_SET
POLICIES = {"default": McePolicy.DEFAULT, "early": McePolicy.EARLY, "late": McePolicy.LATE}
SA_SIGINFO_RESTORER_RESTART_NODEFER = 0x54000004
SIG_DFL, SIG_IGN = 0, 1
Seen = tuple[Kind, str, dict[str, Value]]


@dataclass(eq=False, slots=True)
class Task:
    """A thread with a name. ``leader`` None: it is a process."""

    name: str
    remote: Remote
    channel: int = stub.CHANNEL  # its end of the channel, in its own table
    leader: Task | None = None
    ended: bool = False
    told: bool = False  # its death has been reported

    @property
    def process(self) -> Task:
        return self.leader or self


class Tasks:
    """All tasks of one run, by name."""

    def __init__(self, program: str, cores: Path, patience: Callable[[], None]) -> None:
        self.shared = Shared()
        self.program = program
        self.cores = cores
        self.patience = patience
        self.by_name: dict[str, Task] = {}
        self.notes_seen = 0
        self.deaths: dict[Task, signal.Signals | None] = {}

    def get(self, name: str) -> Task:
        """A task that runs. EndedEarly if it does not."""
        task = self.by_name.get(name)
        if task is None or task.ended:
            raise EndedEarly(f"{name} has ended")
        return task

    def start(self, name: str) -> Task:
        task = Task(name, start(self.shared, self.program, self.patience))
        self.by_name[name] = task
        return task

    def fork(self, parent: Task, name: str) -> Task:
        return self._clone(parent, name, nr.CLONE_PARENT | signal.SIGCHLD, 0)

    def clone_vm(self, parent: Task, name: str) -> Task:
        flags = nr.CLONE_VM | nr.CLONE_PARENT | signal.SIGCHLD
        return self._clone(parent, name, flags, self.shared.new_stack())

    def thread(self, parent: Task, name: str) -> Task:
        task = self._clone(parent, name, nr.CLONE_THREAD_FLAGS, self.shared.new_stack())
        task.leader = parent.process
        task.remote.pid, task.remote.pidfd = parent.remote.pid, parent.remote.pidfd
        return task

    def _clone(self, parent: Task, name: str, flags: int, stack: int) -> Task:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        there = parent.remote.take(its.fileno())
        tid = parent.remote.raw(nr.CLONE, flags, stack, channel=there)
        its.close()
        if tid < 0:
            raise nr.CallFailed(-tid, nr.name_of(-tid))
        pidfd = -1 if flags == nr.CLONE_THREAD_FLAGS else os.pidfd_open(tid)
        remote = Remote(self.shared, ours, tid, pidfd, tid, self.patience, parent.remote.controller)
        task = Task(name, remote, there)
        self.by_name[name] = task
        return task

    def execve(self, task: Task) -> None:
        """The same program again, in new memory; the other threads of the process are gone."""
        remote = task.remote
        remote.call(nr.DUP2, task.channel, stub.CHANNEL)
        path = remote.shared.scratch(struct.pack("<QQ", 0, 0) + self.program.encode() + b"\0")
        remote.request(nr.EXECVE, path + 16, path, path)
        remote.request(nr.GETPID)  # answered by the new program, as execve(2) never answers
        if (result := remote.answer()) < 0:
            raise WitnessFailed(f"execve of {self.program}: {nr.name_of(-result)}")
        task.channel, remote.controller = stub.CHANNEL, -1
        remote.attach()
        for other in self.by_name.values():
            if other.process is task.process and other is not task:
                other.ended = True

    def exit(self, task: Task) -> None:
        task.remote.request(nr.EXIT_GROUP, 0)
        self.bury(task.process)

    def policy(self, task: Task, name: str) -> None:
        """prctl(PR_MCE_KILL)."""
        what = (CLEAR, 0) if name == "clear" else (SET, POLICIES[name])
        task.remote.call(nr.PRCTL, PR_MCE_KILL, *what, 0, 0)

    def sigbus(self, task: Task, action: str) -> None:
        """What it does on SIGBUS; blocking leaves the action as it is."""
        mask = task.remote.shared.scratch(struct.pack("<Q", 1 << signal.SIGBUS - 1))
        how = signal.SIG_BLOCK if action == "blocked" else signal.SIG_UNBLOCK
        if action != "blocked":
            handler = {"default": SIG_DFL, "ignore": SIG_IGN, "handler": stub.HANDLER}[action]
            flags = SA_SIGINFO_RESTORER_RESTART_NODEFER
            action_at = task.remote.shared.scratch(
                struct.pack("<QQQQQ", 1 << signal.SIGBUS - 1, handler, flags, stub.RESTORER, 0)
            )
            task.remote.call(nr.RT_SIGACTION, signal.SIGBUS, action_at + 8, 0, 8)
        task.remote.call(nr.RT_SIGPROCMASK, how, mask, 0, 8)

    def settle(self) -> None:
        """Let every thread run once in user mode, so that what waits for it takes effect."""
        for task in self.by_name.values():
            if not task.ended:
                try:
                    task.remote.raw(nr.GETPID)
                except Died:
                    self.bury(task.process)

    def bury(self, process: Task) -> None:
        """Note that a process has ended, and how."""
        if process in self.deaths:
            return
        _pid, status = os.waitpid(process.remote.pid, 0)
        self.deaths[process] = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
        for task in self.by_name.values():
            task.ended = task.ended or task.process is process

    def news(self, page_name: Callable[[int, Task], str]) -> Iterator[Seen]:
        """Signals and deaths since the last time, in the order of the tasks."""
        notes = self.shared.notes(self.notes_seen)
        self.notes_seen += len(notes)
        for process, died_of in self.deaths.items():
            fatal = None if process.told else fatal_signal(self.cores / f"core.{process.remote.pid}")
            if fatal is not None and fatal[0] == signal.SIGBUS and died_of is signal.SIGBUS:
                notes.append(fatal[1])
        for name, task in self.by_name.items():
            for note in notes:
                if note.tid == task.remote.tid:
                    yield "signal", name, _signal(note, task, page_name)
            died = self.deaths.get(task)
            if died is not None and not task.told:
                yield "died", name, {"signal": died.name}
        for process in self.deaths:
            process.told = True


def _signal(note: Note, task: Task, page_name: Callable[[int, Task], str]) -> dict[str, Value]:
    known = {code.value: code.name for code in SiCode}
    code = known.get(note.code, str(note.code))
    page = None if note.code == SiCode.SI_KERNEL else page_name(note.address >> PAGE_SHIFT, task)
    return {"code": code, "page": page, "lsb": note.lsb}
