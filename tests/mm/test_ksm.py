"""Merging equal pages: who maps what then, how a store breaks one off, what ksmd does about bad ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.ksm import madvise_mergeable
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine, Panic, Traits
from hwpoison.mm.madvise import madvise_free
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.proc import stable_page_flags
from hwpoison.mm.pte import PoisonPte, Pte, SwapPte
from hwpoison.mm.rmap import TTU_HWPOISON, StableNode, try_to_unmap
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio

Place = tuple[Task, Vma]


def place(vm: Machine, content: str, *, pages: int = 1) -> Place:
    """A process with an area that may be merged, filled with one content."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), pages)
    for vpn in range(vma.start, vma.end):
        store(task, vpn, content)
    madvise_mergeable(vma, on=True)
    return task, vma


def mapped(where: Place, number: int = 0) -> Page:
    task, vma = where
    entry = task.alive_mm().entry(vma.start + number)
    assert isinstance(entry, Pte)
    return entry.page


def merged_pair(vm: Machine, content: str = "same") -> tuple[Place, Place]:
    first, second = place(vm, content), place(vm, content)
    vm.ksm.run()
    return first, second


def test_equal_pages_become_one(vm: Machine) -> None:
    first, second, other = place(vm, "same"), place(vm, "same"), place(vm, "other")
    vm.ksm.run()
    page = mapped(first)
    assert mapped(second) is page
    assert isinstance(page.mapping, StableNode)
    assert page.mapcount == 2
    assert mapped(other) is not page
    vm.lru.add_drain_all()
    assert stable_page_flags(vm, page.pfn) & pg.KSM


def test_a_third_equal_page_joins_the_merged_one(vm: Machine) -> None:
    first, _second = merged_pair(vm)
    third = place(vm, "same")
    vm.ksm.run()
    assert mapped(third) is mapped(first)
    assert mapped(first).mapcount == 3


def test_an_area_that_did_not_ask_is_left_alone(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "same")
    merged_pair(vm)
    assert mapped((task, vma)).mapcount == 1


def test_a_store_breaks_a_page_off(vm: Machine) -> None:
    first, second = merged_pair(vm)
    store(first[0], first[1].start, "mine")
    assert load(second[0], second[1].start) == "same"
    assert mapped(first).mapping is not mapped(second).mapping


def test_the_last_user_of_a_merged_page_copies_it_all_the_same(vm: Machine) -> None:
    """It cannot be written in place: the stable tree may offer it to others at any time."""
    first, second = merged_pair(vm)
    munmap(second[0].alive_mm(), second[1])
    page = mapped(first)
    store(first[0], first[1].start, "mine")
    assert mapped(first) is not page


@pytest.mark.parametrize("held_one", [0, 1])
def test_a_page_that_somebody_holds_is_not_merged(vm: Machine, held_one: int) -> None:
    """A pipe or a device would go on with bytes that a store cannot reach any more."""
    places = [place(vm, "same"), place(vm, "same")]
    vm.lru.add_drain_all()
    page = mapped(places[held_one])
    get_page(page)
    vm.held.add(page.pfn)
    vm.ksm.run()
    assert mapped(places[held_one]) is page
    assert page.mapcount == 1
    assert not isinstance(page.mapping, StableNode)
    vm.held.clear()
    put_page(page)


@pytest.mark.parametrize("unshares", [True, False])
def test_taking_pages_apart_gives_everybody_his_own(machine: Callable[..., Machine], unshares: bool) -> None:
    """Since 6.2 without a write fault, so that the copy is clean."""
    vm = machine(traits=Traits(unshares_merged_pages=unshares))
    first, second = merged_pair(vm)
    madvise_mergeable(first[1], on=False)
    assert mapped(first).mapcount == mapped(second).mapcount == 1
    assert load(first[0], first[1].start) == "same"
    entry = first[0].alive_mm().entry(first[1].start)
    assert isinstance(entry, Pte)
    assert entry.dirty is not unshares


def test_the_reverse_map_finds_forks_of_those_who_were_merged(vm: Machine) -> None:
    first, second = merged_pair(vm)
    child = first[0].fork("child")
    page = mapped(first)
    assert page.mapcount == 3
    page.flags |= pg.HWPOISON
    get_page(page)
    try_to_unmap(page, TTU_HWPOISON)
    assert not page.mapped
    for task, vma in (first, second, (child, first[1])):
        assert isinstance(task.alive_mm().entry(vma.start), PoisonPte)


