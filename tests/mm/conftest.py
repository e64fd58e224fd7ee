"""What the tests of mm/ share: machines whose books must balance when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hwpoison.mm.machine import Machine
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Task


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Makes machines; each must balance at the end (promise 5)."""
    made: list[Machine] = []

    def make(**arguments: object) -> Machine:
        made.append(Machine(**arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for vm in made:
        assert vm.check() == []


@pytest.fixture
def vm(machine: Callable[..., Machine]) -> Machine:
    """A machine of 256 frames with eight pages of swap."""
    return machine(swap_slots=8)


@pytest.fixture
def task(vm: Machine) -> Task:
    """A process on it, with no memory yet."""
    return vm.new_task("app")


def mapped(task: Task, vpn: int) -> Page:
    """What the task has there, which must be a page."""
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page
