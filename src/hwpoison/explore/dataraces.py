"""Data races: two paths touch the same thing, one of them changes it, and nothing orders them.

What the kernel's own checker (KCSAN) looks for while it runs, here in every order there is: the search that
exhausts turns round any two events of which nothing says who comes first, but that they touch the same. If
both hold the same lock there, or meet at a flag or at something that one of them wakes the other by, that
orders them. Else each thing that they both touch has to be one that may be touched without a lock: the
table of those gives the way that the kernel has of doing it (mm/lockless.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from hwpoison.mm.locks import Op

from .containers import SEEN, WRITE
from .engine import Engine
from .footprint import FIRST_LOCK_CODE, LOCK_CODE, Footprint
from .labels import label
from .program import Failure
from .strands import EngineError
from .watch import Watch

MARKED = (Op.READ, Op.WRITE, Op.RMW)
Access = tuple[Footprint, bool, tuple[int, object] | None]
"""What an event touches; whether it takes a lock that others may have as well; what it touches marked."""


class DataRaces:
    """Judges the pairs of one program. ``lockless``: "Class.field" → how it is done without a lock."""

    def __init__(self, engine: Engine, watch: Watch, lockless: Mapping[str, str]) -> None:
        self.engine = engine
        self.watch = watch
        self.lockless = lockless
        self.judged: dict[tuple[Access, Access], str | None] = {}
        self.owners: dict[int, str] = {}  # id() of a container of the world → "Class.field"
        for thing in engine.keys.things:
            for field in watch.fields_of(thing):
                try:
                    value = field.get(thing)
                except AttributeError:
                    continue
                if type(value) in SEEN:
                    self.owners[id(value)] = f"{field.cls.__name__}.{field.name}"

    def judge(self, e: int, n: int) -> Failure | None:
        """Of two events of the last execution that nothing else orders."""
        pair = self._event(e), self._event(n)
        if pair not in self.judged:
            self.judged[pair] = self._unordered(*pair)
        what = self.judged[pair]
        if what is None:
            return None
        both = ", and ".join(sorted((self._tell(e), self._tell(n))))
        return Failure("data race", f"{what}: {both}, without a lock of both")

    def _event(self, n: int) -> Access:
        events = self.engine.events
        op, on, what = events.op[n], events.on[n], events.what[n]
        marked = op in MARKED and isinstance(what, str)
        number = self.engine.keys.object_number(on, events.tid[n]) if marked else -1
        return events.footprint[n], op is Op.ACQUIRE_SHARED, (number, what) if marked else None

    def _tell(self, n: int) -> str:
        events = self.engine.events
        strand = self.engine.strands.get(events.tid[n])
        if strand is None:
            raise EngineError("a device takes part in a race")
        return f"{strand.name} ({label(events.op[n], events.on[n], events.what[n], events.delta[n])})"

    def _unordered(self, left: Access, right: Access) -> str | None:
        """What both touch, and no lock protects; None: there is nothing of that sort."""
        its_how = dict(right[0].touches)
        plain: set[str] = set()
        for key, how in left[0].touches:
            other = its_how.get(key)
            if other is None:
                continue
            number, code = self.engine.keys.meaning[key]
            if isinstance(code, int) and code >= FIRST_LOCK_CODE:
                alone = (how == WRITE or not left[1]) or (other == WRITE or not right[1])
                if code != LOCK_CODE or alone:
                    return None
            elif how != other or how == WRITE:
                if code == "word" or (isinstance(code, tuple) and code[0] == "bit"):
                    return None  # flags are changed one by one, atomically, and tell what else is true
                name = self._name(number, code)
                if name is not None and not (_marks(left, number, name) and _marks(right, number, name)):
                    plain.add(name)
        return " and ".join(sorted(plain - self.lockless.keys())) or None

    def _name(self, number: int, code: object) -> str | None:
        """As "Class.field"; None: a container of something that was made in the run, which has no name."""
        thing = self.engine.keys.things[number]
        owner = self.owners.get(id(thing))
        if owner is not None:
            return owner
        if not isinstance(code, int) or type(thing) in SEEN or (thing is None and code < 4):
            return None
        field = self.watch.fields[code >> 2]
        return f"{field.cls.__name__}.{field.name}"


def _marks(access: Access, number: int, name: str) -> bool:
    """Is it by READ_ONCE(), WRITE_ONCE() or an atomic operation that this event touches it?"""
    return access[2] is not None and access[2] == (number, name.rpartition(".")[2])
