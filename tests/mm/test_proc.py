"""What /proc would show of the model, in the bits that a live host uses."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import Page, put_page
from hwpoison.mm.proc import POISON_SWAP_TYPE, page_count, pagemap_entry, stable_page_flags
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.slab import MARKS, kernel_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio


def anonymous(vm: Machine, content: str | None = "x") -> tuple[Task, int, Page]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    load(task, vma.start) if content is None else store(task, vma.start, content)
    vm.lru.add_drain_all()
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return task, vma.start, entry.page


def shown(page: Page) -> set[str]:
    return set(pg.names(stable_page_flags(page.vm, page.pfn)))


def test_an_anonymous_page(vm: Machine) -> None:
    _, _, page = anonymous(vm)
    assert shown(page) == {"UPTODATE", "LRU", "MMAP", "ANON", "SWAPBACKED"}
    assert page_count(page) == 1


def test_a_page_of_the_swap_cache_mapped_or_not(vm: Machine) -> None:
    task, vpn, page = anonymous(vm)
    reclaim_folio(page, drop=False)
    vm.lru.add_drain_all()
    assert shown(page) == {"UPTODATE", "LRU", "ANON", "SWAPCACHE", "SWAPBACKED"}
    load(task, vpn)
    assert shown(page) == {"UPTODATE", "LRU", "ANON", "SWAPCACHE", "SWAPBACKED", "MMAP"}


def test_pages_of_files(vm: Machine) -> None:
    disk, memory = File(vm.create("data", "ext4", 2), "fd"), File(vm.create("shm", "tmpfs", 1), "fd")
    vm.write(disk, 0, "x")
    vm.read(disk, 1)
    vm.write(memory, 0, "x")
    vm.lru.add_drain_all()
    assert shown(disk.inode.mapping.pages[0]) == {"UPTODATE", "DIRTY", "LRU", "PRIVATE"}
    assert shown(disk.inode.mapping.pages[1]) == {"UPTODATE", "LRU", "REFERENCED"}
    assert shown(memory.inode.mapping.pages[0]) == {"UPTODATE", "DIRTY", "LRU", "SWAPBACKED"}


def test_dirt_that_only_a_page_table_knows_of_is_not_shown(vm: Machine) -> None:
    _, _, page = anonymous(vm)
    assert "DIRTY" not in shown(page)


def test_free_pages_show_whether_they_are_in_a_block(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    put_page(page)
    assert shown(page) == set(), "on a CPU's list"
    vm.zone.drain_all_pages()
    assert shown(page) == {"BUDDY"}
    assert pg.names(stable_page_flags(vm, 200)) == ["BUDDY"]
    assert 200 not in vm.zone.pages, "looking makes no page"


def test_the_kernels_own_pages(vm: Machine) -> None:
    expected = {
        "slab": {"SLAB"},
        "reserved": {"RESERVED"},
        "balloon": {"OFFLINE"},
        "vmalloc": set(),
        "driver": set(),
    }
    assert {kind: shown(kernel_page(vm, kind)) for kind in MARKS} == expected
    task, vpn, _ = anonymous(vm)
    assert shown(task.alive_mm().pte_alloc(vpn).page) == {"PGTABLE"}
    assert shown(vm.zero_page) == {"RESERVED", "ZERO_PAGE"}
    assert pg.names(stable_page_flags(vm, 5000)) == ["NOPAGE"]


def test_compound_pages(vm: Machine) -> None:
    head = vm.zone.alloc_pages(1)
    assert shown(head) == {"COMPOUND_HEAD"}
    assert shown(vm.zone.page(head.pfn + 1)) == {"COMPOUND_TAIL"}
    put_page(head)


def test_bad_pages_are_marked_free_or_not(vm: Machine) -> None:
    _, _, page = anonymous(vm)
    for frame in (page, vm.zone.page(100)):
        frame.flags |= pg.HWPOISON
        assert "HWPOISON" in shown(frame)


def test_the_pagemap_of_a_process(vm: Machine) -> None:
    task, vpn, page = anonymous(vm)
    mm = task.alive_mm()
    assert pagemap_entry(mm, vpn) == pagemap.PRESENT | page.pfn
    assert pagemap_entry(mm, vpn + 1) == 0
    reclaim_folio(page)
    assert pagemap_entry(mm, vpn) == pagemap.SWAPPED | 1 << 5
    file = File(vm.create("data", "ext4", 1), "fd")
    vma = do_mmap(mm, 1, file=file, shared=True)
    load(task, vma.start)
    assert pagemap_entry(mm, vma.start) == pagemap.PRESENT | pagemap.FILE | file.inode.mapping.pages[0].pfn


@pytest.mark.parametrize("file", [True, False])
def test_a_poison_entry_looks_like_swap_of_a_type_beyond_all_real_ones(vm: Machine, file: bool) -> None:
    task, vpn, _ = anonymous(vm)
    task.alive_mm().pte_alloc(vpn).entries[vpn + 1] = PoisonPte(9, file=file)
    word = pagemap_entry(task.alive_mm(), vpn + 1)
    assert word == pagemap.SWAPPED | (pagemap.FILE if file else 0) | 9 << 5 | POISON_SWAP_TYPE
    assert pagemap.pfn_of(word) is None
    del task.alive_mm().pte_alloc(vpn).entries[vpn + 1]
