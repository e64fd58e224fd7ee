"""Anonymous folios between one page and a huge page."""

from __future__ import annotations

from dataclasses import replace

from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, discard, do_mmap
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Task

ORDER = 4


def area(vm: Machine, pages: int = 32) -> tuple[Task, Vma]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), pages, huge=True)
    vma.anon_order = ORDER
    return task, vma


def page_at(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def test_the_first_store_maps_a_folio_page_by_page(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    folio = page_at(task, vma.start).head
    assert (folio.order, folio.large_mapcount, folio.refcount) == (ORDER, 16, 16)
    assert {page_at(task, vma.start + n).head for n in range(16)} == {folio}
    assert task.alive_mm().entry(vma.start + 16) is None
    assert (load(task, vma.start + 5), load(task, vma.start + 6)) == ("five", "zeros")
    vm.lru.add_drain_all()
    assert vm.check() == []


def test_a_load_brings_in_the_page_of_zeros_and_then_no_folio_fits(vm: Machine) -> None:
    task, vma = area(vm)
    load(task, vma.start)
    store(task, vma.start + 5, "five")
    assert page_at(task, vma.start + 5).head.order == 0


def test_no_folio_is_made_across_the_end_of_the_area(vm: Machine) -> None:
    task, vma = area(vm, pages=20)
    store(task, vma.start + 17, "seventeen")
    assert page_at(task, vma.start + 17).head.order == 0


def test_old_kernels_have_single_pages() -> None:
    vm = Machine(traits=replace(Traits(), anon_folios=False))
    task, vma = area(vm)
    store(task, vma.start, "zero")
    assert page_at(task, vma.start).head.order == 0


def test_a_copy_of_a_page_is_a_single_page(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    child = task.fork("child")
    store(child, vma.start + 5, "mine")
    assert page_at(child, vma.start + 5).head.order == 0
    assert page_at(child, vma.start + 6).head is page_at(task, vma.start + 6).head
    vm.lru.add_drain_all()
    assert vm.check() == []


def test_a_folio_goes_with_the_last_of_its_pages(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start, "zero")
    vm.lru.add_drain_all()
    free = len(list(vm.zone.free_pfns()))
    discard(task.alive_mm(), vma, vma.start, vma.start + 16)
    assert len(list(vm.zone.free_pfns())) == free + 16
