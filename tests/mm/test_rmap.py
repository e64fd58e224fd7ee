"""Reverse maps: every entry that maps a page is found, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg
from hwpoison.mm.check import page_users
from hwpoison.mm.inode import AddressSpace, File
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, locked
from hwpoison.mm.pte import PoisonPte, Pte, SwapPte
from hwpoison.mm.rmap import (
    TTU_HWPOISON,
    TTU_IGNORE_MLOCK,
    AnonVma,
    areas,
    folio_mkclean,
    page_mapped_in_vma,
    rmap_walk,
    try_to_unmap,
    unmap_mapping_folio,
)
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio

from .conftest import mapped


def found(page: Page) -> list[tuple[str, int]]:
    """Who maps the page, as the reverse map finds it."""
    users: list[tuple[str, int]] = []

    def visit(vma: Vma, vpn: int, table: object, entry: Pte) -> bool:
        users.append((vma.mm.name, vpn))
        return True

    with locked(page):
        rmap_walk(page, visit)
    return users


def anonymous(vm: Machine) -> tuple[Task, int]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 3)
    store(task, vma.start, "x")
    return task, vma.start


# Anonymous pages.


def test_three_generations_are_found_oldest_first(vm: Machine) -> None:
    task, vpn = anonymous(vm)
    child = task.fork()
    grandchild = child.fork()
    page = mapped(task, vpn)
    assert found(page) == [(member.alive_mm().name, vpn) for member in (task, child, grandchild)]
    store(child, vpn, "own")
    assert found(page) == [(member.alive_mm().name, vpn) for member in (task, grandchild)]
    assert found(mapped(child, vpn)) == [(child.alive_mm().name, vpn)]
    child.exit()
    task.exit()
    assert found(page) == [(grandchild.alive_mm().name, vpn)]


def test_a_page_made_after_the_fork_is_not_looked_for_among_ancestors(vm: Machine) -> None:
    task, vpn = anonymous(vm)
    child = task.fork()
    store(child, vpn + 1, "late")
    page = mapped(child, vpn + 1)
    assert isinstance(page.mapping, AnonVma)
    assert [vma.mm for vma, _ in areas(page.mapping, page.index)] == [child.mm]
    grandchild = child.fork()
    assert found(page) == [(child.alive_mm().name, vpn + 1), (grandchild.alive_mm().name, vpn + 1)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("drop", [True, False])
def test_a_page_that_comes_back_from_swap_is_found_at_all_relatives(
    vm: Machine, order: tuple[int, ...], drop: bool
) -> None:
    """__folio_set_anon(): whoever brings it back first, it belongs to the oldest of their reverse maps."""
    task, vpn = anonymous(vm)
    child = task.fork()
    family = [task, child, child.fork()]
    reclaim_folio(mapped(task, vpn), drop=drop)
    for number in order:
        load(family[number], vpn)
    assert sorted(found(mapped(task, vpn))) == sorted((member.alive_mm().name, vpn) for member in family)


def test_a_page_that_came_back_outlives_the_one_who_brought_it(vm: Machine) -> None:
    task, vpn = anonymous(vm)
    child = task.fork()
    reclaim_folio(mapped(task, vpn))
    load(child, vpn)
    child.exit()
    assert load(task, vpn) == "x"
    assert found(mapped(task, vpn)) == [(task.alive_mm().name, vpn)]


@given(
    st.lists(
        st.tuples(st.sampled_from(["fork", "store", "exit", "out", "in"]), st.integers(0, 5)), max_size=14
    )
)
def test_the_reverse_map_of_a_random_family_finds_exactly_who_maps_the_page(
    steps: list[tuple[str, int]],
) -> None:
    """Against the page tables themselves."""
    vm = Machine(swap_slots=8)
    task, vpn = anonymous(vm)
    family = [task]
    for what, number in steps:
        if not family:
            break
        member = family[number % len(family)]
        if what == "fork" and len(family) < 6:
            family.append(member.fork())
        elif what == "store":
            store(member, vpn, f"by {member.pid}")
        elif what == "exit":
            member.exit()
            family.remove(member)
        elif what == "out" and isinstance(member.alive_mm().entry(vpn), Pte):
            reclaim_folio(mapped(member, vpn), drop=bool(number & 1))
        elif what == "in":
            load(member, vpn)
        for page in vm.zone.pages.values():
            if page.anon:
                assert sorted(found(page)) == sorted(page_users(vm, page))
        assert vm.check() == []


# Pages of files.


def file_with_users(vm: Machine) -> tuple[File, list[tuple[Task, Vma]]]:
    file = File(vm.create("data", "ext4", 4), "fd")
    users = []
    for comm, pgoff, shared in (("one", 0, True), ("two", 2, True), ("three", 2, False)):
        task = vm.new_task(comm)
        users.append((task, do_mmap(task.alive_mm(), 2, file=file, pgoff=pgoff, shared=shared)))
    return file, users


def test_a_page_of_a_file_is_found_where_an_area_covers_and_maps_it(vm: Machine) -> None:
    file, ((one, first), (two, second), (three, third)) = file_with_users(vm)
    load(one, first.start)
    load(two, second.start)
    load(three, third.start)
    mapping = file.inode.mapping
    assert found(mapping.pages[0]) == [(one.alive_mm().name, first.start)]
    assert found(mapping.pages[2]) == [
        (two.alive_mm().name, second.start),
        (three.alive_mm().name, third.start),
    ]
    store(three, third.start, "mine")
    assert found(mapping.pages[2]) == [(two.alive_mm().name, second.start)]
    assert found(mapped(three, third.start)) == [(three.alive_mm().name, third.start)]
    munmap(two.alive_mm(), second)
    assert found(mapping.pages[2]) == []


def test_covering_is_not_mapping(vm: Machine) -> None:
    file, ((one, first), (two, second), _) = file_with_users(vm)
    load(one, first.start + 1)
    page = file.inode.mapping.pages[1]
    assert isinstance(page.mapping, AddressSpace)
    assert [vma.mm for vma, _ in areas(page.mapping, 1)] == [one.mm]
    assert page_mapped_in_vma(page, first, first.start + 1)
    assert not page_mapped_in_vma(page, first, first.start)
    assert not page_mapped_in_vma(page, second, second.start)
    assert two.alive_mm().tables == {}, "looking makes no page tables"


def test_cleaning_takes_dirt_and_write_permission_from_shared_entries(vm: Machine) -> None:
    file, (_, (two, second), (three, third)) = file_with_users(vm)
    load(three, third.start)
    store(two, second.start, "x")
    page = file.inode.mapping.pages[2]
    with locked(page):
        assert folio_mkclean(page)
        assert not folio_mkclean(page)
    entry = two.alive_mm().entry(second.start)
    assert isinstance(entry, Pte)
    assert not entry.dirty
    assert not entry.writable


def test_unmapping_a_file_page_takes_all_entries_and_keeps_what_they_knew(vm: Machine) -> None:
    file, (_, (two, second), (three, third)) = file_with_users(vm)
    load(three, third.start)
    store(two, second.start, "x")
    page = file.inode.mapping.pages[2]
    page.flags &= ~pg.DIRTY
    file.inode.mapping.dirty.clear()
    with locked(page):
        unmap_mapping_folio(page)
    assert not page.mapped
    assert page.flags & pg.DIRTY
    assert file.inode.mapping.dirty == {2}


# try_to_unmap().


@pytest.mark.parametrize("fs", ["ext4", "tmpfs", None])
def test_poison_entries_are_left_only_for_a_bad_page_and_only_if_asked_for(
    vm: Machine, fs: str | None
) -> None:
    for bad, asked in ((True, True), (True, False), (False, True)):
        file = File(vm.create(f"data {bad} {asked}", fs, 1), "fd") if fs else None
        task = vm.new_task("app")
        vma = do_mmap(task.alive_mm(), 1, file=file, shared=file is not None)
        store(task, vma.start, "x")
        page = mapped(task, vma.start)
        if bad:
            page.flags |= pg.HWPOISON
        with locked(page):
            try_to_unmap(page, TTU_HWPOISON if asked else 0)
        entry = task.alive_mm().entry(vma.start)
        if bad and asked:
            assert entry == PoisonPte(page.pfn, file=fs is not None)
            assert page.flags & pg.DIRTY, "the dirt of the entry moves to the page"
        else:
            assert entry is None if fs else isinstance(entry, Pte), "an anonymous page has nowhere to go"


def test_a_page_of_the_swap_cache_leaves_swap_entries(vm: Machine) -> None:
    task, vpn = anonymous(vm)
    page = mapped(task, vpn)
    reclaim_folio(page, drop=False)
    load(task, vpn)
    page.flags |= pg.HWPOISON
    with locked(page):
        try_to_unmap(page, 0)
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, SwapPte)
    assert entry.entry == page.private
    assert vm.swap.count[entry.entry] == 1


@pytest.mark.parametrize("ignore", [True, False])
def test_an_area_locked_in_memory_keeps_its_entry_unless_that_is_ignored(vm: Machine, ignore: bool) -> None:
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    mlock(task.alive_mm(), vma)
    page = mapped(task, vma.start)
    with locked(page):
        try_to_unmap(page, TTU_IGNORE_MLOCK if ignore else 0)
    assert page.mapped != ignore
    vm.lru.add_drain_all()
    assert bool(page.flags & pg.MLOCKED) != ignore


def test_a_walk_stops_when_told(vm: Machine) -> None:
    task, vpn = anonymous(vm)
    task.fork()
    seen = []
    page = mapped(task, vpn)
    with locked(page):
        rmap_walk(page, lambda vma, *_: bool(seen.append(vma)))
    assert len(seen) == 1


def test_a_mapping_that_the_reverse_map_does_not_know_is_a_bug(vm: Machine) -> None:
    file, ((one, first), *_) = file_with_users(vm)
    load(one, first.start)
    page = file.inode.mapping.pages[0]
    page.mapcount += 1
    with locked(page), pytest.raises(KernelBug, match="still mapped 1 times"):
        unmap_mapping_folio(page)
    page.mapcount = 0
