"""Watching the model: every read and write of what can change goes into the journal of containers.py.

The engine must know what each stretch of a path between two points really touched, or "independent" would
be a guess. So while it explores, the attributes that can change (names.py) are replaced by properties that
note each access, page flags bit by bit; outside of an exploration the classes are as they were, and cost
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MemberDescriptorType, ModuleType
from typing import Any

from .containers import READ, SEEN, WRITE, note, seen
from .names import fields_of, read_names, watched_classes

FLAGS = "flags"
"""The one attribute whose bits are told apart, in classes that list it among their slots."""
ORDERED = {"free_area"}
"""Containers of which the first entry is taken: the order of additions matters."""


SLOTS: dict[type, dict[str, MemberDescriptorType]] = {}


def slots_of(cls: type[Any]) -> dict[str, MemberDescriptorType]:
    """The slots of a class and its bases. Asked for each class before its watch hides them."""
    if cls in SLOTS:
        return SLOTS[cls]
    members: dict[str, MemberDescriptorType] = {}
    for base in cls.__mro__:
        members |= {name: slot for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)}
    SLOTS[cls] = members
    return members


class KeptFlags(Exception):
    """The model kept flags across a point and looked at them later; it should say int(page.flags)."""


class Clock:
    """``now``: the number of the event under way."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


clock = Clock()


class Bits(tuple[Any, int, int]):
    """A page's flags as they were read: (page, value, event). Each ``&`` notes which bits it looks at."""

    __slots__ = ()

    def _look(self, code: int) -> int:
        of, value, when = self[0], self[1], self[2]
        if when != clock.now:
            raise KeptFlags(f"flags of {of} are looked at after a point: keep int(page.flags) instead")
        note(of)
        note(code)
        return value

    def __and__(self, mask: int) -> int:
        return self._look(~(mask << 2) if mask >= 0 else WHOLE) & mask

    __rand__ = __and__

    def __or__(self, mask: int) -> int:
        return self._look(WHOLE) | mask

    __ror__ = __or__

    def __xor__(self, mask: int) -> int:
        return self._look(WHOLE) ^ mask

    def __iand__(self, mask: int) -> int:
        return self[1] & mask  # an update: what changes is noted when it is stored

    def __ior__(self, mask: int) -> int:
        return self[1] | mask

    def __int__(self) -> int:
        return self._look(WHOLE)

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(self._look(WHOLE))

    def __eq__(self, other: object) -> bool:
        return int(self) == other

    __hash__ = None  # type: ignore[assignment]


ALL_BITS = (1 << 64) - 1


def bits_code(mask: int, how: int) -> int:
    """A code for some bits of a flags word; below zero, unlike those of fields."""
    return ~((mask & ALL_BITS) << 2 | how)


def bits_of(code: int) -> tuple[int, int]:
    """(mask, how) of such a code."""
    return ~code >> 2, ~code & 3


WHOLE = bits_code(ALL_BITS, READ)


class Field:
    """One watched attribute of one class; ``number`` makes its codes."""

    def __init__(self, cls: type, name: str, slot: MemberDescriptorType | None, number: int) -> None:
        self.cls = cls
        self.name = name
        self.slot = slot
        self.code = number << 2
        self.get: Callable[[Any], Any] = slot.__get__ if slot is not None else self._from_dict
        self.set: Callable[[Any, Any], None] = slot.__set__ if slot is not None else self._to_dict

    def _from_dict(self, thing: Any) -> Any:
        try:
            return thing.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def _to_dict(self, thing: Any, value: Any) -> None:
        thing.__dict__[self.name] = value

    def watcher(self, *, container: bool) -> property:
        if self.name == FLAGS and self.slot is not None:
            return self._bits()
        name, read, written = self.name, self.code | READ, self.code | WRITE
        raw_get, raw_set = self.get, self.set

        def get_slot(thing: Any) -> Any:
            note(thing)
            note(read)
            return raw_get(thing)

        def get_item(thing: Any) -> Any:
            note(thing)
            note(read)
            return thing.__dict__[name]

        def put(thing: Any, value: Any) -> None:
            note(thing)
            note(written)
            raw_set(thing, seen(value) if container else value)

        return property(get_item if self.slot is None else get_slot, put)

    def _bits(self) -> property:
        raw_get, raw_set = self.get, self.set

        def get(thing: Any) -> Any:
            return Bits((thing, raw_get(thing), clock.now))

        def put(thing: Any, value: int) -> None:
            try:
                changed = raw_get(thing) ^ value
            except AttributeError:
                changed = value
            if changed:
                note(thing)
                note(bits_code(changed, WRITE))
            raw_set(thing, value)

        return property(get, put)


@cache
def watch_of(modules: tuple[ModuleType, ...]) -> Watch:
    """Reading the source takes a while: once for the same modules."""
    return Watch(list(modules))


class Watch:
    """The fields of some modules; ``watching()`` puts the properties in place for a while."""

    def __init__(self, modules: list[ModuleType]) -> None:
        names = read_names(modules)
        self.fields: list[Field] = []
        self.by_class: dict[type, list[Field]] = {}
        self.watchers: list[tuple[type, str, Any]] = []
        for cls in watched_classes(modules):
            slots_of(cls)
            for name, slot in fields_of(cls, names).items():
                field = Field(cls, name, slot, len(self.fields))
                self.fields.append(field)
                self.by_class.setdefault(cls, []).append(field)
                if name in names.changing:
                    watcher = field.watcher(container=name in names.containers)
                    self.watchers.append((cls, name, watcher))
            if any(name in names.containers for name in fields_of(cls, names)):
                self.watchers.append((cls, "__init__", self._adopting(cls)))

    def fields_of(self, thing: object) -> Iterator[Field]:
        for cls in type(thing).__mro__:
            yield from self.by_class.get(cls, ())

    def adopt(self, thing: object) -> None:
        """Exchange the containers that an object of the model already has."""
        for field in self.fields_of(thing):
            try:
                value = field.get(thing)
            except AttributeError:
                continue
            if type(value) not in SEEN:
                field.set(thing, seen(value, ordered=field.name in ORDERED))

    def _adopting(self, cls: type) -> Callable[..., None]:
        """An object made while paths run gets containers that note, too."""
        original: Callable[..., None] = vars(cls)["__init__"]

        def made(thing: Any, *arguments: Any, **named: Any) -> None:
            original(thing, *arguments, **named)
            self.adopt(thing)

        return made

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = [(cls, name, vars(cls).get(name)) for cls, name, _ in self.watchers]
        for cls, name, watcher in self.watchers:
            setattr(cls, name, watcher)
        try:
            yield
        finally:
            for cls, name, value in before:
                if value is None:
                    delattr(cls, name)
                else:
                    setattr(cls, name, value)
