"""Source-DPOR with sleep sets: one execution for each order of what conflicts, until there are no more.

After Abdulla, Aronis, Jonsson, Sagonas (JACM 2017). *Happens-before* is kept as a bitmask of events. Two
events race if they conflict and nothing orders them but their own conflict; each race is reversed by a
later execution, unless a path that has been explored from there already, or sleeps, begins a run with that
order. A path that takes a lock can only be moved before an event if the lock would be free there, whatever
they conflict on.
"""

from __future__ import annotations

from ..containers import ADD, READ
from ..engine import FAILED, IDLE, Engine
from ..footprint import Footprint

MOST_CUTS = 2_000
"""Ways to cut an execution in two that are looked at for the lowest value of a counter."""


class Dpor:
    """Exhausts. ``plan()``, an execution with ``pick``, ``learn()``; until there is no plan."""

    name = "dpor"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.restart()

    def restart(self) -> None:
        """From the beginning, with what the engine has learned."""
        self.enabled: list[int] = []
        self.back: list[int] = []  # paths to explore from this node
        self.done: list[dict[int, Footprint]] = []  # those that have been, with what their event touched
        self.sleep: list[dict[int, Footprint]] = []
        self.hb: list[int] = []
        self.masks: tuple[list[int], list[int], list[int]] = ([], [], [])  # by key: who reads, adds, writes
        self.counted = 0  # events that the masks know
        self.branch = 0
        self.started = False
        self.running = -1
        self.races: list[tuple[int, int]] = []
        """Of the last execution: (event, later event) that only their own conflict orders."""

    # Before an execution.

    def plan(self) -> tuple[list[int], int] | None:
        """The events to begin with, and the number of the first new one."""
        if not self.started:
            self.started = True
            return [], 0
        for node in range(len(self.back) - 1, -1, -1):
            left = self.back[node]
            for tid in (*self.done[node], *self.sleep[node]):
                left &= ~(1 << tid)
            if left:
                return self._cut(node, (left & -left).bit_length() - 1), node
        return None

    def _cut(self, node: int, tid: int) -> list[int]:
        """Go back to a node, to take another path from there."""
        events = self.engine.events
        low = (1 << node) - 1
        for n in range(node, self.counted):
            for key, how in events.footprint[n].touches:
                self.masks[how][key] &= low
        self.counted = self.branch = node
        for kept in (self.enabled, self.back, self.done, self.sleep):
            del kept[node + 1 :]
        del self.hb[node:]
        self.running = tid
        return [*events.tid[:node], tid]

    # While it runs.

    def pick(self, enabled: int) -> int:
        """The running path if it can go on, else the first; nobody who sleeps."""
        node = len(self.enabled)
        sleep: dict[int, Footprint] = {}
        awake = enabled
        if node:
            before = node - 1
            footprint = self.engine.events.footprint[before]
            for asleep in (self.sleep[before], self.done[before]):
                for tid, its in asleep.items():
                    if not its.conflicts(footprint):
                        sleep[tid] = its
                        awake &= ~(1 << tid)
        if not awake:
            return -1
        tid = (
            self.running
            if self.running >= 0 and awake >> self.running & 1
            else (awake & -awake).bit_length() - 1
        )
        self.running = tid
        self.enabled.append(enabled)
        self.back.append(1 << tid)
        self.done.append({})
        self.sleep.append(sleep)
        return tid

    # After it.

    def share(self) -> float:
        """How much of the tree is done, if the branches of each node are alike and no more are found."""
        share, weight = 0.0, 1.0
        for back, done in zip(self.back, self.done, strict=True):
            branches = back.bit_count()
            share += weight * max(0, min(len(done), branches) - 1) / branches
            weight /= branches
        return share

    def learn(self) -> None:
        events = self.engine.events
        for n in range(self.branch, len(events)):
            if n < len(self.done) and events.tid[n] != IDLE:
                self.done[n][events.tid[n]] = events.footprint[n]
        self._find_races()
        for key, start, least in self.engine.doubtful:
            if start + self._lowest(key) < least:
                self.engine.exact.add(key)
                self.engine.learned = True
        if self.engine.status == FAILED:  # what stops all paths conflicts with whatever they had to come
            self.back[len(events) - 1] |= self.enabled[len(events) - 1]

    def _lowest(self, key: int) -> int:
        """How far a counter goes down, at most, in an order of these events that keeps their conflicts."""
        moved = {n: m[1] for n, m in enumerate(self.engine.events.moved) if m is not None and m[0] == key}
        mask = sum(1 << n for n in moved)
        needs = {n: self.hb[n] & mask for n in moved}
        lowest, todo = 0, {0: 0}  # events that have been (as a mask) → their sum
        seen = {0}
        while todo and len(seen) < MOST_CUTS:
            been, total = todo.popitem()
            lowest = min(lowest, total)
            for n, need in needs.items():
                after = been | 1 << n
                if after not in seen and not need & ~been:
                    seen.add(after)
                    todo[after] = total + moved[n]
        return lowest if not todo else -sum(map(abs, moved.values()))

    def order_only(self) -> list[tuple[int, int]]:
        """What happens before what in the execution that was last (``hb``), and its races."""
        self.restart()
        return self._order_events(self._lock_times(len(self.engine.events)))

    def _find_races(self) -> None:
        count = len(self.engine.events)
        locks = self._lock_times(count)
        self.races = self._order_events(locks)
        for e, n in self.races:
            self._reverse(e, self._initials(e, n), self._of(n))
        for tid, number, shared, last in self.engine.blocked:
            self._blocked(count, tid, number, shared, last, locks)

    def _order_events(self, locks: dict[int, list[tuple[int, int, bool]]]) -> list[tuple[int, int]]:
        events = self.engine.events
        count = len(events)
        races: list[tuple[int, int]] = []
        for n in range(self.branch, count):
            base = 0
            for before in events.before[n]:
                if before >= 0:
                    base |= self.hb[before] | 1 << before
            if events.tid[n] == IDLE:
                base = (1 << n) - 1
            wants = None
            if events.conditional[n]:
                wants = self._wanted(n)
            hb, raced = self._order(n, self._conflicts(n), base, wants, locks)
            self.hb.append(hb)
            races += [(e, n) for e in raced]
            self._count(n)
        self.counted = count
        return races

    def _of(self, n: int) -> int:
        return self.engine.events.tid[n]

    def _wanted(self, n: int) -> tuple[int, bool]:
        events, keys = self.engine.events, self.engine.keys
        number = keys.object_number(events.on[n], events.tid[n])
        return number, events.op[n].name == "ACQUIRE_SHARED"

    def _conflicts(self, n: int) -> int:
        """All earlier events that do not commute with this one."""
        reads, adds, writes = self.masks
        missing = len(self.engine.keys.meaning) - len(reads)
        if missing > 0:
            for mask in self.masks:
                mask.extend([0] * missing)
        found = 0
        for key, how in self.engine.events.footprint[n].touches:
            if how == READ:
                found |= writes[key] | adds[key]
            elif how == ADD:
                found |= writes[key] | reads[key]
            else:
                found |= writes[key] | adds[key] | reads[key]
        return found

    def _count(self, n: int) -> None:
        bit = 1 << n
        for key, how in self.engine.events.footprint[n].touches:
            self.masks[how][key] |= bit

    def _order(
        self,
        n: int,
        conflicts: int,
        base: int,
        wants: tuple[int, bool] | None,
        locks: dict[int, list[tuple[int, int, bool]]],
    ) -> tuple[int, list[int]]:
        """(what happens before event n, those of it that race with it)."""
        hb, todo, raced = base, conflicts & ~base, []
        while todo:
            e = todo.bit_length() - 1
            bit = 1 << e
            hb |= self.hb[e] | bit
            if self.engine.events.tid[e] == IDLE or (
                wants is not None and self._taken_without(e, n, wants, locks)
            ):
                todo &= ~bit
            else:
                raced.append(e)
                todo &= ~(self.hb[e] | bit)
        return hb, raced

    def _lock_times(self, count: int) -> dict[int, list[tuple[int, int, bool]]]:
        """For each lock: (taken by event, given back by event, shared), where these are not the same."""
        events = self.engine.events
        times: dict[int, list[tuple[int, int, bool]]] = {}
        under_way: dict[tuple[int, int], tuple[int, bool]] = {}
        for n in range(count):
            for number, _shared in events.released[n]:
                start = under_way.pop((number, events.tid[n]), None)
                if start is not None:
                    times.setdefault(number, []).append((start[0], n, start[1]))
            taken = events.acquired[n]
            if taken is not None:
                under_way[taken[0], events.tid[n]] = n, taken[1]
        for (number, _tid), (start_event, shared) in under_way.items():
            times.setdefault(number, []).append((start_event, count, shared))
        return times

    def _taken_without(
        self, e: int, n: int, wants: tuple[int, bool], locks: dict[int, list[tuple[int, int, bool]]]
    ) -> bool:
        """If event n is moved before e, does somebody hold the lock that it takes?

        What happens after e would not have happened yet.
        """
        number, shared = wants
        for start, end, its_shared in locks.get(number, ()):
            if start >= n or (shared and its_shared):
                continue
            gone = start == e or (start < len(self.hb) and self.hb[start] >> e & 1)
            back = end < n and not (end == e or self.hb[end] >> e & 1)
            if not gone and not back:
                return True
        return False

    def _blocked(
        self,
        count: int,
        tid: int,
        number: int,
        shared: bool,
        last: int,
        locks: dict[int, list[tuple[int, int, bool]]],
    ) -> None:
        """A path that still waits for a lock at the end might have come first."""
        base = self.hb[last] | 1 << last if last >= 0 else 0
        conflicts = 0
        for start, end, its_shared in locks.get(number, ()):
            if not (shared and its_shared):
                conflicts |= 1 << start
                if end < count:
                    conflicts |= 1 << end
        hb, raced = self._order(count, conflicts, base, (number, shared), locks)
        for e in raced:
            self._reverse(e, self._initials_of(e, count, tid, hb), tid)

    def _initials(self, e: int, n: int) -> int:
        return self._initials_of(e, n, self._of(n), self.hb[n])

    def _initials_of(self, e: int, n: int, tid: int, hb: int) -> int:
        """The paths that can be first in what happened without e, up to the event of ``tid`` that races."""
        tids = self.engine.events.tid
        without = seen = initials = 0
        for k in range(e + 1, n):
            if not self.hb[k] >> e & 1:
                path = 1 << tids[k]
                if not seen & path:
                    seen |= path
                    if not self.hb[k] & without:
                        initials |= path
                without |= 1 << k
        if not seen >> tid & 1 and not hb & without:
            initials |= 1 << tid
        return initials

    def _reverse(self, e: int, initials: int, tid: int) -> None:
        asleep = 0
        for sleeper in self.sleep[e]:
            asleep |= 1 << sleeper
        if initials & (self.back[e] | asleep):
            return
        initials &= self.enabled[e]
        if initials >> tid & 1:
            self.back[e] |= 1 << tid
        elif initials:
            self.back[e] |= initials & -initials
        else:
            self.back[e] |= self.enabled[e]
