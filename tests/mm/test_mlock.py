"""mlock(2): pages are brought in and stay; counting them is tested with the lists (test_lru.py)."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.vmscan import reclaim_folio


def test_locking_brings_every_page_in(vm: Machine) -> None:
    """__mm_populate(): private ones as by a store, so that a later store meets no fault."""
    task = vm.new_task("app")
    file = File(vm.create("data", "ext4", 2), "fd")
    private, shared = do_mmap(task.alive_mm(), 2), do_mmap(task.alive_mm(), 2, file=file, shared=True)
    load(task, private.start)
    for vma in (private, shared):
        mlock(task.alive_mm(), vma)
        for vpn in range(vma.start, vma.end):
            entry = task.alive_mm().entry(vpn)
            assert isinstance(entry, Pte)
            assert entry.page is not vm.zero_page
            assert entry.page.flags & pg.MLOCKED
            assert entry.writable == (vma is private)
    assert not file.inode.mapping.dirty


def test_locking_brings_pages_back_from_swap(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    assert reclaim_folio(entry.page)
    mlock(task.alive_mm(), vma)
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    assert entry.page.content == "x"


def test_a_page_that_was_lost_is_enomem_and_the_area_stays_locked(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    task.alive_mm().pte_alloc(vma.start).entries[vma.start + 1] = PoisonPte(9)
    with pytest.raises(SysError, match="cannot lock area") as error:
        mlock(task.alive_mm(), vma)
    assert error.value.errno is Errno.ENOMEM
    assert vma.locked
    assert not task.pending, "nobody is signalled for a system call"
    mlock(task.alive_mm(), vma, on=False)
    assert not vma.locked


def test_the_shared_page_of_zeros_is_never_locked(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, writable=False)
    mlock(task.alive_mm(), vma)
    assert not vm.zero_page.flags & pg.MLOCKED
    mlock(task.alive_mm(), vma, on=False)
