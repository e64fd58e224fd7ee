"""What the tests of mm/ share: machines whose books must balance when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hwpoison.mm.machine import Machine


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
