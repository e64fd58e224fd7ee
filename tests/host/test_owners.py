from __future__ import annotations

import errno
import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwpoison.abi import pageflags as pf
from hwpoison.abi.pagemap import PFN_MASK, present, swapped
from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.host import owners as owners_module
from hwpoison.host.owners import Mapping, owners, process_frames
from hwpoison.host.proc import Host
from hwpoison.host.vmas import Vma, areas

from .conftest import PAGE, FakeHost, own_page

# The children made here only wait and are killed: no lock that another thread held at the fork can matter.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ANON = pf.LRU | pf.ANON | pf.MMAP
CACHE = pf.LRU | pf.MMAP
# Frames 0 to 9: a reserved one, anonymous ones, pages of files, one of a device, a free one.
FLAGS = [pf.RESERVED, ANON, ANON, CACHE, CACHE, pf.LRU, 0, pf.BUDDY, ANON, 0]
COUNTS = [0, 1, 2, 2, 1, 0, 0, 0, 1, 0]

HEAP = "00010000-00014000 rw-p 00000000 00:00 0 [heap]"
PRIVATE_FILE = "00100000-00104000 r-xp 00002000 08:01 42 /lib/x.so"
SHARED_FILE = "00200000-00204000 rw-s 00000000 08:01 42 /lib/x.so"
OTHER_FILE = "00300000-00304000 rw-s 00000000 08:01 43 /lib/y.so"
DEVICE = "00400000-00401000 rw-s 00000000 00:05 3 /dev/thing"


@pytest.fixture
def machine(fake: FakeHost) -> FakeHost:
    fake.frames(FLAGS, COUNTS)
    fake.process(
        7,
        "writer",
        [HEAP, SHARED_FILE],
        {0x10000: present(1), 0x11000: present(2), 0x12000: swapped(1, 3), 0x203000: present(3, file=True)},
    )
    fake.process(
        8,
        "reader",
        [HEAP, PRIVATE_FILE, OTHER_FILE],
        {0x13000: present(2), 0x101000: present(8), 0x302000: present(4, file=True)},
    )
    fake.process(9, "idle", [PRIVATE_FILE, DEVICE], {0x101000: present(3, file=True), 0x400000: present(9)})
    fake.process(2, "kthreadd", [])
    return fake


def test_an_anonymous_page_belongs_to_those_who_map_it(machine: FakeHost) -> None:
    found = owners(machine.host, {1, 2})
    assert found.mappings == {
        1: [Mapping(7, "writer", 0x10000, False, "[heap]", True)],
        2: [
            Mapping(7, "writer", 0x11000, False, "[heap]", True),
            Mapping(8, "reader", 0x13000, False, "[heap]", True),
        ],
    }
    assert not found.unread and not found.vanished


def test_a_page_of_a_file_also_concerns_who_covers_it_without_mapping_it(machine: FakeHost) -> None:
    """Process 8 has its own copy of the page, and is a victim for Linux all the same."""
    assert owners(machine.host, [3]).mappings[3] == [
        Mapping(7, "writer", 0x203000, True, "/lib/x.so", True),
        Mapping(8, "reader", 0x101000, False, "/lib/x.so", False),
        Mapping(9, "idle", 0x101000, False, "/lib/x.so", True),
    ]


def test_a_copy_of_a_page_of_a_file_does_not_concern_the_others_who_map_the_file(machine: FakeHost) -> None:
    assert owners(machine.host, [8]).mappings[8] == [Mapping(8, "reader", 0x101000, False, "/lib/x.so", True)]


def test_an_area_of_the_file_that_does_not_reach_the_page_is_not_concerned(machine: FakeHost) -> None:
    before = "00500000-00501000 r--s 00002000 08:01 42 /lib/x.so"
    after = "00600000-00601000 r--s 00004000 08:01 42 /lib/x.so"
    exactly = "00700000-00701000 r--s 00003000 08:01 42 /lib/x.so"
    machine.process(10, "partly", [before, after, exactly])
    rows = [row for row in owners(machine.host, [3]).mappings[3] if row.pid == 10]
    assert rows == [Mapping(10, "partly", 0x700000, True, "/lib/x.so", False)]


