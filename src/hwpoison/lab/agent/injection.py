"""The ways in for an error, by frame number, and the way back. Each is one write(2).

Not here: MADV_HWPOISON, which the task itself calls (verbs_errors.py); errors of the hardware (hardware.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SIZE

from . import frames
from .quiet import write_once
from .remote import Remote
from .syscalls import CLOSE, OPEN, WRITE

DEBUGFS = "/sys/kernel/debug/hwpoison/corrupt-pfn"
UNPOISON = "/sys/kernel/debug/hwpoison/unpoison-pfn"
SYSFS = "/sys/devices/system/memory/hard_offline_page"
SOFT = "/sys/devices/system/memory/soft_offline_page"


def _write(hand: Remote, name: str, text: str) -> int:
    """Write it from the task that may block; 0 or a negative errno."""
    descriptor = hand.call(OPEN, hand.shared.scratch(name.encode() + b"\0"), os.O_WRONLY)
    returned = hand.raw(WRITE, descriptor, hand.shared.scratch(text.encode()), len(text))
    hand.call(CLOSE, descriptor)
    return min(returned, 0)


def corrupt_pfn(hand: Remote, pfn: int) -> int:
    return _write(hand, DEBUGFS, str(pfn))


def hard_offline(hand: Remote, pfn: int) -> int:
    return _write(hand, SYSFS, hex(pfn * PAGE_SIZE))


def soft_offline(hand: Remote, pfn: int) -> int:
    return _write(hand, SOFT, hex(pfn * PAGE_SIZE))


def unpoison_pfn(hand: Remote, pfn: int) -> int:
    return _write(hand, UNPOISON, str(pfn))


WAYS: dict[str, Callable[[Remote, int], int]] = {
    "debugfs": corrupt_pfn,
    "sysfs": hard_offline,
}


def _marked(pfn: int) -> int:
    """The frame that has the mark: of a huge page (hugetlb) the first one."""
    return frames.head_of(pfn) if frames.flags(pfn) & pg.HUGE else pfn


def unpoison(pfns: Iterable[int]) -> list[int]:
    """Make bad frames good again, now that nobody uses them; those where the kernel would not."""
    left = []
    for pfn in dict.fromkeys(map(_marked, pfns)):
        try:
            if frames.is_bad(pfn):
                write_once(UNPOISON, str(pfn))
        except OSError:
            pass  # EBUSY: somebody holds it; the flag tells
        if frames.is_bad(pfn):
            left.append(pfn)
    return left
