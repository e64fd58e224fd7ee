"""Dicts, lists and sets that note every access in the journal: which key, or the whole of it.

They stand in for the containers of the model while it is explored. A note is two entries: the container, and
a code. Keys of dicts and sets are told apart; a list is one thing. ``ANY`` stands for "which keys there are".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

READ, ADD, WRITE = 0, 1, 2
"""How a thing is touched. Two additions commute; a read does not commute with them; a write with nothing."""
ANY_READ, ANY_ADD, ANY_WRITE = READ, ADD, WRITE
"""Codes of the whole container; a code for one key is the pair (key, how)."""

journal: list[Any] = []
note = journal.append


class SeenDict(dict[Any, Any]):
    """A dict whose order does not matter to the model."""

    __slots__ = ()

    def _added(self, key: Any) -> None:
        note(self)
        note((key, WRITE))
        note(self)
        note(ANY_ADD)

    def _whole(self) -> None:
        note(self)
        note(ANY_READ)

    def __getitem__(self, key: Any) -> Any:
        note(self)
        note((key, READ))
        return dict.__getitem__(self, key)

    def get(self, key: Any, default: Any = None) -> Any:
        note(self)
        note((key, READ))
        return dict.get(self, key, default)

    def __contains__(self, key: object) -> bool:
        note(self)
        note((key, READ))
        return dict.__contains__(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._added(key)
        dict.__setitem__(self, key, seen(value))

    def __delitem__(self, key: Any) -> None:
        self._added(key)
        dict.__delitem__(self, key)

    def pop(self, key: Any, *default: Any) -> Any:
        self._added(key)
        return dict.pop(self, key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if dict.__contains__(self, key):
            note(self)
            note((key, READ))
            return dict.__getitem__(self, key)
        self[key] = default
        return dict.__getitem__(self, key)

    def popitem(self) -> tuple[Any, Any]:
        self._whole()
        key = next(reversed(dict.keys(self)))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in dict.keys(self):
            self._added(key)
        dict.clear(self)

    def update(self, *others: Any, **named: Any) -> None:
        for key, value in dict(*others, **named).items():
            self[key] = value

    def __iter__(self) -> Iterator[Any]:
        self._whole()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[Any]:
        self._whole()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._whole()
        return dict.__len__(self)

    def __eq__(self, other: object) -> bool:
        self._whole()
        return dict.__eq__(self, other)

    __hash__ = None

    def keys(self) -> Any:
        self._whole()
        return dict.keys(self)

    def values(self) -> Any:
        self._whole()
        return dict.values(self)

    def items(self) -> Any:
        self._whole()
        return dict.items(self)

    def copy(self) -> dict[Any, Any]:
        self._whole()
        return dict(dict.items(self))


class OrderedSeenDict(SeenDict):
    """A dict of which somebody takes the first key: the order of additions matters."""

    __slots__ = ()

    def _added(self, key: Any) -> None:
        note(self)
        note((key, WRITE))
        note(self)
        note(ANY_WRITE)


class SeenSet(set[Any]):
    __slots__ = ()

    def _changed(self, item: Any) -> None:
        note(self)
        note((item, WRITE))
        note(self)
        note(ANY_ADD)

    def _whole(self) -> None:
        note(self)
        note(ANY_READ)

    def add(self, item: Any) -> None:
        self._changed(item)
        set.add(self, item)

    def discard(self, item: Any) -> None:
        self._changed(item)
        set.discard(self, item)

    def remove(self, item: Any) -> None:
        self._changed(item)
        set.remove(self, item)

    def pop(self) -> Any:
        self._whole()
        item = next(set.__iter__(self))
        self.remove(item)
        return item

    def clear(self) -> None:
        for item in list(set.__iter__(self)):
            self.remove(item)

    def update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for item in other:
                self.add(item)

    def __contains__(self, item: object) -> bool:
        note(self)
        note((item, READ))
        return set.__contains__(self, item)

    def __iter__(self) -> Iterator[Any]:
        self._whole()
        return set.__iter__(self)

    def __len__(self) -> int:
        self._whole()
        return set.__len__(self)

    def __eq__(self, other: object) -> bool:
        self._whole()
        return set.__eq__(self, other)

    def __or__(self, other: Any) -> set[Any]:
        self._whole()
        return set.union(self, other)

    __ror__ = __or__

    def __and__(self, other: Any) -> set[Any]:
        self._whole()
        return set.intersection(self, other)

    __rand__ = __and__

    def __sub__(self, other: Any) -> set[Any]:
        self._whole()
        return set.difference(self, other)

    def __rsub__(self, other: Any) -> set[Any]:
        self._whole()
        return set(other).difference(self)

    def copy(self) -> set[Any]:
        self._whole()
        return set(set.__iter__(self))

    __hash__ = None


class SeenList(list[Any]):
    __slots__ = ()

    def _read(self) -> None:
        note(self)
        note(ANY_READ)

    def _written(self) -> None:
        note(self)
        note(ANY_WRITE)

    def append(self, item: Any) -> None:
        self._written()
        list.append(self, seen(item))

    def extend(self, items: Iterable[Any]) -> None:
        self._written()
        list.extend(self, items)

    def insert(self, index: SupportsIndex, item: Any) -> None:
        self._written()
        list.insert(self, index, item)

    def remove(self, item: Any) -> None:
        self._written()
        list.remove(self, item)

    def pop(self, index: SupportsIndex = -1) -> Any:
        self._written()
        return list.pop(self, index)

    def clear(self) -> None:
        self._written()
        list.clear(self)

    def sort(self, **how: Any) -> None:
        self._written()
        list.sort(self, **how)

    def __setitem__(self, index: Any, item: Any) -> None:
        self._written()
        list.__setitem__(self, index, item)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        self._written()
        list.__delitem__(self, index)

    def __iadd__(self, items: Iterable[Any]) -> SeenList:  # type: ignore[misc]
        self.extend(items)
        return self

    def __getitem__(self, index: Any) -> Any:
        self._read()
        return list.__getitem__(self, index)

    def __iter__(self) -> Iterator[Any]:
        self._read()
        return list.__iter__(self)

    def __len__(self) -> int:
        self._read()
        return list.__len__(self)

    def __contains__(self, item: object) -> bool:
        self._read()
        return list.__contains__(self, item)

    def __add__(self, other: Any) -> list[Any]:
        return [*self, *other]

    def copy(self) -> list[Any]:
        return list(self)

    def __eq__(self, other: object) -> bool:
        self._read()
        return list.__eq__(self, other)

    __hash__ = None


class SeenDeque(deque[Any]):
    def _written(self) -> None:
        note(self)
        note(ANY_WRITE)

    def append(self, item: Any) -> None:
        self._written()
        deque.append(self, item)

    def popleft(self) -> Any:
        self._written()
        return deque.popleft(self)

    def __len__(self) -> int:
        note(self)
        note(ANY_READ)
        return deque.__len__(self)

    def __iter__(self) -> Iterator[Any]:
        note(self)
        note(ANY_READ)
        return deque.__iter__(self)


SEEN = (SeenDict, OrderedSeenDict, SeenList, SeenSet, SeenDeque)


def seen(value: Any, *, ordered: bool = False) -> Any:
    """The same contents in a container that notes; anything else as it is."""
    kind = type(value)
    if kind is dict:
        inner = {key: seen(item, ordered=ordered) for key, item in value.items()}
        return OrderedSeenDict(inner) if ordered else SeenDict(inner)
    if kind is list:
        return SeenList([seen(item, ordered=ordered) for item in value])
    if kind is set:
        return SeenSet(value)
    if kind is deque:
        return SeenDeque(value)
    return value