def unmapped_as_bad(where: Place) -> Page:
    """What the handler leaves behind: poison entries, and a reference for ever."""
    page = mapped(where)
    page.flags |= pg.HWPOISON
    get_page(page)
    try_to_unmap(page, TTU_HWPOISON)
    return page


def test_a_bad_page_whose_list_is_empty_gets_no_more_users(vm: Machine) -> None:
    first, _second = merged_pair(vm)
    bad = unmapped_as_bad(first)
    third, fourth = place(vm, "same"), place(vm, "same")
    vm.ksm.run()
    assert mapped(third) is mapped(fourth)
    assert mapped(third) is not bad


@pytest.mark.parametrize("skips", [True, False])
def test_a_changed_page_is_merged_into_a_bad_one_only_up_to_6_10(
    machine: Callable[..., Machine], skips: bool
) -> None:
    """Since then it is looked at twice, and the first pass empties the list of the bad page."""
    vm = machine(traits=Traits(skips_changed_pages=skips))
    early = place(vm, "nothing yet")
    first, _second = merged_pair(vm)
    bad = unmapped_as_bad(first)
    store(early[0], early[1].start, "same")
    vm.ksm.run()
    assert (mapped(early) is bad) is not skips
    early[0].exit()


def test_a_page_that_was_held_until_now_is_merged_into_a_bad_one(vm: Machine) -> None:
    """It has been looked at before, so the next pass takes it: before the list of the bad page is emptied."""
    early = place(vm, "nothing yet")
    first, _second = merged_pair(vm)
    store(early[0], early[1].start, "same")
    vm.lru.add_drain_all()
    held = mapped(early)
    get_page(held)
    vm.held.add(held.pfn)
    vm.ksm.run()
    assert mapped(early) is held
    bad = unmapped_as_bad(first)
    vm.held.clear()
    put_page(held)
    vm.ksm.run()
    assert mapped(early) is bad
    early[0].exit()


def test_ksmd_reads_a_bad_page_to_compare_it() -> None:
    """With a real error the machine stops there: the comparison is no copy that could be given up."""
    vm = Machine()
    first, _second = merged_pair(vm)
    bad = mapped(first)
    vm.strike(bad.pfn, hardware=True)
    place(vm, "same")
    with pytest.raises(Panic, match="consumed by the kernel"):
        vm.ksm.run()


def test_the_node_of_a_page_that_was_freed_is_pruned(vm: Machine) -> None:
    for task, _vma in merged_pair(vm):
        task.exit()
    assert len(vm.ksm.stable) == 1
    place(vm, "same")
    vm.ksm.run()
    assert vm.ksm.stable == []


def test_reclaim_takes_a_merged_page_from_all_who_map_it(vm: Machine) -> None:
    first, second = merged_pair(vm)
    assert reclaim_folio(mapped(first))
    for task, vma in (first, second):
        assert isinstance(task.alive_mm().entry(vma.start), SwapPte)
        assert load(task, vma.start) == "same"


class Anybody:
    """Now and then somebody else goes on, as the dice fall."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice

    def choose(self, ready: Sequence[Path], running: Path, _op: Op, _on: object) -> Path:
        return running if running in ready and self.dice.random() < 0.7 else self.dice.choice(ready)


@pytest.mark.parametrize("seed", range(60))
def test_scans_stores_migration_and_unmerging_may_meet_in_any_order(vm: Machine, seed: int) -> None:
    """Above all a store between the write protection of a page and its replacement."""
    dice = Random(seed)
    places = [place(vm, "same") for _ in range(3)]
    if dice.random() < 0.6:
        vm.ksm.run()

    def touch(where: Place) -> None:
        task, vma = where
        store(task, vma.start, dice.choice(["same", "other"]))
        load(task, vma.start)

    jobs: list[Callable[[], object]] = [
        lambda: vm.ksm.run(2),
        lambda: touch(places[0]),
        lambda: touch(places[1]),
        lambda: move_page_of(places[1][0].alive_mm(), places[1][1].start),
        lambda: madvise_free(places[2][0].alive_mm(), places[2][1].start),
        lambda: madvise_mergeable(places[2][1], on=False),
    ]
    dice.shuffle(jobs)
    vm.paths.chooser = Anybody(dice)
    vm.paths.join(*[vm.paths.spawn(f"job {number}", job) for number, job in enumerate(jobs[:4])])
    vm.paths.chooser = None
    assert {load(task, vma.start) for task, vma in places} <= {"same", "other"}
