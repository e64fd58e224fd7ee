"""Paths of execution, and every primitive through which they can meet.

This is the only module in which one path can be interrupted by another: locks, waits and wake-ups,
atomic operations on flags and counts, and marked accesses (READ_ONCE and WRITE_ONCE). What stands
between two of them is atomic. A path is a greenlet; exactly one runs at a time. Without a *chooser*
a path runs until it must wait, so a primitive costs one test of an attribute; with one, each
primitive first announces what it is about to do, and the chooser says who runs next.

Corresponds to kernel/locking/, kernel/sched/wait_bit.c and include/linux/atomic.h. Sequentially
consistent: weaker orderings of real processors are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, Protocol, Self

from greenlet import GreenletExit, getcurrent, greenlet

from .lockorder import LOCK_CLASSES, SOURCE, LockClass


class KernelBug(Exception):
    """An assertion of the kernel or of the model was hit: our mistake or a real BUG, never an outcome."""


class LockOrderError(KernelBug):
    """A lock was taken while one was held that must come after it."""


class DeadlockError(KernelBug):
    """No path can go on; the text says who holds and who waits."""


class Op(IntEnum):
    """What a path is about to do to a shared object; RELEASED: what it has just done (Paths.released())."""

    ACQUIRE = 0
    TRYLOCK = 1
    RELEASE = 2
    RMW = 3
    READ = 4
    WRITE = 5
    WAIT = 6
    START = 7
    ACQUIRE_SHARED = 8
    RELEASED = 9


class Chooser(Protocol):
    """Decides who runs next. ``ready`` is never empty, in order of creation."""

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path: ...


class Path:
    """One path of execution in the kernel: a task in a system call, a worker, an interrupt."""

    __slots__ = (
        "cpu",
        "ended",
        "error",
        "glet",
        "group",
        "held",
        "held_mask",
        "name",
        "result",
        "task",
        "waits_for",
    )

    def __init__(self, name: str, task: Any = None, cpu: int = 0) -> None:
        self.name = name
        self.task = task
        self.cpu = cpu
        self.group = ""  # the memory cgroup that pays for pages (get_mem_cgroup_from_mm()); "": the root's
        self.held: list[Held] = []
        self.held_mask = 0
        self.waits_for: object | None = None
        self.ended = False
        self.error: BaseException | None = None
        self.result: Any = None
        self.glet: greenlet | None = None

    def __repr__(self) -> str:
        return self.name


class Held(Protocol):
    """What can stand in a path's list of held locks."""

    @property
    def lock_class(self) -> LockClass: ...
    def describe(self) -> str: ...


