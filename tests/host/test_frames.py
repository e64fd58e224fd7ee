from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from hwpoison.abi import pageflags as pf
from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.host import frames
from hwpoison.host.frames import FrameState, frame_words, frames_expected, read_frames, scan
from hwpoison.host.proc import Host

from .conftest import FakeHost

ANON = pf.LRU | pf.ANON | pf.MMAP
FLAGS = [pf.RESERVED, pf.BUDDY, pf.BUDDY, ANON, ANON, ANON, pf.LRU, 0, 0, pf.SLAB, ANON]
COUNTS = [0, 0, 0, 1, 1, 7, 0, 0, 0, 0, 2]
KINDS = {
    (pf.RESERVED, 0): 1,
    (pf.BUDDY, 0): 2,
    (ANON, 1): 2,
    (ANON, 2): 2,
    (pf.LRU, 0): 1,
    (0, 0): 2,
    (pf.SLAB, 0): 1,
}


@pytest.fixture(params=[1, 2, 4, 11, 1 << 10], ids=lambda block: f"block{block}")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(frames, "_BLOCK", request.param)
    return int(request.param)


def test_every_frame_is_counted_whatever_the_size_of_the_blocks(fake: FakeHost, block: int) -> None:
    fake.frames(FLAGS, COUNTS)
    tally = scan(fake.host)
    assert (tally.entries, tally.kinds, tally.bytes_read) == (11, KINDS, 2 * 11 * 8)


def test_mask_and_cap_decide_which_frames_are_of_one_kind(fake: FakeHost) -> None:
    fake.frames(FLAGS, COUNTS)
    assert scan(fake.host, mask=pf.ANON, cap=1).kinds == {(0, 0): 7, (pf.ANON, 1): 4}
    assert scan(fake.host, mask=pf.ANON, cap=9).kinds[pf.ANON, 7] == 1


def test_short_reads_lose_no_frame(fake: FakeHost, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.frames(FLAGS, COUNTS)
    whole = os.preadv

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:13]], offset)

    monkeypatch.setattr(os, "preadv", short)
    assert scan(fake.host).kinds == KINDS


def test_frames_beyond_the_end_of_the_counts_have_none(fake: FakeHost, block: int) -> None:
    fake.frames(FLAGS, COUNTS[:5])
    expected: Counter[tuple[int, int]] = Counter(zip(FLAGS[:5], COUNTS[:5], strict=True))
    expected.update((flags, -1) for flags in FLAGS[5:])
    tally = scan(fake.host)
    assert tally.kinds == expected
    assert tally.bytes_read == (11 + 5) * 8


def test_without_a_file_of_counts_they_are_unknown(fake: FakeHost) -> None:
    fake.frames(FLAGS)
    tally = scan(fake.host)
    assert sum(tally.kinds.values()) == tally.entries == 11
    assert {count for _, count in tally.kinds} == {-1}


def test_counts_beyond_the_last_frame_are_of_no_interest(fake: FakeHost, block: int) -> None:
    fake.frames(FLAGS, [*COUNTS, 5, 5, 5])
    assert scan(fake.host).kinds == KINDS


ZONE = "Node 0, zone   Normal\n        spanned  {}\n  start_unmapped: 0\n  start_pfn:           1\n"


def test_an_empty_file_is_not_a_host_without_memory(fake: FakeHost) -> None:
    fake.frames([], [])
    with pytest.raises(WrongUse, match="kpageflags ends after 0 entries: expected one of 8 bytes for each"):
        scan(fake.host)


@pytest.mark.parametrize(("spanned", "whole"), [(10, True), (11, False)])
def test_a_file_cut_between_entries_is_told_by_the_zones(fake: FakeHost, spanned: int, whole: bool) -> None:
    fake.frames(FLAGS, COUNTS)
    fake.text("proc/zoneinfo", ZONE.format(spanned))
    if whole:
        assert scan(fake.host).entries == 11
    else:
        with pytest.raises(WrongUse, match="ends after 11 entries; /proc/zoneinfo has zones up to frame 12"):
            scan(fake.host)


@pytest.mark.parametrize("name", ["kpageflags", "kpagecount"])
def test_a_file_cut_within_an_entry_is_named_with_the_place(fake: FakeHost, name: str, block: int) -> None:
    fake.frames(FLAGS, COUNTS)
    fake.words(f"proc/{name}", FLAGS[:5], extra=b"abc")
    with pytest.raises(WrongUse, match=rf"{name} ends at offset 43, 3 bytes into an entry.*8 bytes"):
        scan(fake.host)


def test_a_kernel_without_the_files_is_named_as_such(fake: FakeHost) -> None:
    with pytest.raises(NotPossible, match=r"kpageflags.*CONFIG_PROC_PAGE_MONITOR"):
        scan(fake.host)


