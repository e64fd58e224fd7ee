"""The 32-bit vDSO in a process of this machine."""

from __future__ import annotations

import pytest

from hwpoison.lab.agent.files import label
from hwpoison.lab.agent.problems import CannotSetUp
from hwpoison.lab.agent.remote import DATA
from hwpoison.lab.agent.tasks import Tasks
from hwpoison.lab.agent.vdso import map_vdso


def test_a_task_gets_the_32_bit_vdso_instead_of_its_own(tasks: Tasks) -> None:
    task = tasks.start("A")
    try:
        address = map_vdso(task.remote)
    except CannotSetUp as reason:
        pytest.skip(str(reason))
    assert task.remote.copy(DATA, address)
    assert label(tasks.shared.data) == "ELF"
    assert tasks.shared.data[4] == 1, "ELFCLASS32"
    again = map_vdso(task.remote)
    assert task.remote.copy(DATA, again), "and as often as one likes"