class Paths:
    """All paths of one machine, and the one that runs."""

    def __init__(self, chooser: Chooser | None = None) -> None:
        self.main = Path("main")
        self.main.glet = getcurrent()
        self.current = self.main
        self.alive: list[Path] = [self.main]
        self.waiting = 0
        self.failed: list[BaseException] = []  # what paths ended with, oldest first
        self.chooser = chooser
        self.idle: Callable[[], bool] = lambda: False
        """Called when every path waits: lets a device answer. True if something was woken."""

    def spawn(
        self, name: str, function: Callable[..., Any], *arguments: Any, task: Any = None, cpu: int = 0
    ) -> Path:
        """A new path, ready to run; it starts when somebody waits or the chooser picks it."""
        path = Path(name, task, cpu)

        def body() -> None:
            try:
                path.result = function(*arguments)
                if path.held:
                    raise KernelBug(f"{path} ended holding {', '.join(h.describe() for h in path.held)}")
            except GreenletExit:
                return
            except BaseException as error:
                path.error = error
                self.failed.append(error)
            path.ended = True
            self.alive.remove(path)
            self.wake(path)
            self._next(path, Op.WAIT, path)

        path.glet = greenlet(body, self.main.glet)
        self.alive.append(path)
        return path

    def join(self, *paths: Path) -> None:
        """Wait until these have ended; raises what the first failing one raised."""
        for path in paths:
            while not path.ended:
                self.wait(path)
        for path in paths:
            if path.error is not None:
                raise path.error

    def finish(self) -> None:
        """Let every other path run to its end; raises what the first failing one raised."""
        while len(self.alive) > 1:
            self.wait(self.alive[-1])
        if self.failed:
            raise self.failed[0]

    def point(self, op: Op, on: object, what: str | int = 0, delta: int = 0) -> None:
        """Announce an operation; the chooser may run somebody else first. Only called with a chooser.

        ``what``: the field, or the flags to set (to clear, if negative); ``delta``: how much is added to it.
        """
        self._next(self.current, op, on)

    def released(self, on: object, *, shared: bool = False) -> None:
        """A lock was given back just now; for explore/engine.py. Only called with a chooser."""

    def relax(self) -> None:
        """cpu_relax() in a loop: who explores goes on with it when somebody has changed something."""

    def wait(self, on: object) -> None:
        """Put the running path to sleep until ``wake(on)``. The caller re-checks its condition."""
        path = self.current
        path.waits_for = on
        self.waiting += 1
        self._next(path, Op.WAIT, on)

    def wake(self, on: object) -> None:
        """Make every path ready that waits for this object."""
        if self.waiting:
            for path in self.alive:
                if path.waits_for is on:
                    path.waits_for = None
                    self.waiting -= 1

    def _next(self, running: Path, op: Op, on: object) -> None:
        ready = [path for path in self.alive if path.waits_for is None]
        while not ready:
            if not self.idle():
                self._stuck()
                return
            ready = [path for path in self.alive if path.waits_for is None]
        if self.chooser is not None:
            path = self.chooser.choose(ready, running, op, on)
            if path not in ready:
                raise KernelBug(f"the chooser picked {path}, which is not ready")
        else:
            path = running if running in ready else ready[0]
        if path is not running:
            self.current = path
            if path.glet is None:
                raise KernelBug(f"{path} was never started")
            try:
                path.glet.switch()
            except DeadlockError:
                self._give_up()
                raise

    def _stuck(self) -> None:
        """Every path waits: raise the report in the main path, which gives the others up."""
        error = DeadlockError("deadlock: " + "; ".join(self.describe(path) for path in self.alive))
        if self.current is self.main or self.main.glet is None:
            self._give_up()
            raise error
        self.main.glet.throw(error)

    def _give_up(self) -> None:
        """End all other paths where they stand; nothing they hold is released. From the main path."""
        others = [path for path in self.alive if path is not self.main]
        self.alive = [self.main]
        self.waiting = 0
        self.main.waits_for = None
        self.current = self.main
        for path in others:
            if path.glet is not None:
                path.glet.throw(GreenletExit)

    def describe(self, path: Path) -> str:
        """Who this is, what it holds and what it waits for, in words."""
        holds = ", ".join(held.describe() for held in path.held) or "nothing"
        wanted = path.waits_for
        waits = getattr(wanted, "describe", lambda: repr(wanted))()
        return f"{path} holds {holds} and waits for {waits}"


class Shared(Protocol):
    """An object that several paths can see: it knows the machine's paths."""

    @property
    def paths(self) -> Paths: ...


class Flagged(Shared, Protocol):
    flags: int


def check_order(path: Path, lock_class: LockClass, describe: Callable[[], str]) -> None:
    wrong = path.held_mask & lock_class.forbidden
    if wrong:
        held = next(held for held in path.held if held.lock_class.bit & wrong)
        raise LockOrderError(
            f"{path} takes {describe()} while it holds {held.describe()}; "
            f"{SOURCE} put {lock_class.name} before {held.lock_class.name}, or do not nest them"
        )


def hold(path: Path, held: Held, *, nested: bool = False) -> None:
    """Enter a lock into the path's list, checking the order unless it is nested on purpose."""
    lock_class = held.lock_class
    if path.held_mask & lock_class.forbidden and not nested:
        check_order(path, lock_class, held.describe)
    path.held.append(held)
    path.held_mask |= lock_class.bit


