"""Errors in memory that has no pages: nobody's, unless a driver has said that it is his."""

from __future__ import annotations

import pytest

from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, McePolicy, SiCode
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import hard_offline_page, madvise
from hwpoison.failure.profiles import V6_12, V7_3
from hwpoison.mm.inode import SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.pfnmap import remap_pfn
from hwpoison.mm.task import Task


@pytest.fixture
def vm() -> Machine:
    return Machine()


def mapped(vm: Machine, policy: McePolicy) -> tuple[Task, Vma]:
    task = vm.new_task("app")
    task.prctl_mce_kill(policy)
    task.sigbus = "handler"
    vma = do_mmap(task.alive_mm(), 1, shared=True)
    remap_pfn(vma, vm.zone.frames + 1)
    return task, vma


@pytest.mark.parametrize("registered", [True, False])
def test_only_a_driver_knows_who_uses_it(vm: Machine, registered: bool) -> None:
    failure = MemoryFailure(vm, V7_3)
    (early, _), (late, area) = mapped(vm, McePolicy.EARLY), mapped(vm, McePolicy.LATE)
    frame = vm.zone.frames + 1
    if registered:
        vm.registered.add(frame)
    assert hard_offline_page(failure, frame) == (0 if registered else -Errno.EBUSY)
    assert [info.code for info in early.pending] == ([SiCode.BUS_MCEERR_AO] if registered else [])
    assert (late.pending, load(late, area.start)) == ([], "zeros")
    result = MfResult.RECOVERED if registered else MfResult.IGNORED
    assert [(event.type, event.result) for event in failure.events] == [(PageType.PFN_MAP, result)]
    assert vm.counters.poisoned == 0


def test_an_old_kernel_asks_nobody(vm: Machine) -> None:
    failure = MemoryFailure(vm, V6_12)
    vm.registered.add(vm.zone.frames + 1)
    assert hard_offline_page(failure, vm.zone.frames + 1) == -Errno.ENXIO
    assert failure.events == []


def test_the_process_itself_cannot_bring_in_an_error(vm: Machine) -> None:
    task, area = mapped(vm, McePolicy.EARLY)
    with pytest.raises(SysError) as refused:
        madvise(MemoryFailure(vm, V7_3), task, area.start)
    assert refused.value.errno is Errno.EFAULT
