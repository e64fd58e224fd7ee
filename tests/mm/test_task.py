"""Tasks: threads, fork, exec, exit, signals, and the kill policy as /proc/PID/stat shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi.signals import PF_MCE_EARLY, PF_MCE_PROCESS, McePolicy, SiCode, SigInfo, Signal
from hwpoison.mm.fault import Fault
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.task import Action, Signalled, Task

AO = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, 0x1000, 12)
AR = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, 0x2000, 12, forced=True)
KILL = SigInfo(Signal.SIGKILL)


# The kill policy.


@pytest.mark.parametrize(
    ("calls", "flags"),
    [
        ([], 0),
        ([McePolicy.LATE], 0x80),
        ([McePolicy.EARLY], 0x0800_0080),
        ([McePolicy.EARLY, McePolicy.DEFAULT], 0),
        ([McePolicy.EARLY, McePolicy.LATE], 0x80),
        (
            [McePolicy.EARLY, None],
            0x0800_0000,
        ),  # PR_MCE_KILL_CLEAR leaves the early bit, which means nothing alone
        ([None], 0),
    ],
)
def test_prctl_sets_the_bits_that_proc_shows(task: Task, calls: list[McePolicy | None], flags: int) -> None:
    for call in calls:
        task.prctl_mce_kill(call)
    assert task.flags == flags


def test_the_policy_is_the_threads_own_and_is_inherited(task: Task) -> None:
    task.prctl_mce_kill(McePolicy.EARLY)
    thread, child, sharer = task.clone_thread(), task.fork(), task.clone_vm()
    thread.prctl_mce_kill(McePolicy.LATE)
    early = PF_MCE_PROCESS | PF_MCE_EARLY
    assert [t.flags for t in (task, thread, child, sharer)] == [early, PF_MCE_PROCESS, early, early]


def test_the_policy_outlives_an_exec(task: Task) -> None:
    task.prctl_mce_kill(McePolicy.EARLY)
    task.execve("new")
    assert task.flags == PF_MCE_PROCESS | PF_MCE_EARLY


# Signals.


@pytest.mark.parametrize(
    ("action", "blocked", "arrives", "survives"),
    [
        ("default", False, True, False),
        ("handler", False, True, True),
        ("ignore", False, False, True),
        ("default", True, False, True),
        ("handler", True, False, True),
        ("ignore", True, False, True),
    ],
)
def test_an_ordinary_sigbus_can_be_caught_ignored_and_blocked(
    task: Task, action: Action, blocked: bool, arrives: bool, survives: bool
) -> None:
    task.sigbus, task.blocked = action, blocked
    assert task.send_signal(AO)
    assert task.deliver() == ([AO] if arrives else [])
    assert task.exited != survives
    assert task.received == ([AO] if arrives else [])


@pytest.mark.parametrize("action", ["default", "handler", "ignore"])
@pytest.mark.parametrize("blocked", [True, False])
def test_a_forced_one_cannot_be_missed(task: Task, action: Action, blocked: bool) -> None:
    """force_sig_info(): only a handler that is not blocked runs; everything else is the end."""
    task.sigbus, task.blocked = action, blocked
    task.force_signal(AR)
    assert task.deliver() == [AR]
    assert task.exited == (action != "handler" or blocked)


@pytest.mark.parametrize("action", ["default", "handler", "ignore"])
def test_sigkill_asks_nobody(task: Task, action: Action) -> None:
    task.sigbus, task.blocked = action, True
    task.send_signal(KILL)
    task.deliver()
    assert task.died_of is Signal.SIGKILL


def test_a_blocked_signal_arrives_when_it_is_unblocked(task: Task) -> None:
    task.sigbus, task.blocked = "handler", True
    task.send_signal(AO)
    assert task.deliver() == []
    task.blocked = False
    assert task.deliver() == [AO]


def test_a_signal_that_is_ignored_and_blocked_is_kept(task: Task) -> None:
    """sig_ignored(): it may be wanted when it is unblocked."""
    task.sigbus, task.blocked = "ignore", True
    task.send_signal(AO)
    assert task.pending == [AO]


def test_of_two_signals_of_one_number_that_are_pending_the_second_is_lost(task: Task) -> None:
    """legacy_queue(): a process hit twice before it runs learns of one address."""
    task.sigbus = "handler"
    task.send_signal(AO)
    task.send_signal(AR)
    task.send_signal(KILL)
    assert task.pending == [AO, KILL]


def test_a_signal_is_for_the_thread_and_its_end_is_the_processs(task: Task) -> None:
    thread = task.clone_thread()
    thread.send_signal(AO)
    assert not task.pending
    thread.deliver()
    assert task.exited
    assert thread.exited
    assert task.died_of is Signal.SIGBUS


def test_a_task_that_has_ended_is_told_nothing(task: Task) -> None:
    task.exit()
    assert not task.send_signal(AO)
    assert not task.pending


def test_the_return_to_user_mode_says_who_was_hit_by_what(task: Task) -> None:
    task.sigbus = "handler"
    task.return_to_user()
    task.force_signal(AR)
    with pytest.raises(Signalled, match="app:101 got SIGBUS/BUS_MCEERR_AR at 0x2000, 4096 bytes") as hit:
        task.return_to_user()
    assert (hit.value.task, hit.value.info) == (task, AR)


@pytest.mark.parametrize("result", [Fault.DONE, Fault.RETRY])
def test_a_good_fault_is_no_signal(task: Task, result: Fault) -> None:
    task.raise_fault(result, 0x10)
    assert not task.received


# Threads, exec, exit.


def test_threads_share_memory_and_end_together(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    thread = task.clone_thread("worker")
    store(thread, vma.start, "x")
    assert load(task, vma.start) == "x"
    thread.exit()
    assert task.exited
    assert task.mm is thread.mm is None
    vm.lru.add_drain_all()
    assert len(set(vm.zone.free_pfns())) == 254


def test_processes_that_share_memory_end_one_by_one(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    other = task.clone_vm("other")
    store(other, vma.start, "x")
    task.exit()
    assert load(other, vma.start) == "x"
    other.exit()
    vm.lru.add_drain_all()
    assert len(set(vm.zone.free_pfns())) == 254


def test_exec_starts_with_new_memory_and_without_handlers_or_threads(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    thread = task.clone_thread()
    task.sigbus = "handler"
    task.execve("new")
    assert task.comm == "new"
    assert task.sigbus == "default"
    assert thread.exited
    assert task.threads == [task]
    assert task.alive_mm().vmas == []
    vm.lru.add_drain_all()
    assert len(set(vm.zone.free_pfns())) == 254


def test_an_ignored_signal_stays_ignored_over_exec(task: Task) -> None:
    task.sigbus = "ignore"
    task.execve("new")
    assert task.sigbus == "ignore"


def test_exec_leaves_shared_memory_to_the_others(task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    other = task.clone_vm()
    store(task, vma.start, "x")
    task.execve("new")
    assert load(other, vma.start) == "x"


def test_ending_twice_is_ending_once(task: Task) -> None:
    task.exit()
    task.exit(Signal.SIGKILL)
    assert task.died_of is None


def test_a_task_that_has_ended_has_no_memory(task: Task) -> None:
    task.exit()
    with pytest.raises(KernelBug, match="app:101 has no memory: it has ended"):
        task.alive_mm()


def test_a_child_inherits_what_it_does_about_signals(task: Task) -> None:
    task.sigbus, task.blocked = "handler", True
    for child in (task.fork(), task.clone_vm()):
        assert (child.sigbus, child.blocked) == ("handler", True)


def test_everybody_gets_to_user_mode_once(machine: Callable[..., Machine]) -> None:
    vm = machine()
    tasks = [vm.new_task("a"), vm.new_task("b")]
    thread = tasks[1].clone_thread()
    tasks[0].send_signal(AO)
    thread.send_signal(AO)
    vm.deliver_signals()
    assert all(task.exited for task in (*tasks, thread))
