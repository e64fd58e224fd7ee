"""One machine: what it is made of, and the few ways to the bytes of a frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.inode import FILE_SYSTEMS, File
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.page import put_page


def test_machines_share_nothing(machine: Callable[..., Machine]) -> None:
    first, second = machine(), machine()
    file = File(first.create("data", "ext4", 1), "fd")
    first.write(file, 0, "x")
    first.zone.take_page_off_buddy(first.zone.page(100))
    assert not second.inodes
    assert second.zone.is_free_buddy_page(100)
    assert first.paths is not second.paths


def test_two_machines_that_do_the_same_are_the_same(machine: Callable[..., Machine]) -> None:
    """A run is a pure function of scenario, profile and schedule."""

    def run() -> tuple[object, ...]:
        vm = machine(swap_slots=2)
        file = File(vm.create("data", "ext4", 3), "fd")
        for index in (2, 0, 1):
            vm.write(file, index, f"x{index}")
        pages = file.inode.mapping.pages
        return {i: p.pfn for i, p in pages.items()}, list(vm.lru.pages), vm.new_task("app").pid

    assert run() == run()


def test_the_first_frame_is_the_page_of_zeros(vm: Machine) -> None:
    assert vm.zero_page.pfn == 0
    assert vm.zero_page.content == "zeros"
    assert vm.zero_page.flags & pg.RESERVED


@pytest.mark.parametrize(
    "fs", [name for name, row in FILE_SYSTEMS.items() if not (row.huge or row.character)]
)
def test_a_file_of_a_disk_has_old_data_and_one_of_memory_has_none(vm: Machine, fs: str) -> None:
    file = File(vm.create("data", fs, 2), "fd")
    kept = FILE_SYSTEMS[fs].can_writeback or FILE_SYSTEMS[fs].dax
    assert vm.read(file, 1) == ("data:1:old" if kept else "zeros")
    vm.write(file, 1, "x")
    assert vm.read(file, 1) == "x"


@pytest.mark.parametrize("hardware", [True, False])
def test_the_kernel_does_not_survive_reading_real_bad_memory(vm: Machine, hardware: bool) -> None:
    page = vm.zone.alloc_pages()
    vm.kernel_writes(page, "x")
    vm.strike(page.pfn, hardware=hardware)
    if hardware:
        with pytest.raises(Panic, match=r"uncorrected error at 0x.* consumed by the kernel"):
            vm.kernel_reads(page)
    else:
        assert vm.kernel_reads(page) == "x"
    assert [exposure.text for exposure in vm.exposures] == (
        [] if hardware else [f"the kernel read the bad {page}"]
    )
    put_page(page)


def test_a_copy_that_may_fail_survives_it_and_queues_the_page(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    assert vm.copy_mc(page) == "zeros"
    vm.strike(page.pfn, hardware=True)
    assert vm.copy_mc(page) is None, "also where no handler listens"
    put_page(page)


def test_writing_does_not_mend_a_frame(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    vm.strike(page.pfn, hardware=True)
    vm.kernel_writes(page, "x")
    assert page.bad
    put_page(page)


def test_a_device_reads_whatever_there_is(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    vm.strike(page.pfn, hardware=True)
    assert vm.device_reads(page) == "zeros"
    assert [exposure.device for exposure in vm.exposures] == [True]
    put_page(page)


def test_the_story_is_kept_only_for_who_listens(vm: Machine) -> None:
    vm.tell("somebody", "something")
    assert vm.story is None
    vm.story = []
    vm.tell("somebody", "something", "mm/somewhere.c")
    assert [(note.who, note.text, note.source) for note in vm.story] == [
        ("somebody", "something", "mm/somewhere.c")
    ]
