"""Which processes map which frames, from /proc/PID/maps and /proc/PID/pagemap.

Linux looks for the processes to kill through the page (rmap). From outside there is only the other way:
through all processes. For a page of a file the kernel does not look at page tables at all: every area
that covers the page's place in the file counts (collect_procs_file(), mm/memory-failure.c). Such areas
are found here too, once some process shows which file and place it is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwpoison.abi.pageflags import ANON, BUDDY, LRU, OFFLINE, PGTABLE, SLAB
from hwpoison.abi.pagemap import FILE, SWAPPED
from hwpoison.abi.problems import NotPossible, WrongUse

from .frames import check_frames, frame_words
from .pagetables import entries, present_frames
from .proc import Host, Progress, reason, unreadable
from .tally import Indexes, Words
from .vmas import Backing, Vma, areas, command, processes

_ENDED = (ProcessLookupError, FileNotFoundError)
# What has one of these and no page table entry counted is mapped nowhere. Others may be mapped uncounted:
# the page of zeros, memory of devices.
_COUNTED = np.uint64(LRU | BUDDY | SLAB | PGTABLE | OFFLINE)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One page of one process behind which a frame is, or for ``populated`` False, could be at any time.

    ``address`` in bytes, of the page's beginning. ``path`` as in /proc/PID/maps, None for anonymous memory.
    """

    pid: int
    comm: str
    address: int
    shared: bool
    path: str | None
    populated: bool


@dataclass(frozen=True, slots=True)
class Owners:
    """Who maps the frames asked for, as far as could be seen.

    ``mappings``: for every frame asked for, ordered by pid and address. ``unread``: processes that could not
    be looked at, with the reason. ``vanished``: processes that ended meanwhile.
    """

    mappings: dict[int, list[Mapping]] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    vanished: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class ProcessFrames:
    """All pages of one process, in arrays of equal length for those present: ``address`` (bytes) and ``pfn``.

    ``swapped`` and ``not_present`` count pages. Entries that only look like swap (migration, bad pages) are
    among the swapped.
    """

    pid: int
    comm: str
    address: Indexes
    pfn: Indexes
    swapped: int
    not_present: int


def owners(host: Host, pfns: Collection[int], progress: Progress | None = None) -> Owners:
    """Find the mappings of these frames; a page of a file that nobody has populated is not found.

    Needs memory for the answer only. ``progress`` is called with processes looked at and processes. Raises
    WrongUse for a number that is no frame, NotPossible if the kernel shows no frames to this user.
    """
    check_frames(host, pfns)
    wanted = np.unique(np.fromiter(pfns, np.int64, len(pfns)))
    flags, counts = frame_words(host, wanted)
    found = Owners({pfn: [] for pfn in wanted.tolist()})
    mapped = ~((counts == 0) & (flags & _COUNTED != 0))
    if not mapped.any():
        return found
    can_hold = _areas_for(flags[mapped])
    places: dict[Backing, dict[int, set[int]]] = {}

    def look(pid: int) -> None:
        chosen = [area for area in areas(host, pid) if can_hold(area)]
        if not chosen:
            return  # a kernel thread, or a process that cannot have them
        hits = _hits(host, pid, chosen, wanted[mapped])
        comm = command(host, pid) if hits else ""
        for pfn, address, area, of_file in hits:
            found.mappings[pfn].append(Mapping(pid, comm, address, area.shared, area.path, True))
            if of_file and area.backing:
                at = places.setdefault(area.backing, {})
                at.setdefault(address - area.start + area.offset, set()).add(pfn)

    _visit(host, found, look, progress)
    if places:
        _add_covering(host, found, places)
    return found


def _areas_for(flags: Words) -> Callable[[Vma], bool]:
    """Which areas can hold one of the pages with these flags, where that is certain."""
    on_lru = bool((flags & np.uint64(LRU) != 0).all())
    anonymous = (flags & np.uint64(ANON) != 0) & (flags & np.uint64(SLAB) == 0)
    if on_lru and anonymous.all():
        return lambda area: not area.shared
    if on_lru and not anonymous.any():
        return lambda area: area.backing is not None
    return lambda area: True


