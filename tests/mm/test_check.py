"""The books find each thing that does not balance: one tampered figure, one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Lock
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.pte import Pte
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite


@dataclass
class Books:
    """A machine with something of everything; it will be tampered with, so nothing checks it at the end."""

    vm: Machine
    file: File
    anon: Page
    cached: Page
    slot: int


@pytest.fixture
def books() -> Books:
    vm = Machine(swap_slots=4)
    file = File(vm.create("data", "ext4", 2), "fd")
    vm.write(file, 0, "x")
    vm.read(file, 1)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 3)
    store(task, vma.start, "kept")
    store(task, vma.start + 1, "swapped")
    load(task, vma.start + 2)
    task.fork()
    entries = task.alive_mm().pte_alloc(vma.start).entries
    anon, out = (
        entry.page for entry in (entries[vma.start], entries[vma.start + 1]) if isinstance(entry, Pte)
    )
    assert reclaim_folio(out)
    vm.lru.add_drain_all()
    assert vm.check() == []
    (slot,) = vm.swap.count
    return Books(vm, file, anon, file.inode.mapping.pages[0], slot)


def map_once_more(books: Books) -> None:
    books.anon.mapcount += 1


def hold_one_less(books: Books) -> None:
    books.anon.refcount -= 1


def hold_one_more(books: Books) -> None:
    books.cached.refcount += 1


def free_twice(books: Books) -> None:
    books.vm.zone.pcp[1] = [books.vm.zone.page(next(books.vm.zone.free_pfns()))]


def free_in_use(books: Books) -> None:
    books.vm.zone.free_area[0][books.anon.pfn] = None


def unlist(books: Books) -> None:
    del books.vm.lru.pages[books.anon.pfn]


def unmark(books: Books) -> None:
    books.anon.flags &= ~pg.LRU


def name_a_slot_twice(books: Books) -> None:
    books.vm.swap.count[books.slot] += 1


def free_a_named_slot(books: Books) -> None:
    del books.vm.swap.count[books.slot]


def move_a_page(books: Books) -> None:
    books.cached.index = 7


def put_a_page_in_two_places(books: Books) -> None:
    books.file.inode.mapping.pages[5] = books.cached


def clean_without_the_tag(books: Books) -> None:
    books.cached.flags &= ~pg.DIRTY


def tag_without_dirt(books: Books) -> None:
    books.file.inode.mapping.dirty.add(1)


def keep_a_lock(books: Books) -> None:
    Lock(books.vm.paths, "ptl", "mine").acquire()


@pytest.mark.parametrize(
    ("tamper", "text"),
    [
        (map_once_more, "has map count 3, 2 entries map it"),
        (hold_one_less, "has refcount 1, its users hold 2"),
        (hold_one_more, "has refcount 3, but its users hold only 2"),
        (free_twice, "is in the free lists 2 times"),
        (free_in_use, "is free with refcount 2, map count 2"),
        (unlist, "has PG_lru but is not listed"),
        (unmark, "lacks PG_lru but is listed"),
        (name_a_slot_twice, "swap slot 1 has count 3, 2 entries name it"),
        (free_a_named_slot, "swap slot 1 is named by 2 entries but free"),
        (move_a_page, "is at data:0 but points elsewhere"),
        (put_a_page_in_two_places, "is at data:5 and at data:0"),
        (clean_without_the_tag, "at data:0 disagrees with its dirty tag"),
        (tag_without_dirt, "at data:1 disagrees with its dirty tag"),
        (keep_a_lock, "main still holds ptl(mine)"),
    ],
)
def test_a_figure_that_was_tampered_with_is_found(
    books: Books, tamper: Callable[[Books], None], text: str
) -> None:
    tamper(books)
    assert any(text in line for line in books.vm.check()), books.vm.check()


def test_pins_and_holds_that_are_known_are_no_imbalance(books: Books) -> None:
    task = next(iter(books.vm.tasks.values()))
    page = pin_user_page(task, task.alive_mm().vmas[0].start)
    assert books.vm.check() == []
    unpin_user_page(page)
    get_page(books.cached)
    books.vm.held.add(books.cached.pfn)
    assert books.vm.check() == []


def test_a_write_under_way_is_no_imbalance(books: Books) -> None:
    books.vm.disk.held = True
    filemap_fdatawrite(books.file.inode.mapping)
    assert books.vm.check() == []


def test_a_page_that_nobody_knows_of_any_more_is_found(books: Books) -> None:
    """A leak: an anonymous page with a reference, and no entry, cache or batch that explains it."""
    task = next(iter(books.vm.tasks.values()))
    vma = task.alive_mm().vmas[0]
    store(task, vma.start, "own")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    get_page(entry.page)
    for leader in books.vm.tasks.values():
        leader.exit()
    books.vm.lru.add_drain_all()
    assert any(f"{entry.page}" in line for line in books.vm.check())
    put_page(entry.page)
