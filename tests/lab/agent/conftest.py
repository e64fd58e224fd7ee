"""Tasks for tests: real processes with the program of a guest's tasks; no error is injected anywhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwpoison.lab.agent import stub
from hwpoison.lab.agent import syscalls as nr
from hwpoison.lab.agent.tasks import Task, Tasks


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    if platform.machine() != "x86_64":
        pytest.skip("the tasks' program is for x86-64")
    program = tmp_path / "task"
    program.write_bytes(stub.executable())
    program.chmod(0o755)
    made = Tasks(str(program), tmp_path, lambda: None)
    try:
        made.start("probe").remote.take(0)
    except nr.CallFailed as error:
        pytest.skip(f"a child may not take its parent's descriptors here: {error}")
    yield made
    for task in made.by_name.values():
        task.remote.channel.close()
        if task.process is task:
            if task not in made.deaths:
                os.kill(task.remote.pid, 9)
                os.waitpid(task.remote.pid, 0)
            os.close(task.remote.pidfd)
    made.shared.memory.close()
    os.close(made.shared.descriptor)


@pytest.fixture
def half_a_map(tasks: Tasks, tmp_path: Path) -> tuple[Task, int]:
    """A task with a handler, and the address of two pages of a file that has one: the second is a SIGBUS."""
    task = tasks.start("A")
    tasks.sigbus(task, "handler")
    file = tmp_path / "file"
    file.write_bytes(b"word".ljust(nr.PAGE, b"\0"))
    descriptor = os.open(file, os.O_RDWR)
    there = task.remote.take(descriptor)
    os.close(descriptor)
    address = task.remote.call(nr.MMAP, 0, 2 * nr.PAGE, nr.PROT_RW, nr.MAP_SHARED, there, 0)
    return task, address
