"""Pages in pipes, and pages pinned through io_uring, on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwpoison.lab.agent import syscalls as nr
from hwpoison.lab.agent.files import label
from hwpoison.lab.agent.holds import hold_file, hold_memory, pin_memory
from hwpoison.lab.agent.remote import DATA
from hwpoison.lab.agent.tasks import Task, Tasks


@pytest.fixture
def page(tasks: Tasks) -> tuple[Task, int]:
    task = tasks.start("A")
    flags = nr.MAP_PRIVATE | nr.MAP_ANONYMOUS
    address = task.remote.call(nr.MMAP, 0, nr.PAGE, nr.PROT_RW, flags, -1, 0)
    tasks.shared.data = b"precious"
    task.remote.copy(address, DATA)
    return task, address


def test_a_page_in_a_pipe_can_be_read_again_and_again(page: tuple[Task, int]) -> None:
    task, address = page
    hold = hold_memory(task.remote, address, 0)
    task.remote.call(nr.MUNMAP, address, nr.PAGE)
    assert [label(hold.take()) for _ in range(2)] == ["precious", "precious"]
    hold.release()


def test_a_page_of_a_file_is_held_as_it_is(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(nr.PAGE) + b"second".ljust(nr.PAGE, b"\0"))
    task = tasks.start("A")
    descriptor = task.remote.call(nr.OPEN, tasks.shared.scratch(bytes(tmp_path / "f") + b"\0"), os.O_RDONLY)
    hold = hold_file(task.remote, descriptor, 1, 0)
    assert label(hold.take()) == "second"
    hold.release()


def test_a_pinned_page_is_read_by_the_device_after_its_task_has_ended(
    tasks: Tasks, page: tuple[Task, int]
) -> None:
    task, address = page
    try:
        pin = pin_memory(task.remote, address, 0)
    except nr.CallFailed as error:
        pytest.skip(f"io_uring is not to be had here: {error}")
    tasks.exit(task)
    assert [label(pin.take()) for _ in range(6)] == ["precious"] * 6
    pin.release()
