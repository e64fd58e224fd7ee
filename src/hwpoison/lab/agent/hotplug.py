"""Blocks of memory that the running kernel lets go of, and takes back (/sys/devices/system/memory/).

Which blocks hold only movable pages is found out by trying. A block that is left offline with a bad frame
in it does not come back in this boot, so scenarios that do that are the last but those that stop the machine.
"""

from __future__ import annotations

import re
from pathlib import Path

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SIZE

from . import frames
from .problems import NeedsFreshBoot
from .quiet import write_once

MEMORY = Path("/sys/devices/system/memory")


def _block_frames() -> int:
    return int((MEMORY / "block_size_bytes").read_text(), 16) // PAGE_SIZE


def switch(pfn: int, state: str) -> int:
    """Bring the block with this frame into this state; 0 or a negative errno."""
    return _write(MEMORY / f"memory{pfn // _block_frames()}", state)


def _write(block: Path, state: str) -> int:
    try:
        write_once(str(block / "state"), state)
    except OSError as error:
        return -(error.errno or 0)
    return 0


def removable_frame() -> int:
    """A free frame in the middle of the highest block that can go. NeedsFreshBoot if none is left."""
    size = _block_frames()
    numbers = sorted(
        (int(re.sub(r"\D", "", path.name)) for path in MEMORY.glob("memory[0-9]*")), reverse=True
    )
    for number in numbers:
        block = MEMORY / f"memory{number}"
        if (block / "state").read_text().strip() != "online" or _write(block, "offline"):
            continue
        if _write(block, "online"):
            continue
        found = frames.words("/proc/kpageflags", number * size, size)
        free = [index for index, word in enumerate(found) if word & pg.BUDDY and not word & pg.HWPOISON]
        if free:
            return number * size + free[len(free) // 2]
    raise NeedsFreshBoot("no block of memory is left that could be taken out")


def all_online() -> None:
    """Bring back what an earlier scenario has left outside, where the kernel allows it."""
    for state in MEMORY.glob("memory[0-9]*/state"):
        if state.read_text().strip() == "offline":
            _write(state.parent, "online")
