"""Errors in persistent memory: who is told, what is taken away, and by whose word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import corrupt_pfn, hard_offline_page, madvise
from hwpoison.failure.profiles import V6_1, V6_12, V7_3, Profile
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm.inode import FILE_SYSTEMS, File, Inode
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.task import Task

KINDS = [name for name, row in FILE_SYSTEMS.items() if row.dax]


def setting(fs: str, profile: Profile = V7_3) -> tuple[MemoryFailure, Inode]:
    failure = MemoryFailure(Machine(traits=profile.traits, huge_order=1), profile)
    return failure, failure.vm.create("db", fs, 2)


def user(inode: Inode, policy: McePolicy = McePolicy.EARLY, *, shared: bool = True) -> tuple[Task, Vma]:
    task = inode.vm.new_task("app")
    task.prctl_mce_kill(policy)
    task.sigbus = "handler"
    return task, do_mmap(task.alive_mm(), inode.size, file=File(inode, "fd"), shared=shared)


def verdicts(failure: MemoryFailure) -> list[tuple[PageType, MfResult]]:
    return [(event.type, event.result) for event in failure.events]


@pytest.mark.parametrize("fs", KINDS)
def test_who_wants_to_be_told_early_is_and_everybody_loses_it(fs: str) -> None:
    failure, inode = setting(fs)
    (early, first), (late, second) = user(inode), user(inode, McePolicy.LATE)
    store(early, first.start, "new")
    load(late, second.start)
    assert corrupt_pfn(failure, inode.frames[0].pfn) == 0
    assert [info.code for info in early.pending] == [SiCode.BUS_MCEERR_AO]
    assert late.pending == []
    assert (early.alive_mm().entry(first.start), late.alive_mm().entry(second.start)) == (None, None)
    assert load(late, second.start) == "new"
    assert verdicts(failure) == [(PageType.DAX, MfResult.RECOVERED)]


@pytest.mark.parametrize("fs", KINDS)
def test_with_nobody_to_be_told_nothing_is_taken_away(fs: str) -> None:
    failure, inode = setting(fs)
    late, area = user(inode, McePolicy.LATE)
    load(late, area.start)
    assert hard_offline_page(failure, inode.frames[0].pfn) == 0
    assert late.alive_mm().entry(area.start) is not None
    assert verdicts(failure) == [(PageType.DAX, MfResult.RECOVERED)]


@pytest.mark.parametrize("profile", [V6_1, V7_3], ids=lambda profile: profile.name)
def test_who_asks_for_an_error_has_consumed_it(profile: Profile) -> None:
    failure, inode = setting("ext4-dax", profile)
    task, area = user(inode, McePolicy.LATE)
    store(task, area.start, "new")
    assert madvise(failure, task, area.start) == 0
    assert [info.code for info in task.pending] == [SiCode.BUS_MCEERR_AR]


@pytest.mark.parametrize(
    ("fs", "returned"), [("ext4-dax", -Errno.EBUSY), ("xfs-dax", -Errno.EBUSY), ("xfs-dax-rmap", 0)]
)
def test_only_a_file_system_that_can_look_it_up_knows_whose_an_unmapped_page_is(
    fs: str, returned: int
) -> None:
    failure, inode = setting(fs)
    assert corrupt_pfn(failure, inode.frames[1].pfn) == returned
    assert inode.frames[1].flags == 0


def test_a_file_system_that_loses_its_own_block_shuts_down() -> None:
    failure, inode = setting("xfs-dax-rmap")
    device = failure.vm.pmem.of(inode.fs)
    assert corrupt_pfn(failure, device.superblock) == -Errno.EUCLEAN
    assert device.shut_down


def test_the_notes_of_the_driver_are_no_pages() -> None:
    failure, inode = setting("ext4-dax")
    device = failure.vm.pmem.of(inode.fs)
    assert corrupt_pfn(failure, device.first) == -Errno.ENXIO
    assert verdicts(failure) == [(PageType.DAX, MfResult.FAILED)]


def test_an_area_that_was_not_touched_is_not_told_of() -> None:
    failure, inode = setting("ext4-dax")
    task, area = user(inode)
    again = do_mmap(task.alive_mm(), 2, file=File(inode, "other"), shared=True)
    store(task, again.start, "new")
    corrupt_pfn(failure, inode.frames[0].pfn)
    assert [info.address for info in task.pending] == [again.start << 12]
    assert task.alive_mm().entry(area.start) is None


@pytest.mark.parametrize(("profile", "told"), [(V6_12, 0), (V7_3, 1)], ids=["6.12", "7.3"])
def test_who_has_a_copy_of_his_own_is_told_by_newer_kernels(profile: Profile, told: int) -> None:
    failure, inode = setting("ext4-dax", profile)
    (reader, first), (writer, second) = user(inode), user(inode, shared=False)
    load(reader, first.start)
    store(writer, second.start, "mine")
    corrupt_pfn(failure, inode.frames[0].pfn)
    assert (len(reader.pending), len(writer.pending)) == (1, told)
    assert load(writer, second.start) == "mine"


@pytest.mark.parametrize(("profile", "says"), [(V6_1, True), (V7_3, False)], ids=["6.1", "7.3"])
def test_what_the_filter_spares_is_a_verdict_on_old_kernels(profile: Profile, says: bool) -> None:
    failure, inode = setting("ext4-dax", profile)
    task, area = user(inode)
    store(task, area.start, "new")
    failure.filter = replace(failure.filter, enabled=True, fs="tmpfs")
    assert madvise(failure, task, area.start) == 0
    assert verdicts(failure) == ([(PageType.DAX, MfResult.FAILED)] if says else [])
    assert (task.pending, inode.frames[0].bad) == ([], False)


def test_the_filter_passes_over_a_device_by_frame_number() -> None:
    failure, inode = setting("ext4-dax")
    failure.filter = replace(failure.filter, enabled=True, fs="ext4-dax")
    assert corrupt_pfn(failure, inode.frames[0].pfn) == 0
    assert failure.events == []


def test_persistent_memory_is_neither_taken_out_of_use_nor_made_good_again() -> None:
    failure, inode = setting("ext4-dax")
    frame = inode.frames[0].pfn
    assert soft_offline_page(failure, frame) == -Errno.EIO
    assert unpoison_memory(failure, frame) == -Errno.EIO


def test_a_victim_without_memory_for_a_note_is_forgotten() -> None:
    failure, inode = setting("ext4-dax")
    task, area = user(inode)
    store(task, area.start, "new")
    failure.failing_allocations = 1
    corrupt_pfn(failure, inode.frames[0].pfn)
    assert task.pending == []


def test_of_a_device_without_a_file_system_a_whole_piece_is_lost_and_told_of() -> None:
    failure, inode = setting("devdax")
    (task, area), (late, other) = user(inode), user(inode, McePolicy.LATE)
    store(task, area.start, "new")
    assert corrupt_pfn(failure, inode.frames[1].pfn) == 0
    (info,) = task.pending
    assert (info.address, info.lsb) == (area.start << PAGE_SHIFT, 21)
    assert [task.alive_mm().entry(vpn) for vpn in (area.start, area.start + 1)] == [None, None]
    assert load(late, other.start) == "new"
