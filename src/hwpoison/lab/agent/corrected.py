"""Errors that the hardware corrects: the kernel counts them by page, and gives a page with too many up.

The counting is that of drivers/ras/cec.c, the errors are put into the log of machine checks (mce-inject),
which needs no help from the host.
"""

from __future__ import annotations

import time
from pathlib import Path

from hwpoison.abi.mce import CORRECTED_READ, PHYSICAL_PAGE
from hwpoison.abi.signals import PAGE_SHIFT

from . import frames
from .disks import modules
from .problems import CannotSetUp
from .quiet import write_once

COLLECTOR = Path("/sys/kernel/debug/ras/cec")
INJECTOR = Path("/sys/kernel/debug/mce-inject")
SECONDS = 1.0  # in which a worker has looked at the page


def give_up(pfn: int) -> None:
    """So many corrected errors in a frame that it is too many. CannotSetUp if nobody counts them."""
    if not COLLECTOR.is_dir():
        raise CannotSetUp("this kernel counts no corrected errors (CONFIG_RAS_CEC)")
    modules("mce-inject")
    write_once(str(COLLECTOR / "action_threshold"), "1")
    words = {
        "flags": "sw",
        "status": hex(CORRECTED_READ),
        "addr": hex(pfn << PAGE_SHIFT),
        "misc": hex(PHYSICAL_PAGE),
    }
    for name, word in {**words, "cpu": "0", "bank": "5"}.items():  # the last one brings it in
        write_once(str(INJECTOR / name), word + "\n")
    deadline = time.monotonic() + SECONDS
    while not frames.is_bad(pfn) and time.monotonic() < deadline:
        time.sleep(0.01)
