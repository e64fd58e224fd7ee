"""Page frames as /proc shows them: /proc/kpageflags and /proc/kpagecount (fs/proc/page.c).

Both files hold one 64-bit word a frame, at eight times its number; the kernel takes no lock, so a
word can be stale, and the two words of a frame need not be of the same moment. What the second file
counts is page table entries, not references.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse

from .iomem import persistent_memory
from .proc import Host, Progress, fill, unreadable
from .tally import ALL_BITS, UNKNOWN_COUNT, Indexes, PairTally, Words

WORD = 8  # bytes of an entry
FLAGS_FILE = "proc/kpageflags"
COUNT_FILE = "proc/kpagecount"
KSM_FILE = "sys/kernel/mm/ksm/pages_shared"

_BLOCK = 1 << 17  # frames read at once: 1 MiB of each file, which stays in a processor's cache
_GAP = 64  # frames: reading over a gap this small is cheaper than reading twice
_FRAME_LIMIT = 1 << 52  # no processor of Linux addresses more than 2**64 bytes


@dataclass(frozen=True, slots=True)
class FrameState:
    """One frame. ``flags`` as in hwpoison.abi.pageflags; ``count`` of page table entries, None if unknown."""

    pfn: int
    flags: int
    count: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """All frames of a host, counted by kind.

    ``entries``: words of /proc/kpageflags, holes included. ``kinds``: (flags & mask, min(count, cap)) →
    frames; they add up to ``entries``. The count is UNKNOWN_COUNT (-1) where /proc/kpagecount has no word
    for the frame or cannot be opened. ``bytes_read``: of both files.
    """

    entries: int
    kinds: dict[tuple[int, int], int]
    bytes_read: int


def scan(host: Host, *, mask: int = ALL_BITS, cap: int = 2, progress: Progress | None = None) -> Tally:
    """Count all frames of the host by kind, in memory that does not depend on how many there are.

    ``progress`` is called with the frames done and the frames there are (0: not known). Raises NotPossible
    if /proc/kpageflags cannot be read, WrongUse if a file ends within an entry.
    """
    tally = PairTally(mask & ~false_bits(host), cap)
    flags, counts = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    total = frames_expected(host)
    entries = words_read = 0
    with ExitStack() as stack:
        flags_file = _open_flags(host, stack)
        count_file = _open_counts(host, stack)
        # Reading takes nearly all the time, in the kernel and without Python's lock: both files at once.
        second_reader = stack.enter_context(ThreadPoolExecutor(1))
        while True:
            counting = None
            if count_file is not None:
                counting = second_reader.submit(_words_at, host, COUNT_FILE, count_file, counts, entries)
            frames = _words_at(host, FLAGS_FILE, flags_file, flags, entries)
            if not frames:
                break
            known = min(counting.result(), frames) if counting is not None else 0
            tally.add(flags[:frames], counts[:known])
            entries += frames
            words_read += frames + known
            if progress:
                progress(entries, total and max(total, entries))
    _all_there(host, entries)
    return Tally(entries, dict(tally.kinds()), words_read * WORD)


def _all_there(host: Host, entries: int) -> None:
    """A copy of the file that was cut short must not pass for a smaller host."""
    expected = frames_of_zones(host)
    if not entries or entries < expected:
        zones = f"; /proc/zoneinfo has zones up to frame {expected}" if expected else ""
        raise WrongUse(
            f"{host.path(FLAGS_FILE)} ends after {entries} entries{zones}: expected one of {WORD} bytes "
            "for each frame (a copy that was cut short?)"
        )


def frames_expected(host: Host) -> int:
    """About how many words /proc/kpageflags has: its size if it has one, else from /proc/zoneinfo, else 0."""
    try:
        size = os.stat(host.path(FLAGS_FILE)).st_size
    except OSError:
        return 0
    return size // WORD or frames_of_zones(host)


def frames_of_zones(host: Host) -> int:
    """One more than the last frame of any zone by /proc/zoneinfo; 0 if that cannot be read."""
    try:
        zones = host.read_text("proc/zoneinfo")
    except OSError:
        return 0
    ends = [0]
    for zone in zones.split("Node ")[1:]:
        span, first = re.search(r"\bspanned\s+(\d+)", zone), re.search(r"\bstart_pfn:\s+(\d+)", zone)
        if span and first:  # an empty zone has no start
            ends.append(int(first[1]) + int(span[1]))
    return max(ends)


def read_frames(host: Host, pfns: Sequence[int]) -> list[FrameState]:
    """The state of each of these frames, in the order given.

    Raises WrongUse for a number that is no frame, NotPossible if /proc/kpageflags cannot be read.
    """
    check_frames(host, pfns)
    flags, counts = frame_words(host, np.asarray(pfns, np.int64))
    return [
        FrameState(pfn, word, None if count == UNKNOWN_COUNT else count)
        for pfn, word, count in zip(pfns, flags.tolist(), counts.tolist(), strict=True)
    ]


def frame_words(host: Host, pfns: NDArray[np.int64]) -> tuple[Words, Indexes]:
    """Page flags and map counts of these frames, as arrays in the same order; UNKNOWN_COUNT as in a tally.

    Persistent memory has no words, and counts as NOPAGE. Raises WrongUse for a number that is no frame,
    NotPossible if /proc/kpageflags cannot be read.
    """
    wanted, places = np.unique(pfns, return_inverse=True)
    check_frames(host, wanted[[0, -1]].tolist() if len(wanted) else ())
    flags = np.empty(len(wanted), np.uint64)
    counts = np.full(len(wanted), UNKNOWN_COUNT, np.int64)
    buffer = np.empty(_BLOCK, np.uint64)
    with ExitStack() as stack:
        flags_file = _open_flags(host, stack)
        count_file = _open_counts(host, stack)
        for part in _neighbours(wanted):
            first, size = int(wanted[part.start]), int(wanted[part.stop - 1] - wanted[part.start]) + 1
            index = wanted[part] - first
            read = _words_at(host, FLAGS_FILE, flags_file, buffer[:size], first)
            buffer[read:size] = pg.NOPAGE
            if read < size:
                _check_beyond(host, wanted[part][index >= read].tolist())
            flags[part] = buffer[index]
            if count_file is not None:
                known = index < _words_at(host, COUNT_FILE, count_file, buffer[:size], first)
                counts[part][known] = buffer[index[known]]
    return (flags & np.uint64(ALL_BITS & ~false_bits(host)))[places], counts[places]


def _check_beyond(host: Host, pfns: Sequence[int]) -> None:
    """Frames beyond the end of the file may be persistent memory, whose pages /proc does not show (seen on
    6.1 to 7.3); raises WrongUse for any other."""
    known = persistent_memory(host)
    for pfn in pfns:
        if not any(pfn in frames for frames in known):
            raise _no_frame(host, pfn)


def false_bits(host: Host) -> int:
    """Bits that this kernel shows without meaning them, and that are left out of every word.

    KSM, where the merger says that it has merged nothing: 6.12 sets it on all anonymous memory (seen).
    """
    try:
        merged = host.read_text(KSM_FILE)
    except OSError:
        return 0
    return pg.KSM if merged == "0" else 0


def _neighbours(wanted: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of ascending frame numbers that lie close together and within one block."""
    begin = 0
    for end in [*(np.flatnonzero(np.diff(wanted) > _GAP) + 1).tolist(), len(wanted)]:
        while begin < end:
            stop = min(end, int(np.searchsorted(wanted, wanted[begin] + _BLOCK)))
            yield slice(begin, stop)
            begin = stop


