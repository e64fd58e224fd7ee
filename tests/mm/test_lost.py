"""What a file remembers of its losses, and how an open file deals with them (proposed)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi.signals import Errno
from hwpoison.mm import lost
from hwpoison.mm.fault import Fault
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import handle_mm_fault
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.truncate import punch_hole, truncate
from hwpoison.mm.writeback import fsync

EHWPOISON = Errno.EHWPOISON


@pytest.fixture
def remembering(machine: Callable[..., Machine]) -> Machine:
    return machine(traits=Traits(remembers_lost_data=True))


def file_with_losses(vm: Machine, *pages: int, fs: str = "ext4") -> File:
    file = File(vm.create("data", fs, 6), "fd")
    for page in pages:
        lost.mark_lost(file.inode.mapping, page)
    return file


def errno_of(call: Callable[[], object]) -> Errno:
    with pytest.raises(SysError) as refusal:
        call()
    return refusal.value.errno


def test_a_lost_page_is_an_error_to_every_reader(remembering: Machine) -> None:
    file = file_with_losses(remembering, 2)
    assert errno_of(lambda: remembering.read(file, 2)) is EHWPOISON
    assert remembering.read(file, 1) == "data:1:old"
    task = remembering.new_task("app")
    vma = do_mmap(task.alive_mm(), 6, file=file, shared=True)
    assert handle_mm_fault(task, vma.start + 2, write=False) is Fault.HWPOISON


def test_writing_it_anew_mends_it(remembering: Machine) -> None:
    file = file_with_losses(remembering, 2)
    remembering.write(file, 2, "anew")
    assert lost.lost_pages(file) == []
    assert remembering.read(file, 2) == "anew"


@pytest.mark.parametrize(
    ("get_rid", "left"),
    [
        (lambda inode: punch_hole(inode, 1, 3), [0, 4]),
        (lambda inode: truncate(inode, 2), [0, 1]),
    ],
)
def test_what_is_thrown_away_was_not_lost(
    remembering: Machine, get_rid: Callable[[object], None], left: list[int]
) -> None:
    file = file_with_losses(remembering, 0, 1, 4)
    get_rid(file.inode)
    assert lost.lost_pages(file) == left


def test_fsync_says_so_until_nothing_is_missing(remembering: Machine) -> None:
    file = file_with_losses(remembering, 3)
    assert errno_of(lambda: fsync(file)) is EHWPOISON
    assert errno_of(lambda: fsync(file)) is EHWPOISON
    remembering.write(file, 3, "anew")
    fsync(file)


def test_an_open_file_acknowledges_for_itself_only(remembering: Machine) -> None:
    file = file_with_losses(remembering, 1, 2)
    other = File(file.inode, "other")
    lost.acknowledge(file, 1, 2)
    assert (lost.lost_pages(file), lost.lost_pages(other)) == ([2], [1, 2])
    assert remembering.read(file, 1) == "data:1:old"
    assert errno_of(lambda: remembering.read(other, 1)) is EHWPOISON
    assert file.inode.mapping.pages == {}


def test_a_page_that_is_lost_again_has_to_be_acknowledged_again(remembering: Machine) -> None:
    file = file_with_losses(remembering, 1)
    lost.acknowledge(file, 0, 6)
    remembering.write(file, 1, "anew")
    lost.mark_lost(file.inode.mapping, 1)
    assert lost.lost_pages(file) == [1]


def test_only_a_loss_can_be_acknowledged(remembering: Machine) -> None:
    file = file_with_losses(remembering, 1)
    assert errno_of(lambda: lost.acknowledge(file, 2, 6)) is Errno.EINVAL


def test_todays_kernels_remember_nothing(vm: Machine) -> None:
    file = file_with_losses(vm, 1)
    assert vm.read(file, 1) == "data:1:old"
    assert lost.lost_error(file.inode.mapping) is Errno.EIO
    for call in (lambda: lost.lost_pages(file), lambda: lost.acknowledge(file, 0, 6)):
        assert errno_of(call) is Errno.EINVAL


def test_tmpfs_needs_no_entry(remembering: Machine) -> None:
    """The bad page itself stays in the file."""
    assert lost.lost_pages(file_with_losses(remembering, 1, fs="tmpfs")) == []


@pytest.mark.parametrize(
    ("pages", "text"), [([], "nothing"), ([3], "3"), ([0, 2, 3, 4, 6], "0 2-4 6"), ([1, 2], "1-2")]
)
def test_pages_are_told_as_ranges(pages: list[int], text: str) -> None:
    assert lost.ranges(pages) == text
