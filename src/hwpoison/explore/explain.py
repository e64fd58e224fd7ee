"""Why an execution fails: the two events whose order matters, and from when on nothing helps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.exploration import Moment
from hwpoison.mm.locks import Op

from .containers import SEEN
from .engine import Pick
from .explorer import Explorer
from .footprint import FIRST_LOCK_CODE, Footprint
from .labels import label, thing
from .minimise import Shortest
from .schedule import Rerun
from .strands import EngineError
from .strategies.dpor import Dpor
from .strategies.random_walk import members

MOST_RACES = 40
CONTINUATIONS = 8
"""Random ways to go on that are tried from a prefix, beside one for each order of the paths."""


class Explainer:
    """Works on the execution that a schedule gives, at every point there is."""

    def __init__(self, explorer: Explorer, shortest: Shortest) -> None:
        self.explorer = explorer
        self.engine = explorer.engine
        self.sort = shortest.failure.sort
        Rerun(explorer, shortest.schedule)
        events = self.engine.events
        self.tids = list(events.tid)
        said = zip(events.op, events.on, events.what, events.delta, strict=True)
        self.labels = [label(*announced) for announced in said]
        self.names = [
            self.engine.strands[tid].name if tid in self.engine.strands else "device" for tid in self.tids
        ]
        self.footprints = list(events.footprint)
        order = Dpor(self.engine)
        self.races = order.order_only()
        self.hb = list(order.hb)

    def fails(self, plan: Sequence[int], pick: Pick) -> bool:
        """Does an execution that begins like this fail in the same way?"""
        self.engine.every_point = True
        try:
            self.explorer.execute(plan, pick)
        except EngineError:
            return True  # that order cannot be: it tells nothing
        finally:
            self.engine.every_point = False
        return any(failure.sort == self.sort for failure in self.explorer.failures)

    def racing(self) -> tuple[int, int] | None:
        """The last two events that race, and that do no harm the other way round."""
        for e, n in sorted(self.races, key=lambda pair: (-pair[1], -pair[0]))[:MOST_RACES]:
            between = [k for k in range(e + 1, n) if not self.hb[k] >> e & 1]
            plan = [*self.tids[:e], *(self.tids[k] for k in between), self.tids[n]]
            if not self.fails(plan, going_on(self.tids[n])):
                return e, n
        return None

    def certain_from(self) -> int | None:
        """The first event after which every continuation that was tried fails; None: all do."""
        low, high = 0, len(self.tids)  # avoidable after ``low`` events, not after ``high``
        if not self._avoidable(0):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._avoidable(middle):
                low = middle
            else:
                high = middle
        return high - 1

    def _avoidable(self, count: int) -> bool:
        plan = self.tids[:count]
        paths = sorted(set(self.tids))
        ways: list[Pick] = [by_priority(order) for order in list(permutations(paths))[:6]]
        ways += [at_random(seed) for seed in range(CONTINUATIONS)]
        return any(not self.fails(plan, way) for way in ways)

    def met_at(self, e: int, n: int) -> str:
        """What two events have in common, in words."""
        keys = _common(self.footprints[e], self.footprints[n])
        return ", ".join(dict.fromkeys(self._name(key) for key in keys)) or "nothing"

    def _name(self, key: int) -> str:
        number, code = self.engine.keys.meaning[key]
        it = self.engine.keys.things[number]
        owner = "an object made meanwhile" if it is None else _owner(self.explorer, it)
        if isinstance(code, int):
            if code >= FIRST_LOCK_CODE:
                return f"the lock {owner}"
            return (
                f"{owner} as a whole" if it is None or not self._has_fields(it) else self._field(owner, code)
            )
        if code == "word":
            return f"the flags of {owner}"
        kind, which = code
        return f"{owner}: {pg.names(1 << which)[0]}" if kind == "bit" else f"{owner}[{which}]"

    def _has_fields(self, it: object) -> bool:
        return any(self.explorer.watch.fields_of(it))

    def _field(self, owner: str, code: int) -> str:
        return f"{owner}.{self.explorer.watch.fields[code >> 2].name}"

    def moments(self, racing: tuple[int, int] | None, certain: int | None) -> tuple[Moment, ...]:
        """Event by event."""
        found = []
        for n, tid in enumerate(self.tids):
            shared = any(
                self.tids[k] != tid and self.footprints[k].conflicts(self.footprints[n])
                for k in range(len(self.tids))
            )
            before = self.tids[n - 1] if n else tid
            preempts = n > 0 and before != tid and before in self.tids[n:]
            role = "race" if racing is not None and n in racing else "certain" if n == certain else ""
            found.append(Moment(self.names[n], self.labels[n], preempts, shared, role))
        return tuple(found)


def _common(one: Footprint, two: Footprint) -> list[int]:
    mask = one.writes & two.all | two.writes & one.all | one.adds & two.reads | one.reads & two.adds
    return members(mask)


def _owner(explorer: Explorer, it: object) -> str:
    """An object by its name; a container by whose it is."""
    if not isinstance(it, SEEN):
        return _plain(it)
    for other in explorer.world.objects.values():
        for field in explorer.watch.fields_of(other):
            try:
                if field.get(other) is it:
                    return f"{_plain(other)}.{field.name}"
            except AttributeError:
                continue
    return _plain(it)


def _plain(it: object) -> str:
    return (
        thing(it, Op.ACQUIRE) if hasattr(it, "lock_class") and not hasattr(it, "pfn") else thing(it, Op.READ)
    )


def going_on(running: int) -> Pick:
    """Whoever runs goes on; then the others in their order."""

    def pick(enabled: int) -> int:
        nonlocal running
        if not enabled >> running & 1:
            running = members(enabled)[0]
        return running

    return pick


def by_priority(order: Sequence[int]) -> Pick:
    """The first of these that can go on."""

    def pick(enabled: int) -> int:
        return next((tid for tid in order if tid >= 0 and enabled >> tid & 1), members(enabled)[0])

    return pick


def at_random(seed: int) -> Pick:
    draw = random.Random(seed)
    return lambda enabled: draw.choice(members(enabled))
