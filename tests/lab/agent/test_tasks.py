"""What tasks do, with real processes; a SIGBUS is had by touching a mapped file beyond its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hwpoison.lab.agent import syscalls as nr
from hwpoison.lab.agent.problems import EndedEarly
from hwpoison.lab.agent.remote import DATA, Died
from hwpoison.lab.agent.tasks import Task, Tasks

HalfAMap = tuple[Task, int]


def names(first: int) -> Callable[[int, Task], str]:
    """Pages counted from an address."""
    return lambda page, _who: f"m:{page - first // nr.PAGE}"


def test_a_task_writes_and_reads_its_memory(tasks: Tasks, half_a_map: HalfAMap, tmp_path: Path) -> None:
    task, address = half_a_map
    assert task.remote.copy(DATA, address)
    assert tasks.shared.data.startswith(b"word\0")
    tasks.shared.data = b"another"
    assert task.remote.copy(address, DATA)
    assert (tmp_path / "file").read_bytes().startswith(b"another\0")


def test_a_failing_call_names_its_error(half_a_map: HalfAMap) -> None:
    with pytest.raises(nr.CallFailed, match="EBADF"):
        half_a_map[0].remote.call(nr.FSYNC, 999)


def test_a_handled_sigbus_ends_the_access_and_leaves_the_mapping(tasks: Tasks, half_a_map: HalfAMap) -> None:
    task, address = half_a_map
    for _ in range(2):
        assert not task.remote.copy(DATA, address + nr.PAGE)
        tasks.settle()
        seen = list(tasks.news(names(address)))
        assert seen == [("signal", "A", {"code": "BUS_ADRERR", "page": "m:1", "lsb": 0})]
    assert not task.ended


def test_each_kind_of_relative_gets_its_own_signal(tasks: Tasks, half_a_map: HalfAMap) -> None:
    parent, address = half_a_map
    relatives = [tasks.fork(parent, "fork"), tasks.clone_vm(parent, "clone"), tasks.thread(parent, "thread")]
    for relative in relatives:
        assert not relative.remote.copy(DATA, address + nr.PAGE)
        tasks.settle()
        assert [who for _kind, who, _values in tasks.news(names(address))] == [relative.name]


def test_a_forked_child_has_memory_of_its_own(tasks: Tasks) -> None:
    parent = tasks.start("A")
    flags = nr.MAP_PRIVATE | nr.MAP_ANONYMOUS
    address = parent.remote.call(nr.MMAP, 0, nr.PAGE, nr.PROT_RW, flags, -1, 0)
    child, thread = tasks.fork(parent, "B"), tasks.thread(parent, "T")
    tasks.shared.data = b"child's"
    child.remote.copy(address, DATA)
    thread.remote.copy(DATA, address)
    assert not any(tasks.shared.data)


@pytest.mark.parametrize("action", ["default", "ignore", "blocked"])
def test_a_sigbus_that_is_not_handled_kills_whatever_was_asked(
    tasks: Tasks, half_a_map: HalfAMap, action: str
) -> None:
    task, address = half_a_map
    thread = tasks.thread(task, "T")
    tasks.sigbus(task, "default")
    tasks.sigbus(task, action)
    with pytest.raises(Died):
        task.remote.copy(DATA, address + nr.PAGE)
    tasks.settle()
    seen = [one for one in tasks.news(names(address)) if one[0] == "died"]
    assert seen == [("died", "A", {"signal": "SIGBUS"})]
    assert thread.ended
    with pytest.raises(EndedEarly, match="A has ended"):
        tasks.get("A")


def test_after_exec_the_memory_is_new_and_the_handler_gone(tasks: Tasks, half_a_map: HalfAMap) -> None:
    task, address = half_a_map
    thread = tasks.thread(task, "T")
    tasks.execve(task)
    assert thread.ended
    assert task.remote.raw(nr.GETPID) == task.remote.pid
    with pytest.raises(Died):
        task.remote.copy(DATA, address)
    tasks.settle()
    assert tasks.deaths[task] is signal.SIGSEGV


def test_a_task_that_ends_by_itself_is_no_news(tasks: Tasks) -> None:
    task = tasks.start("A")
    tasks.exit(task)
    assert task.ended
    assert not list(tasks.news(str))


@pytest.mark.parametrize("policy", ["early", "late"])
def test_the_kill_policy_is_set_and_cleared(tasks: Tasks, policy: str) -> None:
    task = tasks.start("A")
    get, default = 34, 2
    tasks.policy(task, policy)
    assert task.remote.raw(nr.PRCTL, get, 0, 0, 0, 0) == {"late": 0, "early": 1}[policy]
    tasks.policy(task, "clear")
    assert task.remote.raw(nr.PRCTL, get, 0, 0, 0, 0) == default