def _hits(
    host: Host, pid: int, chosen: list[Vma], wanted: NDArray[np.int64]
) -> list[tuple[int, int, Vma, bool]]:
    """Wanted frames that the process maps: frame, address, area, whether it is a page of a file."""
    found = []
    starts = [area.start for area in chosen]
    for first, block in entries(host, pid, chosen):
        where, frames = present_frames(block)
        nearest = np.minimum(np.searchsorted(wanted, frames), len(wanted) - 1)
        matches = np.flatnonzero(wanted[nearest] == frames)
        for index, pfn in zip(where[matches].tolist(), frames[matches].tolist(), strict=True):
            address = (first + index) * host.page_size
            area = chosen[bisect_right(starts, address) - 1]
            if area.start <= address < area.end:
                found.append((pfn, address, area, bool(int(block[index]) & FILE)))
    return found


def _add_covering(host: Host, found: Owners, places: dict[Backing, dict[int, set[int]]]) -> None:
    """Add the areas of all processes that cover a page's place in its file without having it populated."""
    populated = {
        (pfn, mapping.pid, mapping.address) for pfn, rows in found.mappings.items() for mapping in rows
    }
    offsets = {backing: sorted(at) for backing, at in places.items()}

    def look(pid: int) -> None:
        covering = []
        for area in areas(host, pid):
            known = offsets.get(area.backing, []) if area.backing else []
            low = bisect_left(known, area.offset)
            high = bisect_left(known, area.offset + area.end - area.start)
            covering += [(area, offset) for offset in known[low:high]]
        comm = command(host, pid) if covering else ""
        for area, offset in covering:
            address = area.start + offset - area.offset
            for pfn in places[area.backing][offset] if area.backing else ():
                if (pfn, pid, address) not in populated:
                    found.mappings[pfn].append(Mapping(pid, comm, address, area.shared, area.path, False))

    _visit(host, found, look, None)
    for rows in found.mappings.values():
        rows.sort(key=lambda mapping: (mapping.pid, mapping.address))


def _visit(host: Host, found: Owners, look: Callable[[int], None], progress: Progress | None) -> None:
    """Look at every process, and note those that could not be looked at."""
    try:
        pids = processes(host)
    except OSError as error:
        raise unreadable(host.path("proc"), error) from None
    for done, pid in enumerate(pids, 1):
        try:
            look(pid)
        except _ENDED:
            found.vanished.add(pid)
        except OSError as error:
            found.unread[pid] = reason(error)
        if progress:
            progress(done, len(pids))


def process_frames(host: Host, pid: int) -> ProcessFrames:
    """Everything one process maps. A kernel thread maps nothing.

    Raises WrongUse if there is no such process; NotPossible if it ends meanwhile, if it may not be looked at,
    or if the kernel shows no frames to this user.
    """
    directory = host.path(f"proc/{pid}")
    if not directory.is_dir():
        raise WrongUse(f"there is no process {pid} on this host: {directory} does not exist")
    addresses, frames = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    swapped = 0
    try:
        comm, mapped = command(host, pid), areas(host, pid)
        for first, block in entries(host, pid, mapped):
            where, present = present_frames(block)
            addresses.append((where + first) * host.page_size)
            frames.append(present)
            swapped += int(np.count_nonzero(block & np.uint64(SWAPPED)))
    except _ENDED as error:
        if directory.is_dir() and isinstance(error, FileNotFoundError):
            raise unreadable(directory / "pagemap", error) from None
        raise NotPossible(f"process {pid} ended, or changed its program, while it was being read") from None
    except OSError as error:
        raise NotPossible(f"process {pid} cannot be looked at: {reason(error)}") from None
    pages = sum(area.end - area.start for area in mapped) // host.page_size
    address, pfn = np.concatenate(addresses), np.concatenate(frames)
    # The process goes on meanwhile: it can have got pages that were not in its areas when these were read.
    return ProcessFrames(pid, comm, address, pfn, swapped, max(0, pages - len(pfn) - swapped))
