"""MADV_FREE and poison markers: pages that need not be kept, and pages that only count as bad."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno, SiCode
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.madvise import madvise_free, uffd_poison
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.pte import MarkerPte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.vmscan import reclaim_folio

from .conftest import mapped


def written(vm: Machine) -> tuple[Task, Vma]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "cache")
    return task, vma


def test_a_page_that_is_not_needed_is_dropped_instead_of_swapped(vm: Machine) -> None:
    task, vma = written(vm)
    madvise_free(task.alive_mm(), vma.start)
    assert load(task, vma.start) == "cache"
    assert reclaim_folio(mapped(task, vma.start))
    assert load(task, vma.start) == "zeros"
    assert not vm.swap.count


def test_a_store_makes_the_page_needed_again(vm: Machine) -> None:
    task, vma = written(vm)
    madvise_free(task.alive_mm(), vma.start)
    store(task, vma.start, "again")
    page = mapped(task, vma.start)
    assert not reclaim_folio(page)
    assert page.flags & pg.SWAPBACKED
    assert load(task, vma.start) == "again"


def test_a_page_of_two_processes_is_kept(vm: Machine) -> None:
    task, vma = written(vm)
    task.fork("child")
    madvise_free(task.alive_mm(), vma.start)
    assert mapped(task, vma.start).flags & pg.SWAPBACKED


def test_a_files_memory_cannot_be_freed_lazily(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=File(vm.create("data", "ext4", 1), "fd"))
    with pytest.raises(SysError) as refusal:
        madvise_free(task.alive_mm(), vma.start)
    assert refusal.value.errno is Errno.EINVAL


def test_a_marker_stops_every_touch(vm: Machine) -> None:
    task, vma = written(vm)
    task.sigbus = "handler"
    uffd_poison(task.alive_mm(), vma.start + 1)
    for touch in (lambda: load(task, vma.start + 1), lambda: store(task, vma.start + 1, "x")):
        with pytest.raises(Signalled) as hit:
            touch()
        assert hit.value.info.code is SiCode.BUS_MCEERR_AR


def test_a_marker_is_inherited(vm: Machine) -> None:
    task, vma = written(vm)
    uffd_poison(task.alive_mm(), vma.start + 1)
    assert isinstance(task.fork("child").alive_mm().entry(vma.start + 1), MarkerPte)


def test_a_marker_needs_an_empty_place(vm: Machine) -> None:
    task, vma = written(vm)
    with pytest.raises(SysError) as refusal:
        uffd_poison(task.alive_mm(), vma.start)
    assert refusal.value.errno is Errno.EEXIST


def test_a_segment_of_system_v_takes_no_marker(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=File(vm.create("segment", "sysv", 1), "fd"), shared=True)
    with pytest.raises(SysError) as refusal:
        uffd_poison(task.alive_mm(), vma.start)
    assert refusal.value.errno is Errno.EINVAL


def test_kernels_before_6_6_do_not_know_markers(machine: Callable[..., Machine]) -> None:
    task, vma = written(machine(traits=Traits(knows_poison_markers=False)))
    with pytest.raises(SysError) as refusal:
        uffd_poison(task.alive_mm(), vma.start + 1)
    assert refusal.value.errno is Errno.EINVAL
