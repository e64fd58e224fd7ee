"""What is watched: the model's changing attributes, flags bit by bit, and the entries of its containers."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.explore.containers import READ, WRITE, journal, seen
from hwpoison.explore.explorer import UNTESTED
from hwpoison.explore.footprint import Footprint, Keys
from hwpoison.explore.race import model_modules
from hwpoison.explore.toy import Word
from hwpoison.explore.watch import Bits, KeptFlags, Watch, clock
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import Page, set_flags

WATCH = Watch(model_modules())


@pytest.fixture
def page() -> Page:
    return Machine(frames=16).zone.page(3)


def touched(action: Callable[[], object]) -> list[Any]:
    """The notes of an action."""
    journal.clear()
    action()
    notes = list(journal)
    journal.clear()
    return notes


def test_every_class_of_the_model_that_changes_is_watched() -> None:
    watched = {cls.__name__: {field.name for field in fields} for cls, fields in WATCH.by_class.items()}
    assert {"flags", "refcount", "mapcount", "mapping", "index", "private", "content"} <= watched["Page"]
    assert {"entries"} <= watched["PageTable"]
    assert {"pages", "dirty", "swap_entries", "i_mmap"} <= watched["AddressSpace"]
    assert {"cache", "count", "contents"} <= watched["SwapArea"]
    assert {"mm", "pending", "received", "exited"} <= watched["Task"]
    assert {"dirty", "writable"} <= watched["Pte"]
    assert "pfn" not in watched["Page"]


def test_a_read_and_a_write_of_an_attribute_are_noted(page: Page) -> None:
    with WATCH.watching():
        (thing, code) = touched(lambda: page.refcount)
        assert (thing, code & 3) == (page, READ)
        (thing, code) = touched(lambda: setattr(page, "mapping", None))
        assert (thing, code & 3) == (page, WRITE)


def test_nothing_is_noted_when_nobody_watches(page: Page) -> None:
    assert touched(lambda: page.refcount) == []


def test_flags_are_noted_bit_by_bit(page: Page) -> None:
    keys = Keys()
    keys.adopt(page)

    def footprint(action: Callable[[], object]) -> Footprint:
        journal.clear()
        action()
        made = keys.footprint(journal, 0, set())
        journal.clear()
        return made

    with WATCH.watching():
        set_dirty = footprint(lambda: set_flags(page, pg.DIRTY))
        dirty = footprint(lambda: page.flags & pg.DIRTY)
        other = footprint(lambda: page.flags & pg.LRU)
        both = footprint(lambda: page.flags & (pg.LRU | pg.DIRTY))
        whole = footprint(lambda: int(page.flags))
        set_again = footprint(lambda: set_flags(page, pg.DIRTY))
        set_lru = footprint(lambda: set_flags(page, pg.LRU))
    conflicts = [one.conflicts(set_dirty) for one in (dirty, other, both, whole, set_again, set_lru)]
    assert conflicts == [True, False, True, True, True, False]


def test_flags_that_are_kept_across_a_point_are_an_error(page: Page) -> None:
    with WATCH.watching():
        kept = page.flags
        clock.now += 1
        with pytest.raises(KeptFlags, match=r"int\(page.flags\)"):
            assert kept & pg.DIRTY


def test_flags_do_what_a_number_does() -> None:
    clock.now = 0
    flags = Bits((None, 6, 0))
    assert [flags & 2, 2 & flags, flags | 1, 1 | flags, flags ^ 2, int(flags), bool(flags), flags == 6] == [
        2, 2, 7, 7, 4, 6, True, True,
    ]  # fmt: skip
    journal.clear()


@pytest.mark.parametrize(
    ("start", "action"),
    [
        ({1: 2}, lambda it: it[1]),
        ({1: 2}, lambda it: it.get(3)),
        ({1: 2}, lambda it: 1 in it),
        ({1: 2}, lambda it: it.update({3: 4})),
        ({1: 2}, lambda it: it.pop(1)),
        ({1: 2}, lambda it: it.pop(5, None)),
        ({1: 2}, lambda it: it.setdefault(1, 9)),
        ({1: 2}, lambda it: it.setdefault(3, 9)),
        ({1: 2, 3: 4}, lambda it: it.popitem()),
        ({1: 2, 3: 4}, lambda it: it.clear()),
        ({1: 2}, sorted),
        ({1: 2}, lambda it: list(it.items())),
        ({1: 2}, dict),
        ({1: 2}, lambda it: it.copy()),
        ({1: 2}, len),
        ({1: 2}, lambda it: it == {1: 2}),
        ([1, 2], lambda it: it.append(3)),
        ([1, 2], lambda it: it.pop()),
        ([1, 2], lambda it: it.remove(1)),
        ([1, 2], lambda it: it.insert(0, 7)),
        ([1, 2], lambda it: it.__add__([3])),
        ([2, 1], lambda it: it.sort()),
        ([1, 2], list),
        ([1, 2], lambda it: it[0]),
        ([1, 2], lambda it: 2 in it),
        ([1, 2], lambda it: it.clear()),
        ({1, 2}, lambda it: it.add(3)),
        ({1, 2}, lambda it: it.discard(1)),
        ({1, 2}, lambda it: it.remove(1)),
        ({1, 2}, sorted),
        ({1, 2}, lambda it: it | {4}),
        ({1, 2}, lambda it: it & {1}),
        ({1, 2}, lambda it: it - {1}),
        ({1, 2}, lambda it: it.update([7, 8])),
    ],
)
def test_a_container_that_notes_does_what_a_plain_one_does(start: Any, action: Callable[[Any], Any]) -> None:
    plain = start.copy()
    noting = seen(start.copy())
    journal.clear()
    assert action(noting) == action(plain)
    assert journal != []
    assert noting == plain
    journal.clear()


def test_containers_of_new_objects_note_as_well() -> None:
    from hwpoison.explore.engine import Engine

    watch = Watch([sys.modules[Word.__module__]])
    with watch.watching():
        word = Word(Engine(), "new")
        assert touched(lambda: word.table.get(1)) != []
        assert touched(lambda: word.items.append(1)) != []


def test_counters_of_which_nobody_looks_at_the_result_are_those(sources: dict[str, ast.Module]) -> None:
    """Or orders of changes that decide something would be taken for one."""
    model = [
        tree
        for path, tree in sources.items()
        if path.startswith(("src/hwpoison/mm/", "src/hwpoison/failure/"))
    ]
    alone = {id(node.value) for tree in model for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    used = {
        ast.literal_eval(node.args[1])
        for tree in model
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("atomic_add", "atomic_add_unless_zero")
        and isinstance(node.args[1], ast.Constant)
        and id(node) not in alone
    }
    assert used & UNTESTED == set()


def test_the_model_sets_no_attribute_by_a_name_that_is_computed(sources: dict[str, ast.Module]) -> None:
    """Or the explorer would not know that it can change; the primitives name theirs."""
    found = [
        path
        for path, tree in sources.items()
        if path.startswith(("src/hwpoison/mm/", "src/hwpoison/failure/")) and not path.endswith("mm/locks.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("setattr", "vars")
    ]
    assert found == []