def unhold(path: Path, held: Held) -> None:
    """Take a lock off the path's list."""
    locks = path.held
    if locks and locks[-1] is held:
        locks.pop()
    else:
        locks.remove(held)
    bit = held.lock_class.bit
    for other in locks:
        if other.lock_class.bit == bit:
            return
    path.held_mask &= ~bit


class Lock:
    """A spinlock or a mutex: the model makes no difference, no path sleeps involuntarily."""

    __slots__ = ("lock_class", "name", "owner", "paths")

    def __init__(self, paths: Paths, lock_class: str, name: str = "") -> None:
        self.paths = paths
        self.lock_class = LOCK_CLASSES[lock_class]
        self.name = name
        self.owner: Path | None = None

    def describe(self) -> str:
        return f"{self.lock_class.name}({self.name})" if self.name else self.lock_class.name

    def acquire(self, *, nested: bool = False) -> None:
        paths = self.paths
        if paths.chooser is not None:
            paths.point(Op.ACQUIRE, self)
        path = paths.current
        if self.owner is not None:
            _recursion(path, self.owner, self)
            if not nested:
                check_order(path, self.lock_class, self.describe)
            while self.owner is not None:
                paths.wait(self)
        hold(path, self, nested=nested)
        self.owner = path

    def trylock(self) -> bool:
        paths = self.paths
        if paths.chooser is not None:
            paths.point(Op.TRYLOCK, self)
        if self.owner is not None:
            return False
        hold(paths.current, self, nested=True)
        self.owner = paths.current
        return True

    def release(self) -> None:
        paths = self.paths
        if paths.chooser is not None:
            paths.point(Op.RELEASE, self)
        path = paths.current
        if self.owner is not path:
            raise KernelBug(f"{path} releases {self.describe()}, which {self.owner} holds")
        unhold(path, self)
        self.owner = None
        if paths.waiting:
            paths.wake(self)
        if paths.chooser is not None:
            paths.released(self)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GreenletExit:  # a path that is given up must not schedule again
            self.release()

    def nested(self) -> Nested:
        return Nested(self)


