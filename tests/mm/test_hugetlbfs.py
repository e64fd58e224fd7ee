"""Files of huge pages: holes, reading around bad frames, truncation, hole punching, promises of a file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi.signals import Errno
from hwpoison.mm import truncate
from hwpoison.mm.hugetlb import Hstate
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.task import Task

PAGES = 4


@pytest.fixture
def build(machine: Callable[..., Machine]) -> Callable[..., Machine]:
    def make(**arguments: object) -> Machine:
        vm = machine(frames=256, huge_order=2, gigantic_order=4, **arguments)
        vm.hugetlb.set_max_huge_pages(vm.hugetlb.hstates["2M"], 3)
        return vm

    return make


@pytest.fixture
def vm(build: Callable[..., Machine]) -> Machine:
    return build()


def file_of(vm: Machine, huge_pages: int = 2) -> File:
    return File(vm.create("h", "hugetlbfs", huge_pages * PAGES), "fd")


def mapped(vm: Machine, file: File, huge_pages: int = 2) -> tuple[Task, Vma]:
    task = vm.new_task("A")
    return task, do_mmap(task.alive_mm(), huge_pages * PAGES, file=file, shared=True)


def pool(vm: Machine) -> Hstate:
    return vm.hugetlb.hstates["2M"]


def poison(vm: Machine, file: File, index: int) -> None:
    frame = file.inode.mapping.frame(index)
    assert frame is not None
    vm.hugetlb.set_hwpoison(frame, no_memory=False)


def test_a_hole_reads_as_zeros_and_stays_one(vm: Machine) -> None:
    file = file_of(vm)
    assert vm.read(file, 1) == "zeros"
    assert vm.read(file, 2 * PAGES) == ""
    assert file.inode.mapping.pages == {}


def test_there_is_no_write(vm: Machine) -> None:
    with pytest.raises(SysError) as refused:
        vm.write(file_of(vm), 0, "x")
    assert refused.value.errno is Errno.EINVAL


def test_what_a_mapping_wrote_is_read(vm: Machine) -> None:
    file = file_of(vm)
    task, vma = mapped(vm, file)
    store(task, vma.start + PAGES + 1, "x")
    assert [vm.read(file, index) for index in (0, PAGES, PAGES + 1)] == ["zeros", "zeros", "x"]
    assert sorted(file.inode.mapping.pages) == [PAGES]


@pytest.mark.parametrize(
    ("refuses_all", "seen"), [(False, ["a", "EIO", "c", "zeros"]), (True, ["EIO", "EIO", "EIO", "EIO"])]
)
def test_reading_around_a_bad_frame(
    build: Callable[..., Machine], refuses_all: bool, seen: list[str]
) -> None:
    vm = build(traits=Traits(hugetlb_read_refuses_all=refuses_all))
    file = file_of(vm)
    task, vma = mapped(vm, file)
    store(task, vma.start, "a")
    store(task, vma.start + 2, "c")
    poison(vm, file, 1)
    got = []
    for index in range(PAGES):
        try:
            got.append(vm.read(file, index))
        except SysError as error:
            got.append(error.errno.name)
    assert got == seen


def test_a_promise_belongs_to_the_file_and_outlives_the_mapping(vm: Machine) -> None:
    file = file_of(vm)
    task, vma = mapped(vm, file)
    assert pool(vm).reserved == 2
    munmap(task.alive_mm(), vma)
    mapped(vm, file)
    assert pool(vm).reserved == 2
    truncate.truncate(file.inode, PAGES)
    assert pool(vm).reserved == 1
    truncate.truncate(file.inode, 0)
    assert pool(vm).reserved == 0


def test_a_file_can_only_be_cut_between_huge_pages(vm: Machine) -> None:
    with pytest.raises(SysError) as refused:
        truncate.truncate(file_of(vm).inode, PAGES - 1)
    assert refused.value.errno is Errno.EINVAL


def test_a_truncation_takes_the_page_from_its_mappers_and_gives_it_to_the_pool(vm: Machine) -> None:
    file = file_of(vm)
    task, vma = mapped(vm, file)
    store(task, vma.start, "x")
    truncate.truncate(file.inode, 0)
    assert task.alive_mm().hugetlb == {}
    assert len(pool(vm).free_list) == 3


def test_a_hole_in_the_middle_of_a_huge_page_is_only_filled_with_zeros(vm: Machine) -> None:
    file = file_of(vm)
    task, vma = mapped(vm, file)
    for index in range(2 * PAGES):
        store(task, vma.start + index, f"{index}")
    truncate.punch_hole(file.inode, 2, PAGES + 1)
    assert [load(task, vma.start + i) for i in range(2 * PAGES)] == [
        "0", "1", "zeros", "zeros", "zeros", "5", "6", "7"
    ]  # fmt: skip
    truncate.punch_hole(file.inode, 0, 2 * PAGES)
    assert file.inode.mapping.pages == {}


def test_dropping_clean_pages_does_not_lose_what_is_only_here(vm: Machine) -> None:
    file = file_of(vm)
    task, vma = mapped(vm, file)
    store(task, vma.start, "x")
    munmap(task.alive_mm(), vma)
    truncate.invalidate_mapping_pages(file.inode.mapping)
    assert vm.read(file, 0) == "x"
