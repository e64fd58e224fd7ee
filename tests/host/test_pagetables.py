from __future__ import annotations

import ctypes
import mmap
import random
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from hwpoison.abi.pagemap import pfn_of, present, swapped
from hwpoison.abi.problems import NotPossible
from hwpoison.host import pagetables
from hwpoison.host.pagetables import entries, present_frames
from hwpoison.host.proc import Host
from hwpoison.host.vmas import Vma, areas

from .conftest import PAGE, FakeHost

MAPS = [
    "00010000-00014000 rw-p 00000000 00:00 0",
    "00014000-00015000 rw-p 00000000 00:00 0",
    "00017000-00018000 rw-p 00000000 00:00 0",
    "10000000-10003000 rw-p 00000000 00:00 0",
]
PAGES = {
    0x10000: present(5),
    0x12000: present(6),
    0x14000: swapped(1, 9),
    0x17000: present(7),
    0x10002000: present(8),
}


def found(host: Host, pid: int | str, chosen: Sequence[Vma]) -> dict[int, int]:
    """Entries that are not 0, by address; each must be given once."""
    result = {}
    for first, block in entries(host, pid, chosen):
        for index in np.flatnonzero(block).tolist():
            assert (first + index) * PAGE not in result
            result[(first + index) * PAGE] = int(block[index])
    return result


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
@pytest.mark.parametrize("gap", [0, 2, 512, 1 << 30])
def test_every_entry_is_read_however_reads_are_joined_and_cut(
    fake: FakeHost, block: int, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagetables, "_BLOCK", block)
    monkeypatch.setattr(pagetables, "_GAP", gap)
    fake.process(7, "x", MAPS, PAGES)
    assert found(fake.host, 7, areas(fake.host, 7)) == PAGES


def test_far_areas_are_not_read_in_one_piece(fake: FakeHost) -> None:
    fake.process(7, "x", MAPS, PAGES)
    assert [(first, len(block)) for first, block in entries(fake.host, 7, areas(fake.host, 7))] == [
        (0x10, 8),
        (0x10000, 3),
    ]


def test_a_page_table_that_ends_early_is_of_a_process_that_ended(fake: FakeHost) -> None:
    fake.process(7, "x", MAPS, PAGES)
    fake.host.path("proc/7/pagemap").write_bytes(b"")
    with pytest.raises(ProcessLookupError):
        list(entries(fake.host, 7, areas(fake.host, 7)))


def test_without_areas_no_page_table_is_opened(fake: FakeHost) -> None:
    assert list(entries(fake.host, 7, [])) == []


def test_present_pages_are_told_from_swapped_ones_and_holes() -> None:
    where, frames = present_frames(np.array([0, present(5, file=True), swapped(1, 9), present(6)], np.uint64))
    assert (where.tolist(), frames.tolist()) == ([1, 3], [5, 6])


def test_hidden_frame_numbers_are_not_taken_for_frame_0() -> None:
    with pytest.raises(NotPossible, match="CAP_SYS_ADMIN"):
        present_frames(np.array([0, present(0), present(0)], np.uint64))


class ScanningKernel:
    """Answers PAGEMAP_SCAN for PAGES, and like Linux 6.18 may stop before the end of what it returned."""

    def __init__(self, quirk: bool) -> None:
        self.quirk = quirk
        self.calls = 0

    def __call__(self, table: int, request: int, argument: bytearray) -> int:
        self.calls += 1
        (size, _, start, end, _, vector, room, _, _, _, wanted, _) = struct.unpack("<12Q", argument)
        assert (request, size) == (0xC0606610, 96)
        in_use = [
            page
            for page, entry in sorted(PAGES.items())
            if start <= page < end and wanted & (8 if pfn_of(entry) is not None else 16)
        ]
        found = [(page, page + PAGE, 0) for page in in_use[:room]]
        records = struct.pack(f"<{3 * len(found)}Q", *(value for region in found for value in region))
        ctypes.memmove(vector, records, len(records))
        stop = end if len(in_use) <= room else found[-1][0] + (0 if self.quirk else PAGE)
        struct.pack_into("<Q", argument, 32, stop)
        return len(found)


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize("room", [1, 2, 3, 100])
def test_a_kernel_that_finds_the_holes_is_asked_until_the_end(
    fake: FakeHost, quirk: bool, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = ScanningKernel(quirk)
    monkeypatch.setattr(pagetables.fcntl, "ioctl", kernel)
    monkeypatch.setattr(pagetables, "_SPARSE", 0)
    monkeypatch.setattr(pagetables, "_FOUND", room)
    monkeypatch.setattr(pagetables, "_GAP", 0)
    fake.process(7, "x", MAPS, PAGES)
    assert found(fake.host, 7, areas(fake.host, 7)) == PAGES
    assert kernel.calls >= 2


@pytest.mark.parametrize("ranges", [3, 4096])
def test_looking_for_holes_first_finds_the_same_entries(
    live: Host, ranges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagetables, "_FOUND", ranges)
    size = 2 << 30
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as reserved:
        choose = random.Random(5)
        used = {choose.randrange(size // PAGE) for _ in range(300)} | set(range(5000, 5200))
        reserved.madvise(mmap.MADV_NOHUGEPAGE)
        for page in used:
            reserved[page * PAGE] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(reserved))
        chosen = [Vma(start, start + size, False, 0, None, None)]
        asked = found(live, "self", chosen)
        monkeypatch.setattr(pagetables, "_SPARSE", size)
        assert found(live, "self", chosen) == asked
        assert set(asked) == {start + page * PAGE for page in used}