class Nested:
    """``with lock.nested():`` the caller vouches for the order among locks of this class."""

    __slots__ = ("lock",)

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        self.lock.acquire(nested=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GreenletExit:
            self.lock.release()


def _recursion(path: Path, owner: Path, lock: Held) -> None:
    if owner is path:
        raise KernelBug(f"{path} takes {lock.describe()} twice")


class RwSem:
    """A reader-writer semaphore. Readers share it; a waiting writer does not hold new readers off."""

    __slots__ = ("lock_class", "name", "paths", "readers", "writer")

    def __init__(self, paths: Paths, lock_class: str, name: str = "") -> None:
        self.paths = paths
        self.lock_class = LOCK_CLASSES[lock_class]
        self.name = name
        self.writer: Path | None = None
        self.readers: list[Path] = []

    def describe(self) -> str:
        return f"{self.lock_class.name}({self.name})" if self.name else self.lock_class.name

    def down_read(self, *, nested: bool = False) -> None:
        self._down(Op.ACQUIRE_SHARED, lambda: self.writer is not None, nested=nested)
        self.readers.append(self.paths.current)

    def down_write(self, *, nested: bool = False) -> None:
        self._down(Op.ACQUIRE, lambda: self.writer is not None or bool(self.readers), nested=nested)
        self.writer = self.paths.current

    def _down(self, op: Op, busy: Callable[[], bool], *, nested: bool) -> None:
        paths = self.paths
        if paths.chooser is not None:
            paths.point(op, self)
        path = paths.current
        if busy():
            if self.writer is path or path in self.readers:
                raise KernelBug(f"{path} takes {self.describe()} twice")
            if not nested:
                check_order(path, self.lock_class, self.describe)
            while busy():
                paths.wait(self)
        hold(path, self, nested=nested)

    def _up(self, *, shared: bool) -> None:
        unhold(self.paths.current, self)
        if self.paths.waiting:
            self.paths.wake(self)
        if self.paths.chooser is not None:
            self.paths.released(self, shared=shared)

    def down_write_trylock(self) -> bool:
        paths = self.paths
        if paths.chooser is not None:
            paths.point(Op.TRYLOCK, self)
        if self.writer is not None or self.readers:
            return False
        hold(paths.current, self, nested=True)
        self.writer = paths.current
        return True

    def up_read(self) -> None:
        if self.paths.chooser is not None:
            self.paths.point(Op.RELEASE, self)
        self.readers.remove(self.paths.current)
        self._up(shared=True)

    def up_write(self) -> None:
        if self.paths.chooser is not None:
            self.paths.point(Op.RELEASE, self)
        if self.writer is not self.paths.current:
            raise KernelBug(f"{self.paths.current} releases {self.describe()}, which {self.writer} holds")
        self.writer = None
        self._up(shared=False)

    def read(self) -> Reading:
        return Reading(self)

    def write(self, *, nested: bool = False) -> Writing:
        return Writing(self, nested=nested)


class Reading:
    """``with sem.read():``"""

    __slots__ = ("sem",)

    def __init__(self, sem: RwSem) -> None:
        self.sem = sem

    def __enter__(self) -> None:
        self.sem.down_read()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GreenletExit:
            self.sem.up_read()


class Writing:
    """``with sem.write():``"""

    __slots__ = ("nest", "sem")

    def __init__(self, sem: RwSem, *, nested: bool) -> None:
        self.sem = sem
        self.nest = nested

    def __enter__(self) -> None:
        self.sem.down_write(nested=self.nest)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GreenletExit:
            self.sem.up_write()


def test_and_set(shared: Flagged, mask: int) -> bool:
    """Set the bits of ``mask``; whether any was set before."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared, mask)
    before = shared.flags & mask
    shared.flags |= mask
    return before != 0


def test_and_clear(shared: Flagged, mask: int) -> bool:
    """Clear the bits of ``mask``; whether any was set before."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared, -mask)
    before = shared.flags & mask
    shared.flags &= ~mask
    return before != 0


def atomic_add(shared: Shared, field: str, delta: int) -> int:
    """Add to a counter and return the new value. A counter never goes below zero."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared, field, delta)
    value: int = getattr(shared, field) + delta
    if value < 0:
        raise KernelBug(f"{field} of {shared} goes to {value}")
    setattr(shared, field, value)
    return value


def atomic_add_each(shared: Shared, parts: Iterable[object], field: str, delta: int) -> None:
    """Add to a counter of each part of a shared object, as one operation on the object."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared)
    for part in parts:
        value: int = getattr(part, field) + delta
        if value < 0:
            raise KernelBug(f"{field} of {part} goes to {value}")
        setattr(part, field, value)


def atomic_add_unless_zero(shared: Shared, field: str, delta: int = 1) -> bool:
    """Add to a counter unless it is zero; whether it was added."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared, field, delta)
    value: int = getattr(shared, field)
    if value == 0:
        return False
    setattr(shared, field, value + delta)
    return True


def atomic_compare_set(shared: Shared, field: str, expected: int, value: int) -> bool:
    """Set a counter if it has the expected value; whether it had."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.RMW, shared, field)
    if getattr(shared, field) != expected:
        return False
    setattr(shared, field, value)
    return True


def read_once(shared: Shared, field: str) -> Any:
    """A marked read of a shared field."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.READ, shared, field)
    return getattr(shared, field)


def write_once(shared: Shared, field: str, value: Any) -> None:
    """A marked write of a shared field."""
    if shared.paths.chooser is not None:
        shared.paths.point(Op.WRITE, shared, field)
    setattr(shared, field, value)
