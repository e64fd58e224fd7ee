"""What the tests of failure/ share: a handler for each kernel, and one path in the middle of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import NEWEST, PROFILES, Profile
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    """Each kernel in turn."""
    return PROFILES[request.param]


@pytest.fixture
def handlers() -> Iterator[Callable[..., MemoryFailure]]:
    """Makes machines with a handler; their books must balance at the end (promise 5)."""
    made: list[MemoryFailure] = []

    def make(profile: Profile = NEWEST, **arguments: object) -> MemoryFailure:
        arguments = {"swap_slots": 8, "traits": profile.traits} | arguments
        made.append(MemoryFailure(Machine(**arguments), profile))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for failure in made:
        assert failure.vm.check() == []


@pytest.fixture
def failure(handlers: Callable[..., MemoryFailure], profile: Profile) -> MemoryFailure:
    """The handler of each kernel."""
    return handlers(profile)


@pytest.fixture
def newest(handlers: Callable[..., MemoryFailure]) -> MemoryFailure:
    """The handler of the newest kernel."""
    return handlers()


class Interrupt:
    """When ``when(running, op, on)`` first holds, one path runs until it ends or must wait."""

    def __init__(self, path: Path, when: Callable[[Path, Op, object], bool]) -> None:
        self.path, self.when = path, when
        self.fired = False

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        self.fired = self.fired or self.when(running, op, on)
        if self.fired and self.path in ready:
            return self.path
        others = [path for path in ready if path is not self.path]
        return running if running in others else (others or list(ready))[0]


@pytest.fixture
def interrupted() -> Callable[..., object]:
    """interrupted(vm, work, by, when): do the work, and the other thing in between; what the work gave."""

    def run(
        vm: Machine,
        work: Callable[[], object],
        by: Callable[[], object],
        when: Callable[[Path, Op, object], bool],
    ) -> object:
        path = vm.paths.spawn("other", by, cpu=1)
        vm.paths.chooser = chooser = Interrupt(path, when)
        result = work()
        vm.paths.chooser = None
        assert chooser.fired, "the moment never came"
        vm.paths.finish()
        return result

    return run
