"""The disk: writes that end at once, later, in between, or not well."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.writeback import filemap_fdatawrite, fsync


@pytest.fixture
def file(vm: Machine) -> File:
    file = File(vm.create("data", "ext4", 3), "fd")
    for index in range(3):
        vm.write(file, index, f"new {index}")
    return file


def test_a_disk_that_is_held_back_answers_oldest_first(vm: Machine, file: File) -> None:
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    assert [page.index for page, _ in vm.disk.under_way] == [0, 1, 2]
    assert vm.disk.answer()
    assert file.inode.blocks[0] == "new 0"
    assert file.inode.blocks[1] == "data:1:old"
    vm.disk.release()
    assert file.inode.blocks == {0: "new 0", 1: "new 1", 2: "new 2"}
    assert not vm.disk.answer()
    assert not vm.disk.held


def test_an_answer_ends_writeback_and_gives_the_reference_back(vm: Machine, file: File) -> None:
    vm.lru.add_drain_all()
    page = file.inode.mapping.pages[0]
    before = page.refcount
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    assert page.flags & pg.WRITEBACK
    assert page.refcount == before + 1
    vm.disk.release()
    assert not page.flags & pg.WRITEBACK
    assert page.refcount == before


def test_a_held_disk_answers_when_everybody_waits(vm: Machine, file: File) -> None:
    vm.disk.held = True
    fsync(file)
    assert file.inode.blocks[2] == "new 2"
    assert vm.disk.held


def test_with_a_chooser_each_completion_is_an_interrupt_of_its_own(vm: Machine, file: File) -> None:
    names: set[str] = set()

    class Listen:
        def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
            names.update(path.name for path in ready)
            return running if running in ready else ready[0]

    vm.paths.chooser = Listen()
    fsync(file)
    vm.paths.chooser = None
    vm.paths.finish()
    pages = file.inode.mapping.pages
    assert names == {"main"} | {f"disk:{pages[index].pfn:#x}" for index in range(3)}


def test_bad_memory_that_is_written_out_is_noted(vm: Machine, file: File) -> None:
    """Nobody stops a device: deviation device-reads-on."""
    vm.strike(file.inode.mapping.pages[0].pfn, hardware=False)
    fsync(file)
    assert [exposure.device for exposure in vm.exposures] == [True]
    assert "a device read the bad page" in vm.exposures[0].text
