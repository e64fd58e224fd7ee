"""Tasks: processes and threads, fork, exec, exit, signals, the kill policy (kernel/fork.c, kernel/signal.c).

A task here is one thread; the first of its process is the leader and stands for the process. A signal
is queued under the ``siglock`` of the process and takes effect when its thread is next in user mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from greenlet import GreenletExit

from hwpoison.abi.signals import (
    PAGE_SHIFT,
    PF_MCE_EARLY,
    PF_MCE_PROCESS,
    McePolicy,
    SigInfo,
    Signal,
)

from .fault import FAULT_SIGNALS, Fault
from .inode import SysError
from .locks import KernelBug, Lock
from .mmap import Mm, dup_mmap, exit_mmap
from .page_alloc import OutOfMemory

if TYPE_CHECKING:
    from .machine import Machine

Action = Literal["default", "handler", "ignore"]
FORKED_FLAGS = PF_MCE_PROCESS | PF_MCE_EARLY


class Signalled(Exception):
    """The task was hit by a signal instead of finishing what it did."""

    def __init__(self, task: Task, info: SigInfo) -> None:
        super().__init__(f"{task} got {info.text()}")
        self.task = task
        self.info = info


class Task:
    """struct task_struct. ``flags`` hold the thread's kill policy; signal actions are the leader's."""

    def __init__(self, vm: Machine, pid: int, comm: str, leader: Task | None = None) -> None:
        self.vm = vm
        self.pid = pid
        self.comm = comm
        self.leader = leader or self
        self.threads: list[Task] = [self]  # of the leader: all of the process, itself first
        self.mm: Mm | None = None
        self.flags = 0
        self.sigbus: Action = "default"
        self.blocked = False  # SIGBUS, in this thread
        self.pending: list[SigInfo] = []
        self.received: list[SigInfo] = []
        self.died_of: Signal | None = None
        self.exited = False
        self.siglock = Lock(vm.paths, "siglock", comm)

    def __repr__(self) -> str:
        return f"{self.comm}:{self.pid}"

    def alive_mm(self) -> Mm:
        """The memory of a task that is known to run."""
        if self.mm is None:
            raise KernelBug(f"{self} has no memory: it has ended")
        return self.mm

    def prctl_mce_kill(self, policy: McePolicy | None) -> None:
        """prctl(PR_MCE_KILL): this thread's policy; None is PR_MCE_KILL_CLEAR, which leaves the early bit."""
        if policy is None:
            self.flags &= ~PF_MCE_PROCESS
            return
        self.flags &= ~(PF_MCE_PROCESS | PF_MCE_EARLY)
        if policy is not McePolicy.DEFAULT:
            self.flags |= PF_MCE_PROCESS
        if policy is McePolicy.EARLY:
            self.flags |= PF_MCE_EARLY

    def send_signal(self, info: SigInfo) -> bool:
        """send_sig_info(): queue it; an ignored one is dropped. Whether the task was there to be told."""
        with self.leader.siglock:
            if self.exited:
                return False
            ignored = self.leader.sigbus == "ignore" and not self.blocked  # a blocked one may be wanted later
            if info.signal is not Signal.SIGBUS or not ignored:
                self._queue(info)
            return True

    def _queue(self, info: SigInfo) -> None:
        """legacy_queue(): the second of two signals of one number is dropped while the first is pending."""
        if all(pending.signal is not info.signal for pending in self.pending):
            self.pending.append(info)

    def force_signal(self, info: SigInfo) -> None:
        """force_sig_info(): a blocked or ignored signal gets its default action, so it cannot be missed."""
        with self.leader.siglock:
            if self.blocked or self.leader.sigbus == "ignore":
                self.leader.sigbus = "default"
                self.blocked = False
            self._queue(info)

    def set_sigbus(self, action: Action | Literal["blocked"]) -> None:
        """sigaction(2), or sigprocmask(2) to block it. What is ignored now is not pending any more."""
        with self.leader.siglock:
            self.blocked = action == "blocked"
            if action == "blocked":
                return
            self.leader.sigbus = action
            if action == "ignore":  # do_sigaction(): flush_sigqueue_mask()
                for thread in self.leader.threads:
                    thread.pending[:] = [info for info in thread.pending if info.signal is not Signal.SIGBUS]

    def raise_fault(self, result: Fault, vpn: int) -> None:
        """End of a fault in user mode: nothing, or the signal it deserves and what that does."""
        info = FAULT_SIGNALS.get(result)
        if info is not None:
            lsb = info.lsb if result is not Fault.HWPOISON_LARGE else self._huge_shift(vpn)
            sent = SigInfo(info.signal, info.code, vpn << PAGE_SHIFT, lsb, info.forced)
            self.force_signal(sent)
        self.return_to_user()

    def _huge_shift(self, vpn: int) -> int:
        """hstate_index_to_shift() of the area that was touched."""
        vma = self.alive_mm().find_vma(vpn)
        return PAGE_SHIFT if vma is None or vma.hstate is None else vma.hstate.shift

    def deliver(self) -> list[SigInfo]:
        """Signals that take effect now, as the thread returns to user mode. The process may be dead after."""
        done = []
        for info in list(self.pending):
            if self.blocked and info.signal is Signal.SIGBUS:
                continue
            self.pending.remove(info)
            self.received.append(info)
            done.append(info)
            if info.signal is not Signal.SIGBUS or self.leader.sigbus == "default":
                self.leader.exit(info.signal)
                break
        return done

    def return_to_user(self) -> None:
        """As deliver(); raises Signalled if the task was hit."""
        for info in self.deliver():
            raise Signalled(self, info)

    def fork(self, comm: str | None = None) -> Task:
        """fork(2): a new process with a copy of the memory and of the kill policy."""
        child = self.vm.new_task(comm or self.comm)
        try:
            dup_mmap(self.alive_mm(), child.alive_mm())
        except (OutOfMemory, SysError):
            child.exit()
            raise
        child.flags = self.flags & FORKED_FLAGS
        child.sigbus = self.leader.sigbus
        child.blocked = self.blocked
        return child

    def clone_thread(self, comm: str | None = None) -> Task:
        """pthread_create(): a new thread of the same process, with the kill policy of its creator."""
        thread = Task(self.vm, self.vm.next_pid(), comm or self.comm, self.leader)
        thread.mm = self.mm
        thread.flags = self.flags & FORKED_FLAGS
        thread.blocked = self.blocked
        self.leader.threads.append(thread)
        return thread

    def clone_vm(self, comm: str | None = None) -> Task:
        """clone(CLONE_VM): another process in the same memory."""
        other = self.vm.new_task(comm or self.comm, mm=self.alive_mm())
        other.flags = self.flags & FORKED_FLAGS
        other.sigbus = self.leader.sigbus
        other.blocked = self.blocked
        return other

    def in_kernel(self) -> InKernel:
        """``with task.in_kernel():`` around a system call: its memory stays until the thread has returned."""
        return InKernel(self)

    def execve(self, comm: str) -> None:
        """execve(2): new empty memory; signal handlers go, an ignored signal stays ignored."""
        leader = self.leader
        with leader.siglock:
            if leader.exited:
                return  # another thread has ended the process meanwhile
            old = leader.alive_mm()
            for thread in leader.threads[1:]:
                thread.exited = True
                if thread not in old.inside:
                    thread.mm = None
            del leader.threads[1:]
            leader.comm = comm
            leader.mm = Mm(self.vm, f"{comm}:{leader.pid}")
            leader.mm.group = old.group
            leader.mm.users.append(leader)
            if leader.sigbus == "handler":
                leader.sigbus = "default"
        old.users.remove(leader)
        mmput(old)

    def exit(self, died_of: Signal | None = None) -> None:
        """exit_group(2), or the end by a signal: all threads, and the memory if nobody shares it.

        Of several threads that end the process the first does it (SIGNAL_GROUP_EXIT, under the siglock).
        Threads that are in the kernel have their part of the memory until they return.
        """
        leader = self.leader
        with leader.siglock:
            if leader.exited:
                return
            for thread in leader.threads:
                thread.exited = True
                thread.died_of = died_of
        leader.exit_mm()

    def exit_mm(self) -> None:
        """Give up the memory of an ended process, if none of its threads is in the kernel. Of the leader."""
        mm = self.mm
        if mm is None or any(thread in mm.inside for thread in self.threads):
            return
        for thread in self.threads:
            thread.mm = None
        mm.users.remove(self)
        mmput(mm)


class InKernel:
    """A thread in a system call: a part of the memory's mm_users is its own."""

    __slots__ = ("mm", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.mm = task.mm

    def __enter__(self) -> None:
        if self.mm is not None:
            self.mm.inside.add(self.task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task, mm = self.task, self.mm
        if mm is None or kind is GreenletExit:
            return
        mm.inside.discard(task)
        if not task.exited and task.mm is mm:
            return
        if task.leader.mm is mm:  # its process has been ended meanwhile
            task.leader.exit_mm()
        else:  # or has got new memory
            if task.exited:
                task.mm = None
            mmput(mm)


def mmput(mm: Mm) -> None:
    """Whoever is the last to leave the memory takes it apart."""
    if not mm.users and not mm.inside:
        exit_mmap(mm)
