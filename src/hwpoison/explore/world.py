"""The world that all executions start from: found once, and put back before each.

Everything reachable from the roots is visited. What is watched (watch.py) is put back once some execution
has touched it; an object that nobody watches is put back every time. Objects keep their identity from one
execution to the next, so the set-up of a scenario is paid for once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import Any

from hwpoison.mm.locks import Lock, Path, Paths, RwSem

from .containers import SEEN
from .footprint import FIRST_LOCK_CODE, WAKE_CODE, Keys
from .names import frozen
from .watch import FLAGS, Watch, slots_of

PLAIN = (int, str, bytes, float, type(None), Enum, type, frozenset)
CONTAINERS = (dict, list, set, deque, tuple)
OURS = "hwpoison"


class WorldError(Exception):
    """The world did not come back as it was: something changes where nobody looks."""


def parts(thing: Any) -> Iterator[Any]:
    """What an object refers to, read past every watch."""
    if isinstance(thing, dict):
        yield from dict.keys(thing)
        yield from dict.values(thing)
    elif isinstance(thing, CONTAINERS):
        yield from contents(thing)
    else:
        yield from state_of(thing).values()


def contents(thing: Any) -> Iterator[Any]:
    """The items of a container, past its watch."""
    kind: Any = next(kind for kind in CONTAINERS if isinstance(thing, kind))
    found: Iterator[Any] = kind.__iter__(thing)
    return found


def state_of(thing: Any) -> Any:
    """Attributes by name, or the contents of a container, past every watch."""
    if isinstance(thing, dict):
        return dict(dict.items(thing))
    if isinstance(thing, CONTAINERS):
        return (set if isinstance(thing, set) else list)(contents(thing))
    state = dict(vars(thing)) if hasattr(thing, "__dict__") else {}
    for name, slot in slots_of(type(thing)).items():
        try:
            state[name] = slot.__get__(thing)
        except AttributeError:
            continue
    return state


def put_back(thing: Any, state: Any) -> None:
    """Undo whatever happened to an object that no watch is in the way of, or to a container."""
    if isinstance(thing, dict):
        dict.clear(thing)
        dict.update(thing, state)
    elif isinstance(thing, list):
        list.__setitem__(thing, slice(None), state)
    elif isinstance(thing, set):
        set.clear(thing)
        set.update(thing, state)
    elif isinstance(thing, deque):
        deque.clear(thing)
        deque.extend(thing, state)
    else:
        for name, slot in slots_of(type(thing)).items():
            if name in state:
                slot.__set__(thing, state[name])
        if hasattr(thing, "__dict__"):
            vars(thing).clear()
            vars(thing).update(state)


def _free(lock: Any) -> None:
    """A lock of any kind is held by nobody when an execution starts."""
    if isinstance(lock, RwSem):
        lock.writer = None
        lock.readers.clear()
    elif isinstance(lock, Lock):
        lock.owner = None
    else:
        lock.lock_owner = None  # a page; its flag is put back with the others


class World:
    """``roots``: where everything hangs from. Made while no path is under way."""

    def __init__(self, roots: list[Any], watch: Watch, keys: Keys) -> None:
        self.watch = watch
        self.keys = keys
        self.objects: dict[int, Any] = {}
        for thing in list(self._visit(roots)):
            watch.adopt(thing)
        self.objects.clear()
        self.saved: dict[int, Any] = {}
        self.each_time: list[Callable[[], None]] = []
        self.once_touched: list[Callable[[], None]] = []
        self.learned: set[tuple[int, str]] = set()
        self.keys_seen = 0
        for thing in list(self._visit(roots)):
            keys.adopt(thing)
            self._save(thing)

    def _visit(self, roots: list[Any]) -> Iterator[Any]:
        todo = list(reversed(roots))
        while todo:
            thing = todo.pop()
            if id(thing) in self.objects or not _interesting(thing):
                continue
            self.objects[id(thing)] = thing
            yield thing
            if not isinstance(thing, Lock | RwSem):
                todo += reversed(list(parts(thing)))

    def _save(self, thing: Any) -> None:
        if isinstance(thing, tuple | Lock | RwSem):
            return
        self.saved[id(thing)] = state = state_of(thing)
        watched = type(thing) in SEEN or any(self.watch.fields_of(thing))
        if not watched and not type(thing).__module__.startswith("hwpoison.mm"):
            self.each_time.append(partial(put_back, thing, state))

    def put_back(self) -> None:
        """Before an execution."""
        meaning = self.keys.meaning
        for number, code in meaning[self.keys_seen :]:
            self._learn(number, code)
        self.keys_seen = len(meaning)
        for action in self.each_time:
            action()
        for action in self.once_touched:
            action()

    def _learn(self, number: int, code: Any) -> None:
        """A key that was not known before: put that thing back from now on."""
        thing = self.keys.things[number]
        if thing is None:  # made by an execution, and gone with it
            return
        if type(thing) in SEEN:
            name, action = "contents", partial(put_back, thing, self.saved[id(thing)])
        elif isinstance(code, int) and code >= FIRST_LOCK_CODE:
            if code == WAKE_CODE:
                return
            name, action = "lock", partial(_free, thing)
        else:
            name = self.watch.fields[code >> 2].name if isinstance(code, int) else FLAGS
            field = next(field for field in self.watch.fields_of(thing) if field.name == name)
            if name not in self.saved[id(thing)]:
                return
            action = partial(field.set, thing, self.saved[id(thing)][name])
        if (number, name) not in self.learned:
            self.learned.add((number, name))
            self.once_touched.append(action)

    def differences(self) -> list[str]:
        """What is not as it was, in words: something has changed that nobody watches."""
        return [
            f"{name} of {type(thing).__name__} {thing!r:.60} is {now!r:.60}, was {before!r:.60}"
            for key, thing in self.objects.items()
            if key in self.saved
            for name, now, before in _compare(state_of(thing), self.saved[key])
        ]


def _interesting(thing: Any) -> bool:
    """Can it change, or lead to what can?"""
    if isinstance(thing, CONTAINERS):
        return True
    if isinstance(thing, (*PLAIN, Paths, Path)) or not type(thing).__module__.startswith(OURS):
        return False
    return not frozen(type(thing))


def _compare(now: Any, before: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(now, dict):
        for name in [*now, *(name for name in before if name not in now)]:
            if not _same(now.get(name), before.get(name)):
                yield name, now.get(name), before.get(name)
    elif isinstance(now, set):
        if now != before:
            yield "contents", now, before
    elif len(now) != len(before) or not all(map(_same, now, before)):
        yield "contents", now, before


def _same(one: Any, two: Any) -> bool:
    return one is two or (isinstance(one, (*PLAIN, tuple)) and bool(one == two))
