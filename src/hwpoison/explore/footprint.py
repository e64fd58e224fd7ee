"""What one event touched, in keys: numbers for (object, field, bit or entry), read, added to or written.

Keys are the same for the same thing in every execution: objects of the set-up world have a number of their
own, objects made during a run are known by who made them, as his how-manieth. So footprints of different
executions can be compared, which sleep sets do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .containers import ADD, READ, WRITE
from .watch import ALL_BITS, bits_of

LOCK_CODE, READERS_CODE, WAKE_CODE = 1 << 20, 2 << 20, 3 << 20
FIRST_LOCK_CODE = LOCK_CODE
"""Codes for the primitives' own state, beyond those of fields: who holds, who reads, who sleeps."""


class Footprint:
    """``touches``: (key, how) pairs. The masks have a bit a key."""

    __slots__ = ("adds", "all", "reads", "touches", "writes")

    def __init__(self, touched: Iterable[int]) -> None:
        how_of: dict[int, int] = {}
        for both in touched:
            key, how = both >> 2, both & 3
            before = how_of.get(key)
            how_of[key] = how if before is None or before == how else WRITE
        self.touches = tuple(how_of.items())
        self.reads = self.adds = self.writes = 0
        for key, how in self.touches:
            if how == READ:
                self.reads |= 1 << key
            elif how == ADD:
                self.adds |= 1 << key
            else:
                self.writes |= 1 << key
        self.all = self.reads | self.adds | self.writes

    def conflicts(self, other: Footprint) -> bool:
        return bool(
            self.writes & other.all
            or other.writes & self.all
            or self.adds & other.reads
            or self.reads & other.adds
        )


NOTHING = Footprint(())


class Keys:
    """Numbers for everything that is touched. ``begin()`` forgets the objects of the last execution."""

    def __init__(self) -> None:
        self.number: dict[tuple[int, Any], int] = {}  # (object's number, code) → key
        self.meaning: list[tuple[int, Any]] = []
        self.numbers: dict[Any, int] = {}  # who made it and when → object's number
        self.world: dict[int, int] = {}  # id() of an object of the world → its number
        self.things: list[Any] = []  # by number: the object, if it is of the world, else None
        self.cache: dict[tuple[int, Any], tuple[int, ...]] = {}  # for objects of the world, by id()
        self.fresh: dict[int, int] = {}
        self.fresh_cache: dict[tuple[int, Any], tuple[int, ...]] = {}
        self.kept: list[Any] = []  # so that no id() is used twice in one execution
        self.made: dict[int, int] = {}  # path → objects it has made
        self.footprints: dict[frozenset[int], Footprint] = {}

    def adopt(self, thing: Any) -> None:
        """An object of the world, which lives through all executions."""
        self.world[id(thing)] = len(self.things)
        self.things.append(thing)

    def begin(self) -> None:
        self.fresh.clear()
        self.made.clear()
        self.kept.clear()

    def object_number(self, thing: Any, tid: int) -> int:
        number = self.world.get(id(thing))
        if number is None:
            number = self.fresh.get(id(thing))
        if number is None:
            count = self.made[tid] = self.made.get(tid, 0) + 1
            number = self.numbers.get((tid, count))
            if number is None:
                number = self.numbers[tid, count] = len(self.things)
                self.things.append(None)
            self.fresh[id(thing)] = number
            self.kept.append(thing)
        return number

    def key(self, number: int, code: Any) -> int:
        key = self.number.get((number, code))
        if key is None:
            key = self.number[number, code] = len(self.meaning)
            self.meaning.append((number, code))
        return key

    def touched(self, number: int, code: Any) -> tuple[int, ...]:
        """The (key, how) numbers that one note of the journal stands for."""
        if type(code) is tuple:  # one entry of a container
            return (self.key(number, ("entry", code[0])) << 2 | code[1],)
        if code < 0:  # some bits of a flags word
            mask, how = bits_of(code)
            word = self.key(number, "word") << 2
            if mask == ALL_BITS:
                return (word | how,)
            bits = (bit for bit in range(mask.bit_length()) if mask >> bit & 1)
            each = tuple(self.key(number, ("bit", bit)) << 2 | how for bit in bits)
            return each if how == READ else (*each, word | ADD)
        return (self.key(number, code & ~3) << 2 | code & 3,)

    def of(self, thing: Any, code: Any, tid: int) -> tuple[int, ...]:
        """As touched(), for an object."""
        found = self.cache.get((id(thing), code))
        if found is not None:
            return found
        number = self.object_number(thing, tid)
        if self.world.get(id(thing)) is not None:
            found = self.cache[id(thing), code] = self.touched(number, code)
            return found
        found = self.fresh_cache.get((number, code))
        if found is None:
            found = self.fresh_cache[number, code] = self.touched(number, code)
        return found

    def footprint(self, journal: list[Any], tid: int, touched: set[int], start: int = 0) -> Footprint:
        """Of one event: what the journal says from ``start`` on, and what the engine adds."""
        cache = self.cache
        things = journal[start::2]
        pairs = zip(map(id, things), journal[start + 1 :: 2], strict=True)
        for pair, thing in dict(zip(pairs, things, strict=True)).items():
            found = cache.get(pair)
            touched.update(self.of(thing, pair[1], tid) if found is None else found)
        frozen = frozenset(touched)
        footprint = self.footprints.get(frozen)
        if footprint is None:
            footprint = self.footprints[frozen] = Footprint(frozen)
        return footprint