def check_frames(host: Host, pfns: Collection[int]) -> None:
    """Raises WrongUse if one of these cannot be the number of a frame on any host."""
    for pfn in (min(pfns), max(pfns)) if len(pfns) else ():
        if not 0 <= pfn < _FRAME_LIMIT:
            raise _no_frame(host, pfn)


def _no_frame(host: Host, pfn: int) -> WrongUse:
    """The problem for a number that is no frame; the last one is found by halving what may be one."""
    low, high = -1, _FRAME_LIMIT
    with ExitStack() as stack:
        flags_file = _open_flags(host, stack)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if os.pread(flags_file, WORD, middle * WORD) else (low, middle)
    valid = f"frames 0 to {low} ({low:#x})" if low >= 0 else "no frames at all"
    return WrongUse(f"frame {pfn} ({pfn:#x}) is none of this host: it has {valid}")


def _open_flags(host: Host, stack: ExitStack) -> int:
    try:
        return stack.enter_context(host.open(FLAGS_FILE))
    except OSError as error:
        raise unreadable(host.path(FLAGS_FILE), error) from None


def _open_counts(host: Host, stack: ExitStack) -> int | None:
    """Map counts only refine what the flags say: without their file they are unknown, which is no failure."""
    try:
        return stack.enter_context(host.open(COUNT_FILE))
    except OSError:
        return None


def _words_at(host: Host, name: str, descriptor: int, words: Words, first: int) -> int:
    """Read entries from frame ``first`` on into ``words``; how many there were before the end of the file."""
    try:
        read = fill(descriptor, words.view(np.uint8).data, first * WORD)
    except OSError as error:
        raise unreadable(host.path(name), error) from None
    if read % WORD:
        end = first * WORD + read
        raise WrongUse(
            f"{host.path(name)} ends at offset {end}, {read % WORD} bytes into an entry: expected whole "
            f"entries of {WORD} bytes (a copy that was cut short?)"
        )
    return read // WORD
