"""Runs the paths of a program under one schedule: pooled greenlets, and the decision in the running path.

An *event* is what a path does from one point to the next: the operation it has announced, and everything
after it until its next announcement. At each point the running path itself asks the schedule who is next
and switches there directly. Giving a lock back is no point of its own (nothing that others do in between
could be told from doing it after), unless somebody may find the lock taken without waiting for it, or the
path goes on to touch something shared: the engine learns such places while it runs (``learned``), and the
search starts again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from hwpoison.mm import locks as primitives
from hwpoison.mm.locks import KernelBug, Lock, Op, Path, Paths, RwSem

from .containers import ADD, READ, WRITE, journal
from .events import Events
from .footprint import LOCK_CODE, READERS_CODE, WAKE_CODE, Keys
from .lockgraph import LockGraph
from .strands import SPIN, EngineError, Strand, holds, is_free
from .watch import clock

CONDITIONAL = (Op.ACQUIRE, Op.ACQUIRE_SHARED)
LOCKING = (*CONDITIONAL, Op.TRYLOCK)
SILENT = (Lock, RwSem)
"""Locks that are given back without a point, unless somebody tries to take one of their class."""
PRIMITIVES = vars(primitives)
STEP_BOUND = 5_000
IDLE = -1
"""The path that stands for the devices when everybody waits (Paths.idle)."""

ENDED, STUCK, CUT, ENDLESS, FAILED = "ended", "stuck", "cut", "endless", "failed"
"""How an execution ends: all paths did; nobody can go on; the search gave it up; too long; an exception."""

Pick = Callable[[int], int]
"""Called with the mask of paths that can go on: the number of the next, or -1 to give the execution up."""


class Worker:
    """A pooled greenlet: runs one path after the other, and never ends."""

    __slots__ = ("engine", "glet", "strand")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.strand: Strand | None = None
        self.glet = greenlet(self._serve, engine.main_glet)

    def _serve(self) -> None:
        while True:
            strand = self.strand
            if strand is None or strand.work is None:
                raise EngineError("a worker has nothing to do")
            self.engine.execute(strand, strand.work)


def _kind_of_event(on: object) -> str:
    """What a path waits for, without which one: "writeback"."""
    text = getattr(on, "text", None)
    return str(text).split(" of ")[0] if text else f"the end of {on}"


class Engine(Paths):
    """The paths of a machine that is explored. Until run() it is as any other Paths."""

    def __init__(self) -> None:
        super().__init__()
        self.main_glet = getcurrent()
        self.keys = Keys()
        self.events = Events()
        self.exploring = False
        self.n = -1  # the event under way
        self.plan: Sequence[int] = ()
        self.planned = 0
        self.watch_from = 0
        self.pick: Pick = lambda _enabled: -1
        self.status = ENDED
        self.live: list[Strand] = []
        self.strands: dict[int, Strand] = {}
        self.tids: dict[tuple[int, str, int], int] = {}  # who starts it, its name, how-manieth → number
        self.children: dict[tuple[int, str], int] = {}
        self.workers: list[Worker] = []
        self.idle_workers: list[Worker] = []
        self.giving_up = False
        # What is learned about the program, and holds for all executions.
        self.learned = False
        self.split: set[tuple[int, int]] = set()  # places where giving back a lock is a point
        self.tried: set[str] = set()  # classes of locks that somebody tries
        self.exact: set[int] = set()  # keys of counters whose value can decide something
        self.doubtful: list[tuple[int, int, int]] = []  # key, value at the start, least that decides nothing
        self.released_at: list[tuple[tuple[int, int], int]] = []
        self.given_back: list[tuple[object, bool]] = []
        self.touching: set[int] = set()
        self.report = ""
        self.failed_with: BaseException | None = None
        self.blocked: list[tuple[int, int, bool, int]] = []
        """At the end: (path, lock's number, shared, the path's last event) of those that wait for a lock."""
        self.floors: dict[
            int, tuple[int, int]
        ] = {}  # counter → (value at the start, least that decides nothing)
        self.spinning: list[Strand] = []
        self.quiet = False
        self.every_point = (
            False  # before and after giving a lock back is always a point: for the plainest search
        )
        self.lock_graph = LockGraph()
        self.trace: list[tuple[str, Op, object]] | None = None  # path, operation, on what: for reports

    # One execution.

    def run(self, start: Callable[[], None], plan: Sequence[int], pick: Pick, watch_from: int) -> str:
        """Follow ``plan``, then ``pick``. Events before ``watch_from`` are as in the execution before."""
        self.plan, self.planned, self.pick = plan, len(plan), pick
        self.watch_from = watch_from
        self.n = -1
        self.status = ENDED
        self.keys.begin()
        self.lock_graph.begin()
        self.children.clear()
        self.live.clear()
        self.failed.clear()
        self.released_at.clear()
        self.given_back.clear()
        self.touching.clear()
        self.blocked.clear()
        self.doubtful.clear()
        self.spinning.clear()
        self.waiting = 0
        self.events.cut(watch_from)
        self.exploring = True
        self.chooser = self  # the primitives ask whether there is one
        self.current = self.main
        try:
            start()
            self._advance()
            if self.status in (STUCK, CUT):
                self._note_blocked()
        finally:
            self._abandon()
            self.exploring = False
            self.chooser = None
            self.current = self.main
            journal.clear()
        return self.status

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        """Never asked: point() decides by itself."""
        raise KernelBug("the engine was asked as if it were a chooser")

    def spawn(
        self, name: str, function: Callable[..., Any], *arguments: Any, task: Any = None, cpu: int = 0
    ) -> Path:
        if not self.exploring:
            return super().spawn(name, function, *arguments, task=task, cpu=cpu)
        parent = self.current.tid if isinstance(self.current, Strand) else IDLE
        count = self.children[parent, name] = self.children.get((parent, name), 0) + 1
        tid = self.tids.setdefault((parent, name, count), len(self.tids))
        strand = self.strands.get(tid)
        if strand is None:
            unique = name if count == 1 else f"{name}#{count}"
            strand = self.strands[tid] = Strand(tid, unique, task, cpu)
        strand.begin(lambda: function(*arguments))
        strand.task, strand.cpu, strand.spawned = task, cpu, self.n
        self.live.append(strand)
        return strand

    def execute(self, strand: Strand, work: Callable[[], Any]) -> None:
        """In a worker: run a path to its end, and hand over."""
        strand.started = True
        try:
            strand.result = work()
            if strand.held:
                raise KernelBug(f"{strand} ended holding {', '.join(h.describe() for h in strand.held)}")
        except GreenletExit:
            self.main_glet.switch()
            return
        except BaseException as error:
            strand.error = self.failed_with = error
            strand.ended = True
            self.status = FAILED
            self._close_event(self.n)
            self.main_glet.switch()
            return
        strand.ended = True
        self.live.remove(strand)
        if self.waiting:
            self.wake(strand)
        if strand.worker is not None:
            self.idle_workers.append(strand.worker)
        self._advance()

    def _advance(self) -> None:
        """The event under way is over: choose the next one, and go there."""
        running = self.current
        n = self.n + 1
        if n > self.watch_from:
            self._close_event(n - 1)
        elif n == self.watch_from:
            journal.clear()
        if self.spinning:
            self._end_spins(n - 1)
        self.n = clock.now = n
        strand = self._planned(self.plan[n]) if n < self.planned else self._choose()
        if strand is None:
            if running is not self.main:
                self.main_glet.switch()
            return
        if self.n < self.watch_from and self.trace is None:
            strand.last = n
            strand.woken = strand.spawned = -1
        else:
            self._open_event(strand)
        if strand is running:
            return
        self.current = strand
        worker = strand.worker
        if worker is None:
            worker = strand.worker = self.idle_workers.pop() if self.idle_workers else self._new_worker()
            worker.strand = strand
        if worker.glet is not getcurrent():
            worker.glet.switch()

    def _new_worker(self) -> Worker:
        worker = Worker(self)
        self.workers.append(worker)
        return worker

    def _planned(self, tid: int) -> Strand | None:
        if tid == IDLE:
            self._let_devices_answer()
            return self._planned(self.plan[self.n]) if self.n < self.planned else self._choose()
        strand = self.strands.get(tid)
        if strand is None or strand.ended or strand.waits_for is not None:
            raise EngineError(f"event {self.n} of a plan cannot happen: the program is not deterministic")
        return strand

    def _choose(self) -> Strand | None:
        """Beyond the plan: who can go on, and who shall. None: the execution is over."""
        while True:
            enabled = 0
            for strand in self.live:
                if strand.waits_for is None and (not strand.conditional or is_free(strand.on, strand.op)):
                    enabled |= 1 << strand.tid
            if enabled:
                break
            if not self.live:
                return None
            if not self._let_devices_answer():
                self.status = STUCK
                self.report = "; ".join(self._describe_stuck(strand) for strand in self.live)
                return None
        if self.n >= STEP_BOUND:
            self.status = ENDLESS
            return None
        tid = self.pick(enabled)
        if tid < 0:
            self.status = CUT
            return None
        return self.strands[tid]

    def _let_devices_answer(self) -> bool:
        """Paths.idle() as an event of its own, which nothing interrupts."""
        self.quiet = True
        try:
            answered = self.idle()
        finally:
            self.quiet = False
        if answered:
            if self.n >= self.watch_from:
                self.events.open(IDLE, Op.WAIT, None, 0, False, (-1, -1, -1))
            self._close_event(self.n)
            self.n += 1
            clock.now = self.n
        return answered

    def _describe_stuck(self, strand: Strand) -> str:
        if strand.waits_for is None:
            strand.waits_for = strand.on  # it has not begun to wait, but would
        return self.describe(strand)

    def _open_event(self, strand: Strand) -> None:
        n = self.n
        if n >= self.watch_from:
            self.events.open(
                strand.tid,
                strand.op,
                strand.on,
                strand.delta,
                strand.conditional,
                (strand.last, strand.woken, strand.spawned),
                strand.passed,
                strand.what,
            )
        if self.trace is not None:
            self.trace.append((strand.name, strand.op, strand.on))
        strand.last = n
        strand.woken = strand.spawned = -1

    def _close_event(self, n: int) -> None:
        """Turn what was noted since the event began into its footprint."""
        if n < self.watch_from or n < 0:
            return
        events, keys, touching = self.events, self.keys, self.touching
        tid, op, on = events.tid[n], events.op[n], events.on[n]
        start = 0
        if op is Op.RMW and events.delta[n]:
            start = self._counter(n, on, tid)
        elif op in LOCKING:
            self._lock_taken(n, op, on, tid)
        if self.given_back or (op is Op.RELEASE and hasattr(on, "lock_owner")):
            self._locks_given_back(n, op, on, tid)
        if self.released_at:
            self._learn_places()
        events.footprint[n] = keys.footprint(journal, tid, touching, start)
        touching.clear()
        journal.clear()

    def _counter(self, n: int, on: object, tid: int) -> int:
        """A counter that went up or down; how many entries of the journal say so."""
        if len(journal) < 4 or journal[0] is not on or journal[2] is not on:
            return 0  # it was zero, and stayed so: a plain read
        keys, code, delta = self.keys, journal[1] & ~3, self.events.delta[n]
        key = keys.key(keys.object_number(on, tid), code)
        if id(on) not in keys.world or self._changed_again(on, code):
            self.exact.add(key)
        if key in self.exact:
            more = delta > 0 and self._value(on, str(self.events.what[n])) > delta
            self.touching.add(key << 2 | (ADD if more else WRITE))
        else:
            self.touching.add(key << 2 | ADD)
            self.events.moved[n] = key, delta
        return 4

    @staticmethod
    def _changed_again(on: object, code: int) -> bool:
        """Does the same event change the counter a second time?"""
        written = code | WRITE
        return any(journal[n] == written and journal[n - 1] is on for n in range(5, len(journal), 2))

    @staticmethod
    def _value(on: object, field: str) -> int:
        """A counter as it is now, without a note."""
        mark = len(journal)
        value: int = getattr(on, field)
        del journal[mark:]
        return value

    def _lock_key(self, on: object, tid: int, code: int) -> int:
        return self.keys.key(self.keys.object_number(on, tid), code) << 2

    def _lock_taken(self, n: int, op: Op, on: Any, tid: int) -> None:
        """Still held: everybody sees it. Given back already: it only had to be free."""
        shared, rw = op is Op.ACQUIRE_SHARED, isinstance(on, RwSem)
        held = holds(on, self.strands[tid])
        self.touching.add(self._lock_key(on, tid, LOCK_CODE) | (WRITE if held and not shared else READ))
        if rw and (held or not shared):
            self.touching.add(self._lock_key(on, tid, READERS_CODE) | (ADD if shared else READ))
        if held:
            self.events.acquired[n] = self.keys.object_number(on, tid), shared

    def _locks_given_back(self, n: int, op: Op, on: object, tid: int) -> None:
        given: list[tuple[int, bool]] = []
        if op is Op.RELEASE and hasattr(on, "lock_owner"):
            self.given_back.append((on, False))
        for lock, shared in self.given_back:
            if lock is on and op in LOCKING:
                continue  # taken in this very event
            code, how = (READERS_CODE, ADD) if shared else (LOCK_CODE, WRITE)
            self.touching.add(self._lock_key(lock, tid, code) | how)
            given.append((self.keys.object_number(lock, tid), shared))
        self.events.released[n] = tuple(given)
        self.given_back.clear()

    def _learn_places(self) -> None:
        """Where a path went on to touch something after giving a lock back, there must be a point."""
        ends = [mark for _place, mark in self.released_at[1:]] + [len(journal)]
        for (place, mark), end in zip(self.released_at, ends, strict=True):
            if end > mark:
                self.split.add(place)
                self.learned = True
        self.released_at.clear()

    def _note_blocked(self) -> None:
        for strand in self.live:
            if strand.conditional and not is_free(strand.on, strand.op):
                number = self.keys.object_number(strand.on, strand.tid)
                self.blocked.append((strand.tid, number, strand.op is Op.ACQUIRE_SHARED, strand.last))

    def check_counters(self, floor: Callable[[int], tuple[int, int] | None]) -> None:
        """Could another order of the same events have brought a counter to where its value decides?

        ``floor`` says for a key (value at the start, least harmless value). Each path's changes come in their
        order, so the lowest that can be is the start and each path's lowest sum. Where that is too low, who
        knows what happens before what looks closer (``doubtful``; strategies/dpor.py).
        """
        sums: dict[tuple[int, int], tuple[int, int]] = {}
        events = self.events
        for n, moved in enumerate(events.moved):
            if moved is not None:
                key, delta = moved
                total, least = sums.get((key, events.tid[n]), (0, 0))
                sums[key, events.tid[n]] = total + delta, min(least, total + delta)
        lowest: dict[int, int] = {}
        for (key, _tid), (_total, least) in sums.items():
            lowest[key] = lowest.get(key, 0) + least
        for key, below in lowest.items():
            known = self.floors.get(key)
            if known is None:
                known = floor(key)
                if known is None:
                    continue
                self.floors[key] = known
            start, least = known
            if self._is_set(key):
                self.exact.add(key)
                self.learned = True
            elif start + below < least:
                self.doubtful.append((key, start, least))

    def _is_set(self, key: int) -> bool:
        """Has some event given this counter a value, instead of adding to it (and perhaps looking at it)?"""
        events = self.events
        for footprint, moved in zip(events.footprint, events.moved, strict=True):
            if footprint.writes >> key & 1 and (moved is None or moved[0] != key):
                return True
        return False

    def _abandon(self) -> None:
        """End what is still under way; nothing that is held is given back."""
        self.giving_up = True
        for strand in self.live:
            if strand.started and not strand.ended and strand.worker is not None:
                strand.worker.glet.throw(GreenletExit)
        self.giving_up = False
        self.idle_workers[:] = self.workers

    # What paths call.

    def point(self, op: Op, on: object, what: str | int = 0, delta: int = 0) -> None:
        if self.quiet:
            return
        if self.giving_up:
            raise GreenletExit("this path is being given up")
        strand: Any = self.current
        strand.passed += 1
        if op is Op.RELEASE and type(on) in SILENT and not self._is_tried(on):
            return
        strand.op = op
        strand.on = on
        strand.what = what
        strand.delta = delta
        strand.conditional = (op is Op.ACQUIRE or op is Op.ACQUIRE_SHARED) and not holds(on, strand)
        if strand.conditional and self.n >= self.watch_from - 1:
            self.lock_graph.took(strand, on.lock_class.name)  # type: ignore[attr-defined]
        if op is Op.TRYLOCK and isinstance(on, Lock) and on.lock_class.name not in self.tried:
            self.tried.add(on.lock_class.name)
            self.learned = True
        self._advance()

    def _is_tried(self, lock: Any) -> bool:
        """May somebody find it taken without waiting for it?"""
        return self.every_point or lock.lock_class.name in self.tried

    def released(self, on: object, *, shared: bool = False) -> None:
        if self.quiet or self.giving_up:
            return
        strand = self._running()
        strand.passed += 1
        if self.n >= self.watch_from:
            self.given_back.append((on, shared))
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_globals is PRIMITIVES:
            frame = frame.f_back
        if frame is None:
            raise EngineError("a lock is given back by nobody")
        place = id(frame.f_code), frame.f_lasti
        if place in self.split or self.every_point:
            strand.announce(Op.RELEASED, on)
            self._advance()
        elif self.n >= self.watch_from:
            self.released_at.append((place, len(journal)))

    def relax(self) -> None:
        """A loop has found nothing new: its path goes on when somebody has changed what it looked at."""
        if not self.exploring or self.quiet:
            return
        strand = self._running()
        strand.passed += 1
        strand.waits_for = SPIN
        strand.announce(Op.WAIT, SPIN)
        self.spinning.append(strand)
        self._advance()

    def _end_spins(self, n: int) -> None:
        """Event ``n`` may have brought what a loop waits for."""
        events = self.events
        for strand in [strand for strand in self.spinning if strand.last != n]:
            if events.footprint[n].conflicts(events.footprint[strand.last]):
                strand.waits_for = None
                strand.woken = n
                self.spinning.remove(strand)

    def wait(self, on: object) -> None:
        if not self.exploring or self.quiet:
            super().wait(on)
            return
        strand = self._running()
        strand.passed += 1
        strand.waits_for = on
        self.waiting += 1
        strand.announce(Op.WAIT, on)
        if self.n >= self.watch_from:
            self.touching.add(self._lock_key(on, strand.tid, WAKE_CODE) | ADD)
            self.lock_graph.waits(strand, _kind_of_event(on))
        self._advance()

    def wake(self, on: object) -> None:
        if not self.exploring:
            super().wake(on)
            return
        for strand in self.live:
            if strand.waits_for is on:
                strand.waits_for = None
                strand.woken = self.n
                self.waiting -= 1
        if self.n >= self.watch_from:
            tid = self.current.tid if isinstance(self.current, Strand) else IDLE
            self.touching.add(self._lock_key(on, tid, WAKE_CODE) | WRITE)
            if not hasattr(on, "lock_class"):
                self.lock_graph.wakes(self.current, _kind_of_event(on))

    def _running(self) -> Strand:
        if not isinstance(self.current, Strand):
            raise EngineError("something of the set-up runs inside of an execution")
        return self.current
