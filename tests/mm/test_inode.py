"""File systems as rows of facts; files and who has them open."""

from __future__ import annotations

import pytest

from hwpoison.abi.signals import Errno
from hwpoison.mm.inode import FILE_SYSTEMS, File, SysError
from hwpoison.mm.machine import Machine


def test_each_row_is_found_by_its_own_name() -> None:
    assert all(name == row.name for name, row in FILE_SYSTEMS.items())


def test_only_memory_file_systems_keep_a_bad_page() -> None:
    """The operations of shmem and hugetlbfs do nothing; all others drop the page or have no way to."""
    assert {row.name for row in FILE_SYSTEMS.values() if row.error_remove == "keep"} == {
        "tmpfs",
        "sysv",
        "memfd",
        "hugetlbfs",
        "hugetlbfs-1G",
    }


@pytest.mark.parametrize("fs", ["vfat", "f2fs", "fuse"])
def test_some_disk_file_systems_have_no_way_to_drop_a_bad_page(fs: str) -> None:
    assert FILE_SYSTEMS[fs].error_remove is None


def test_what_lives_in_swap_is_written_nowhere_else() -> None:
    assert not any(row.swap_backed and row.can_writeback for row in FILE_SYSTEMS.values())


def test_a_closed_file_is_told_nothing_more(vm: Machine) -> None:
    inode = vm.create("data", "ext4", 1)
    first, second = File(inode, "first"), File(inode, "second")
    first.close()
    assert inode.files == [second]


def test_files_of_one_file_system_share_the_errors_of_the_whole(vm: Machine) -> None:
    one, two, other = (vm.create(name, fs, 1) for name, fs in (("a", "ext4"), ("b", "ext4"), ("c", "xfs")))
    one.mapping.set_error(Errno.EIO)
    assert two.superblock_err.check(0) == Errno.EIO
    assert two.mapping.wb_err.check(0) == 0
    assert other.superblock_err.check(0) == 0


def test_a_failed_call_names_its_number_and_what_happened() -> None:
    assert str(SysError(Errno.EIO, "the disk is on fire")) == "EIO: the disk is on fire"
    assert str(SysError(Errno.ENOMEM)) == "ENOMEM"


def test_names_of_objects_are_readable(vm: Machine) -> None:
    inode = vm.create("data", "ext4", 1)
    assert repr(inode) == "ext4 file data"
    assert repr(File(inode, "fd")) == "fd of data"
