"""What is where in the physical address space: /proc/iomem (kernel/resource.c); without root all zeros."""

from __future__ import annotations

import re

from .proc import Host

FILE = "proc/iomem"
PAGE_SHIFT = 12
PERSISTENT = re.compile(r"^\s*([0-9a-f]+)-([0-9a-f]+) : Persistent Memory", re.MULTILINE)


def persistent_memory(host: Host) -> list[range]:
    """The frames of persistent memory; none if the host has none, or does not show where."""
    try:
        text = host.read_text(FILE)
    except OSError:
        return []
    found = [(int(first, 16), int(last, 16)) for first, last in PERSISTENT.findall(text)]
    return [range(first >> PAGE_SHIFT, (last + 1) >> PAGE_SHIFT) for first, last in found if last]