def test_without_permission_the_scan_says_it_needs_root(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", deny)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPossible, match=r"kpageflags cannot be read: permission denied, needs root"):
        scan(fake.host)


def test_a_read_that_fails_midway_names_the_file(fake: FakeHost) -> None:
    fake.host.path("proc/kpageflags").mkdir()
    with pytest.raises(NotPossible, match=re.escape(os.strerror(errno.EISDIR))):
        scan(fake.host)


def test_progress_goes_up_to_the_number_of_frames(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_BLOCK", 4)
    fake.frames(FLAGS, COUNTS)
    seen: list[tuple[int, int]] = []
    scan(fake.host, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize(("expected", "last"), [(0, 0), (10, 11), (12, 12)])
def test_progress_survives_a_wrong_or_missing_expectation(
    fake: FakeHost, expected: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "frames_expected", lambda host: expected)
    fake.frames(FLAGS, COUNTS)
    seen: list[tuple[int, int]] = []
    scan(fake.host, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(11, last)]


def test_frames_expected_of_a_file_without_size_come_from_the_zones(fake: FakeHost) -> None:
    fake.frames([])
    assert frames_expected(fake.host) == 0
    zone = (
        "Node {}, zone   Normal\n  pages free 1\n        spanned  {}\n        present  1\n  start_pfn: {}\n"
    )
    empty = "Node 0, zone   Movable\n  pages free 0\n        spanned  0\n        present  0\n"
    fake.text("proc/zoneinfo", zone.format(0, 100, 4096) + empty + zone.format(1, 50, 8192))
    assert frames_expected(fake.host) == 8242


def test_frames_are_given_in_the_order_asked_for(fake: FakeHost, block: int) -> None:
    fake.frames(FLAGS, COUNTS)
    asked = [10, 0, 5, 5, 4]
    assert read_frames(fake.host, asked) == [FrameState(pfn, FLAGS[pfn], COUNTS[pfn]) for pfn in asked]


def test_frames_far_apart_and_close_together_are_read_alike(fake: FakeHost) -> None:
    flags = list(range(5000))
    fake.frames(flags, flags)
    asked = np.array([1, 2, 60, 61, 190, 2000, 2001, 4999])
    words, counts = frame_words(fake.host, asked)
    assert words.tolist() == counts.tolist() == asked.tolist()


def test_a_frame_whose_count_cannot_be_read_has_none(fake: FakeHost) -> None:
    fake.frames(FLAGS, COUNTS[:4])
    assert [state.count for state in read_frames(fake.host, [3, 4])] == [1, None]
    fake.host.path("proc/kpagecount").unlink()
    assert read_frames(fake.host, [3]) == [FrameState(3, ANON, None)]


def test_no_frames_asked_for_are_no_frames(fake: FakeHost) -> None:
    fake.frames(FLAGS, COUNTS)
    assert read_frames(fake.host, []) == []


@pytest.mark.parametrize("pfn", [-1, 11, 12345, 1 << 51, 1 << 70, -(1 << 70)])
def test_a_number_that_is_no_frame_is_named_with_the_last_one(fake: FakeHost, pfn: int) -> None:
    fake.frames(FLAGS, COUNTS)
    with pytest.raises(WrongUse, match=rf"frame {pfn} .*frames 0 to 10 \(0xa\)"):
        read_frames(fake.host, [3, pfn, 4])


def test_persistent_memory_beyond_the_end_of_the_file_has_no_words(fake: FakeHost) -> None:
    fake.frames(FLAGS, COUNTS)
    fake.text("proc/iomem", "100000000-100001fff : Persistent Memory (legacy)\n")
    there = 0x100001
    assert read_frames(fake.host, [3, there]) == [FrameState(3, ANON, 1), FrameState(there, pf.NOPAGE, None)]
    with pytest.raises(WrongUse, match=f"frame {there + 1} "):
        read_frames(fake.host, [there + 1])


def test_a_host_without_frames_says_so(fake: FakeHost) -> None:
    fake.frames([], [])
    with pytest.raises(WrongUse, match=r"frame 0 .*no frames at all"):
        read_frames(fake.host, [0])


def test_this_machine_is_counted_completely(live: Host) -> None:
    seen: list[tuple[int, int]] = []
    tally = scan(live, progress=lambda done, total: seen.append((done, total)))
    assert sum(tally.kinds.values()) == tally.entries > 0
    assert tally.bytes_read == tally.entries * 8 * (2 if live.path("proc/kpagecount").exists() else 1)
    assert seen[-1] == (tally.entries, tally.entries)
    with pytest.raises(WrongUse, match=f"frames 0 to {tally.entries - 1} "):
        read_frames(live, [tally.entries])


@pytest.mark.parametrize(("merged", "shown"), [("0", ANON), ("3", ANON | pf.KSM), (None, ANON | pf.KSM)])
def test_merged_pages_are_not_believed_where_nothing_was_merged(
    fake: FakeHost, merged: str | None, shown: int
) -> None:
    """6.12 sets KSM on every anonymous page."""
    fake.frames([ANON | pf.KSM], [1])
    if merged is not None:
        fake.text("sys/kernel/mm/ksm/pages_shared", merged + "\n")
    assert scan(fake.host).kinds == {(shown, 1): 1}
    assert read_frames(fake.host, [0]) == [FrameState(0, shown, 1)]