def test_a_page_mapped_after_the_areas_were_read_is_given_to_no_wrong_area(machine: FakeHost) -> None:
    machine.process(7, "writer", ["00010000-00011000 rw-p 0 00:00 0", "00014000-00015000 rw-p 0 00:00 0"])
    with machine.host.path("proc/7/pagemap").open("r+b") as pagemap:
        pagemap.seek(0x12000 // PAGE * 8)
        pagemap.write(present(1).to_bytes(8, "little"))
    assert owners(machine.host, [1]).mappings[1] == []


def test_pages_of_several_files_and_sorts_are_found_together(machine: FakeHost) -> None:
    found = owners(machine.host, range(10)).mappings
    assert {pfn: [row.pid for row in rows] for pfn, rows in found.items()} == {
        0: [],
        1: [7],
        2: [7, 8],
        3: [7, 8, 9],
        4: [8],
        5: [],
        6: [],
        7: [],
        8: [8],
        9: [9],
    }


def test_a_mapping_that_is_not_counted_is_found_all_the_same(machine: FakeHost) -> None:
    """Memory of a device, or the page of zeros: the map count is 0, no flag says that this is the truth."""
    assert owners(machine.host, [9]).mappings[9] == [Mapping(9, "idle", 0x400000, True, "/dev/thing", True)]


def test_nobody_is_asked_about_frames_known_to_be_mapped_nowhere(
    machine: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners_module, "processes", None)
    assert owners(machine.host, [5, 7]).mappings == {5: [], 7: []}
    assert owners(machine.host, []).mappings == {}


@pytest.mark.parametrize(
    ("pfns", "read"),
    [
        ([1], {HEAP, PRIVATE_FILE}),
        ([3], {SHARED_FILE, PRIVATE_FILE, OTHER_FILE, DEVICE}),
        ([1, 3], {HEAP, SHARED_FILE, PRIVATE_FILE, OTHER_FILE, DEVICE}),
        ([9], {HEAP, SHARED_FILE, PRIVATE_FILE, OTHER_FILE, DEVICE}),
    ],
    ids=["anonymous", "file", "both", "uncounted"],
)
def test_areas_that_cannot_hold_the_pages_are_not_read(
    machine: FakeHost, pfns: list[int], read: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    original = owners_module.entries

    def watch(host: Host, pid: int, chosen: list[Vma]) -> Iterator[object]:
        seen.update(area.start for area in chosen)
        return original(host, pid, chosen)

    monkeypatch.setattr(owners_module, "entries", watch)
    owners(machine.host, pfns)
    assert seen == {int(line.split("-")[0], 16) for line in read}


def test_a_process_that_may_not_be_looked_at_is_named_with_the_reason(
    machine: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(host: Host, pid: int) -> list[Vma]:
        if pid == 8:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return areas(host, pid)

    monkeypatch.setattr(owners_module, "areas", deny)
    found = owners(machine.host, [2])
    assert [row.pid for row in found.mappings[2]] == [7]
    assert list(found.unread) == [8]
    assert "permission denied" in found.unread[8]


def test_a_process_that_ends_meanwhile_is_left_out_and_noted(machine: FakeHost) -> None:
    machine.host.path("proc/7/pagemap").write_bytes(b"")
    machine.host.path("proc/9/maps").unlink()
    found = owners(machine.host, [2])
    assert [row.pid for row in found.mappings[2]] == [8]
    assert found.vanished == {7, 9}


def test_hidden_frame_numbers_are_no_answer(machine: FakeHost) -> None:
    machine.process(7, "writer", [HEAP], {0x10000: present(0)})
    with pytest.raises(NotPossible, match="CAP_SYS_ADMIN"):
        owners(machine.host, [2])


@pytest.mark.parametrize("pfn", [-1, 10, 1 << 70])
def test_a_number_that_is_no_frame_has_no_owners(machine: FakeHost, pfn: int) -> None:
    with pytest.raises(WrongUse, match=f"frame {pfn} .*frames 0 to 9"):
        owners(machine.host, [1, pfn])


def test_progress_counts_processes(machine: FakeHost) -> None:
    seen: list[tuple[int, int]] = []
    owners(machine.host, [3], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_process_is_given_with_all_its_frames(machine: FakeHost) -> None:
    frames = process_frames(machine.host, 7)
    assert (frames.pid, frames.comm) == (7, "writer")
    assert dict(zip(frames.address.tolist(), frames.pfn.tolist(), strict=True)) == {
        0x10000: 1,
        0x11000: 2,
        0x203000: 3,
    }
    assert (frames.swapped, frames.not_present) == (1, 4)


def test_a_kernel_thread_maps_nothing(machine: FakeHost) -> None:
    frames = process_frames(machine.host, 2)
    assert (len(frames.address), len(frames.pfn), frames.swapped, frames.not_present) == (0, 0, 0, 0)


@pytest.mark.parametrize("pid", [4242, -1, 0])
def test_a_number_that_is_no_process_is_wrong_use(machine: FakeHost, pid: int) -> None:
    with pytest.raises(WrongUse, match=f"there is no process {pid} "):
        process_frames(machine.host, pid)


def test_a_process_that_ends_while_it_is_read_is_named(machine: FakeHost) -> None:
    machine.host.path("proc/7/pagemap").write_bytes(b"")
    with pytest.raises(NotPossible, match="process 7 ended"):
        process_frames(machine.host, 7)


def test_a_kernel_without_pagemap_is_named_as_such(machine: FakeHost) -> None:
    machine.host.path("proc/7/pagemap").unlink()
    with pytest.raises(NotPossible, match=r"7/pagemap cannot be read.*CONFIG_PROC_PAGE_MONITOR"):
        process_frames(machine.host, 7)


def test_a_process_that_may_not_be_read_is_not_possible(
    machine: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(host: Host, pid: int) -> list[Vma]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(owners_module, "areas", deny)
    with pytest.raises(NotPossible, match="process 7 cannot be looked at: permission denied"):
        process_frames(machine.host, 7)


@contextmanager
def child() -> Iterator[int]:
    """A process forked from this one, which does nothing but wait, and has begun to."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.001)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_private_memory_of_this_process_is_shared_with_its_child_after_fork(live: Host) -> None:
    with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        with child() as pid:
            address, pfn = own_page(memory)
            rows = owners(live, [pfn]).mappings[pfn]
    assert {(row.pid, row.address, row.shared, row.populated) for row in rows} == {
        (os.getpid(), address, False, True),
        (pid, address, False, True),
    }


def test_shared_memory_that_the_child_has_not_touched_concerns_it_too(live: Host) -> None:
    with mmap.mmap(-1, PAGE) as memory, child() as pid:
        memory[0] = 1
        address, pfn = own_page(memory)
        rows = owners(live, [pfn]).mappings[pfn]
    assert {(row.pid, row.address, row.shared, row.populated) for row in rows} == {
        (os.getpid(), address, True, True),
        (pid, address, True, False),
    }


def test_every_frame_of_a_waiting_child_is_the_one_its_page_table_says(live: Host) -> None:
    with child() as pid:
        frames = process_frames(live, pid)
        with live.open(f"proc/{pid}/pagemap") as pagemap:
            pairs = list(zip(frames.address.tolist(), frames.pfn.tolist(), strict=True))
            for address, pfn in pairs:
                entry = int.from_bytes(os.pread(pagemap, 8, address // PAGE * 8), "little")
                assert entry & PFN_MASK == pfn
        pages = sum(area.end - area.start for area in areas(live, pid)) // PAGE
    assert len(pairs) > 100
    assert len(pairs) + frames.swapped + frames.not_present == pages


def test_a_process_that_has_ended_is_not_found_any_more(live: Host) -> None:
    with child() as pid:
        pass
    with pytest.raises(WrongUse, match=f"there is no process {pid} "):
        process_frames(live, pid)
