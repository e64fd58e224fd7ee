"""Pages without any flag: how many of them are no memory of the kernel's allocator at all (/proc/zoneinfo).

A word of zero means "the kernel uses it and has not said for what", "free, on the list of a CPU", "present
but never given to the allocator" (memory of the hypervisor, or kept back at boot), or since 7.2 "no memory
here". Only the first two can hold anybody's data. The counts come from different moments, so they are
estimates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwpoison.host.proc import Host

ZONEINFO = "proc/zoneinfo"


@dataclass(frozen=True, slots=True)
class Zones:
    """Sums over all zones, in pages: frames with memory, and those that the allocator manages."""

    present: int
    managed: int


def read_zones(host: Host) -> Zones | None:
    """None where /proc/zoneinfo cannot be read or says nothing."""
    try:
        text = host.read_text(ZONEINFO)
    except OSError:
        return None
    present, managed = (
        sum(int(pages) for pages in re.findall(rf"^\s+{word}\s+(\d+)$", text, re.MULTILINE))
        for word in ("present", "managed")
    )
    return Zones(present, managed) if managed else None


def unflagged_note(
    zones: Zones | None, entries: int, unflagged: int, nopage: int, reserved: int
) -> str | None:
    """What the pages without any flag are, in a sentence; None if there are none or nothing is known.

    ``nopage`` frames show that nothing is there; ``reserved`` ones belong to the unmanaged, but are marked.
    """
    if zones is None or not unflagged:
        return None
    holes = min(unflagged, max(0, entries - zones.present - nopage))
    unmanaged = min(unflagged - holes, max(0, zones.present - zones.managed - reserved))
    rest = unflagged - holes - unmanaged
    nothing = f"{holes:,} holes, {unmanaged:,} not managed by its allocator, by /proc/zoneinfo"
    return (
        f"Of the {unflagged:,} frames without any flag, about {holes + unmanaged:,} are no memory of the "
        f"kernel's ({nothing}). The other {rest:,} are its own unmarked pages, or free on a CPU's list: "
        f"{100 * rest / zones.managed:.1f} % of its memory."
    )
