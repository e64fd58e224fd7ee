"""Paths of execution and what they meet at: order, exclusion, waiting, deadlock, giving up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from greenlet import GreenletExit

from hwpoison.mm.locks import (
    DeadlockError,
    KernelBug,
    Lock,
    LockOrderError,
    Op,
    Path,
    Paths,
    RwSem,
    atomic_add,
    atomic_add_unless_zero,
    atomic_compare_set,
    read_once,
    test_and_clear,
    test_and_set,
    write_once,
)

test_and_clear.__test__ = test_and_set.__test__ = False  # type: ignore[attr-defined]


class Script:
    """Runs the named paths one step each, in this order; then whoever runs goes on."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.seen: list[tuple[str, Op]] = []

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        self.seen.append((running.name, op))
        while self.names:
            name = self.names.pop(0)
            for path in ready:
                if path.name == name:
                    return path
        return running if running in ready else ready[0]


class Shared:
    """Something that paths can see."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.flags = 0
        self.count = 1

    def __repr__(self) -> str:
        return "it"


# Who may hold what, and in which order.


def test_a_lock_in_the_wrong_order_is_named_with_the_one_held_and_the_rule() -> None:
    paths = Paths()
    inner, outer = Lock(paths, "ptl", "app"), RwSem(paths, "mmap_lock", "app")
    with inner, pytest.raises(LockOrderError) as error:
        outer.down_read()
    assert str(error.value).startswith("main takes mmap_lock(app) while it holds ptl(app); ")
    assert "mm/rmap.c" in str(error.value)
    assert "put mmap_lock before ptl" in str(error.value)


def test_a_wrong_order_is_reported_even_where_it_would_have_to_wait() -> None:
    """A deadlock that was lucky this time is still a violation."""
    paths = Paths()
    inner, outer = Lock(paths, "ptl"), Lock(paths, "mf_mutex")
    outer.owner = Path("somebody else")
    with inner, pytest.raises(LockOrderError, match="takes mf_mutex while it holds ptl"):
        outer.acquire()


def test_two_locks_of_one_class_nest_only_where_the_caller_vouches_for_it() -> None:
    paths = Paths()
    parent, child = Lock(paths, "ptl", "parent"), Lock(paths, "ptl", "child")
    with parent:
        with pytest.raises(LockOrderError, match=r"ptl\(child\) while it holds ptl\(parent\)"):
            child.acquire()
        with child.nested():
            assert [held.describe() for held in paths.current.held] == ["ptl(parent)", "ptl(child)"]
    assert paths.current.held == []


def test_a_trylock_may_ignore_the_order_but_what_follows_it_may_not() -> None:
    paths = Paths()
    inner, outer, between = Lock(paths, "lru_lock"), Lock(paths, "mf_mutex"), Lock(paths, "ptl")
    with inner:
        assert outer.trylock()
        with pytest.raises(LockOrderError, match="takes ptl while it holds lru_lock"):
            between.acquire()
        outer.release()


def test_the_order_is_checked_against_all_locks_held_not_only_the_last() -> None:
    paths = Paths()
    low, high, middle = Lock(paths, "zone_lock"), Lock(paths, "mf_mutex"), Lock(paths, "siglock")
    low.acquire()
    assert high.trylock()
    high.release()
    with pytest.raises(LockOrderError, match="zone_lock"):
        middle.acquire()
    low.release()


def test_locks_may_be_given_back_in_any_order() -> None:
    paths = Paths()
    one, two, three = Lock(paths, "mf_mutex"), Lock(paths, "ptl", "1"), Lock(paths, "ptl", "2")
    one.acquire()
    two.acquire()
    three.acquire(nested=True)
    two.release()
    with pytest.raises(LockOrderError, match=r"holds ptl\(2\)"):
        Lock(paths, "ptl", "3").acquire()
    three.release()
    two.acquire()
    two.release()
    one.release()
    assert paths.current.held_mask == 0


def test_a_lock_taken_twice_by_one_path_is_a_bug() -> None:
    paths = Paths()
    lock, sem = Lock(paths, "ptl"), RwSem(paths, "mmap_lock")
    with lock, pytest.raises(KernelBug, match="main takes ptl twice"):
        lock.acquire()
    with sem.read(), pytest.raises(KernelBug, match="takes mmap_lock twice"):
        sem.down_write()
    with sem.write(), pytest.raises(KernelBug, match="takes mmap_lock twice"):
        sem.down_read()


def test_a_lock_that_is_not_held_cannot_be_released() -> None:
    paths = Paths()
    with pytest.raises(KernelBug, match="main releases ptl, which None holds"):
        Lock(paths, "ptl").release()
    with pytest.raises(KernelBug, match="main releases mmap_lock, which None holds"):
        RwSem(paths, "mmap_lock").up_write()


def test_a_lock_is_released_when_an_error_leaves_the_block() -> None:
    paths = Paths()
    lock, sem = Lock(paths, "ptl"), RwSem(paths, "mmap_lock")
    with pytest.raises(ZeroDivisionError), sem.write(), lock:
        raise ZeroDivisionError("an outcome of the model, such as no memory")
    assert lock.owner is None
    assert sem.writer is None
    assert paths.current.held == []


# Exclusion and sharing.


def test_a_second_path_waits_until_the_lock_is_free() -> None:
    paths = Paths(Script("first", "first", "second", "first"))
    lock, order = Lock(paths, "ptl"), list[str]()

    def hold(name: str) -> None:
        with lock:
            order.append(f"{name} in")
            read_once(Shared(paths), "count")
            order.append(f"{name} out")

    paths.join(paths.spawn("first", hold, "first"), paths.spawn("second", hold, "second"))
    assert order == ["first in", "first out", "second in", "second out"]


def test_readers_share_and_writers_do_not() -> None:
    paths = Paths()
    sem, inside, most = RwSem(paths, "mmap_lock"), set[str](), list[set[str]]()

    def enter(name: str, take: Callable[[], None], give: Callable[[], None]) -> None:
        take()
        inside.add(name)
        most.append(set(inside))
        read_once(Shared(paths), "count")
        inside.remove(name)
        give()

    def reader(name: str) -> None:
        enter(name, sem.down_read, sem.up_read)

    paths.chooser = Script("r1", "r1", "r2", "r2", "w", "w", "r1")
    spawned = [paths.spawn(name, reader, name) for name in ("r1", "r2")]
    spawned.append(paths.spawn("w", enter, "w", sem.down_write, sem.up_write))
    paths.join(*spawned)
    assert {"r1", "r2"} in most
    assert {"w"} in most
    assert all(names == {"w"} for names in most if "w" in names)


# What is atomic.


def test_atomic_operations_answer_with_what_was_there() -> None:
    it = Shared(Paths())
    assert not test_and_set(it, 0b11)
    assert test_and_set(it, 0b100 | 0b1)
    assert it.flags == 0b111
    assert test_and_clear(it, 0b110)
    assert not test_and_clear(it, 0b110)
    assert it.flags == 0b001
    assert atomic_add(it, "count", 2) == 3
    assert atomic_compare_set(it, "count", 3, 0)
    assert not atomic_compare_set(it, "count", 3, 5)
    assert not atomic_add_unless_zero(it, "count")
    write_once(it, "count", 7)
    assert read_once(it, "count") == 7
    assert atomic_add_unless_zero(it, "count")
    assert it.count == 8


def test_a_counter_below_zero_is_a_bug() -> None:
    it = Shared(Paths())
    with pytest.raises(KernelBug, match="count of it goes to -1"):
        atomic_add(it, "count", -2)


def test_each_primitive_is_announced_before_it_acts_when_somebody_chooses() -> None:
    script = Script()
    paths = Paths(script)
    it, lock, sem = Shared(paths), Lock(paths, "ptl"), RwSem(paths, "mmap_lock")
    with sem.read(), lock:
        pass
    with sem.write():
        pass
    lock.trylock()
    lock.release()
    test_and_set(it, 1)
    test_and_clear(it, 1)
    atomic_add(it, "count", 1)
    atomic_add_unless_zero(it, "count")
    atomic_compare_set(it, "count", 3, 0)
    read_once(it, "count")
    write_once(it, "count", 1)
    acquired, released, changed = Op.ACQUIRE, Op.RELEASE, Op.RMW
    expected = [Op.ACQUIRE_SHARED, acquired, released, released, acquired, released, Op.TRYLOCK, released]
    expected += [changed] * 5 + [Op.READ, Op.WRITE]
    assert script.seen == [("main", op) for op in expected]


# Waiting.


def test_without_a_chooser_a_path_runs_until_it_must_wait() -> None:
    paths, order = Paths(), list[str]()

    def work(name: str) -> None:
        it = Shared(paths)
        for _ in range(3):
            order.append(name)
            atomic_add(it, "count", 1)

    paths.join(paths.spawn("a", work, "a"), paths.spawn("b", work, "b"))
    assert order == ["a"] * 3 + ["b"] * 3


def test_a_join_gives_the_result_and_raises_the_error() -> None:
    paths = Paths()
    good, bad = paths.spawn("good", lambda: 42), paths.spawn("bad", lambda: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        paths.join(good, bad)
    assert good.result == 42


def test_the_error_of_a_path_nobody_joins_is_not_lost() -> None:
    """A device's completion, for instance."""
    paths = Paths()
    paths.spawn("interrupt", lambda: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        paths.finish()
    assert paths.alive == [paths.main]


def test_a_path_that_ends_holding_a_lock_is_a_bug() -> None:
    paths = Paths()
    lock = Lock(paths, "ptl", "app")
    path = paths.spawn("careless", lock.acquire)
    with pytest.raises(KernelBug, match=r"careless ended holding ptl\(app\)"):
        paths.join(path)


def test_when_everybody_waits_the_devices_may_answer() -> None:
    paths, answers = Paths(), ["first", "second"]

    def idle() -> bool:
        if not answers:
            return False
        paths.wake(answers.pop(0))
        return True

    paths.idle = idle
    paths.join(paths.spawn("one", paths.wait, answers[0]), paths.spawn("two", paths.wait, answers[1]))
    assert answers == []


# Deadlock.


def cross(paths: Paths) -> tuple[Path, Path]:
    """Two paths that take two locks both ways round; the first lets the second run in between."""
    one, two = Lock(paths, "ptl", "one"), Lock(paths, "ptl", "two")

    def forwards() -> None:
        with one:
            paths.wait("the other")
            two.acquire(nested=True)

    def backwards() -> None:
        with two:
            paths.wake("the other")
            one.acquire(nested=True)

    return paths.spawn("A", forwards), paths.spawn("B", backwards)


def cross_by_schedule(paths: Paths) -> tuple[Path, Path]:
    """The same without help: only some schedules find it."""
    one, two = Lock(paths, "ptl", "one"), Lock(paths, "ptl", "two")

    def take(first: Lock, second: Lock) -> None:
        with first, second.nested():
            pass

    return paths.spawn("A", take, one, two), paths.spawn("B", take, two, one)


@pytest.mark.parametrize(
    ("script", "spawn"),
    [(None, cross), (("A", "A", "B", "B"), cross_by_schedule)],
    ids=["by waiting", "by schedule"],
)
def test_a_deadlock_names_who_holds_and_who_waits(
    script: tuple[str, ...] | None, spawn: Callable[[Paths], tuple[Path, Path]]
) -> None:
    paths = Paths(None if script is None else Script(*script))
    spawned = spawn(paths)
    with pytest.raises(DeadlockError) as error:
        paths.join(*spawned)
    assert "A holds ptl(one) and waits for ptl(two)" in str(error.value)
    assert "B holds ptl(two) and waits for ptl(one)" in str(error.value)
    assert "main holds nothing and waits for A" in str(error.value)


def test_a_path_that_waits_for_nothing_that_comes_is_a_deadlock_of_one() -> None:
    paths = Paths()
    with pytest.raises(DeadlockError, match="main holds nothing and waits for 'rain'"):
        paths.wait("rain")


def test_two_locks_both_ways_round_are_no_deadlock_in_a_lucky_order() -> None:
    paths = Paths(Script("A", "A", "A", "A", "A", "B"))
    paths.join(*cross_by_schedule(paths))


def test_after_a_deadlock_the_other_paths_are_gone_and_main_goes_on() -> None:
    paths = Paths()
    lock = Lock(paths, "mf_mutex")
    left = list[str]()

    def stays() -> None:
        try:
            with lock:
                paths.wait("rain")
        except GreenletExit:
            left.append("given up")
            raise

    spawned = [paths.spawn("stays", stays), paths.spawn("waits", lock.acquire)]
    with pytest.raises(DeadlockError):
        paths.join(*spawned)
    assert left == ["given up"]
    assert paths.alive == [paths.main]
    assert paths.current is paths.main
    paths.join(paths.spawn("next", lambda: None))


def test_a_path_that_is_given_up_does_not_run_on_in_its_cleanup() -> None:
    """Releasing a lock there would let it schedule, and run code of a machine that is over."""
    script = Script()
    paths = Paths(script)
    lock, sem = Lock(paths, "ptl"), RwSem(paths, "mmap_lock")

    def holds() -> None:
        with sem.write(), lock:
            paths.wait("rain")

    path = paths.spawn("holds", holds)
    with pytest.raises(DeadlockError):
        paths.join(path)
    assert Op.RELEASE not in [op for _, op in script.seen]
    assert lock.owner is path
