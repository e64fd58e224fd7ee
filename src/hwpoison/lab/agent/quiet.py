"""What is switched off in the guest, so that only the scenario's own steps change its pages.

Each is a file and what is written to it; one that this kernel does not have is passed over.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .problems import CannotSetUp
from .syscalls import libc

SETTINGS = (
    ("/proc/sys/kernel/printk_devkmsg", "on"),  # our markers are not to be rate limited
    ("/proc/sys/kernel/core_pattern", "/run/hwpoison/core.%P"),
    # Not 0: then each first dirtying of an inode wakes the flusher, which cleans pages under our hands.
    ("/proc/sys/vm/dirty_writeback_centisecs", "360000"),
    ("/proc/sys/vm/dirty_expire_centisecs", "360000"),
    ("/proc/sys/vm/compaction_proactiveness", "0"),
    # One page a fault, one page a read from disk or swap: neighbours stay where the scenario put them.
    ("/sys/kernel/debug/fault_around_bytes", "4096"),
    ("/proc/sys/vm/page-cluster", "0"),
    ("/sys/kernel/mm/swap/vma_ra_enabled", "false"),
    # Only what a scenario marks with MADV_HUGEPAGE is part of something larger, and only by its own steps.
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise"),
    ("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "3600000"),
    ("/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs", "3600000"),
    ("/sys/kernel/mm/ksm/run", "0"),
    ("/sys/module/zswap/parameters/enabled", "N"),
)
DEFAULTS = (
    ("/proc/sys/vm/memory_failure_early_kill", "0"),
    ("/proc/sys/vm/memory_failure_recovery", "1"),
    ("/proc/sys/vm/panic_on_unrecoverable_memory_failure", "0"),
    ("/proc/sys/vm/enable_soft_offline", "1"),
    ("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled", "never"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-enable", "0"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-dev-major", "4294967295"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-dev-minor", "4294967295"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-memcg", "0"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-flags-mask", "0"),
    ("/sys/kernel/debug/hwpoison/corrupt-filter-flags-value", "0"),
)
"""What a scenario may change, and how it is put back."""


KSM = "/sys/kernel/mm/ksm/"
KSM_RUN = (
    (KSM + "smart_scan", "0"),
    (KSM + "sleep_millisecs", "10"),
    (KSM + "pages_to_scan", "10000"),
    (KSM + "run", "1"),
)
"""ksmd at work, at all pages in each pass; it looks at a page twice before it merges it."""
KSM_REST = ((KSM + "run", "0"),)
KSM_FORGET = ((KSM + "run", "2"), (KSM + "run", "0"))
"""Take all merged pages apart, bad ones as well: nothing later is to be merged into one."""


def put(settings: tuple[tuple[str, str], ...]) -> None:
    """Write all of these that exist. CannotSetUp names one that refuses."""
    for name, value in settings:
        if Path(name).exists():
            try:
                write_once(name, value + "\n")
            except OSError as error:
                raise CannotSetUp(f"{name} does not take {value!r}: {error.strerror}") from None


def write_once(name: str, text: str) -> None:
    """One write(2): a buffered file that meets an error writes again when it is closed. Raises OSError."""
    descriptor = os.open(name, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def mount(source: str, where: Path, kind: str, options: str = "") -> None:
    """mount(2), at a directory that is made if need be. Raises OSError."""
    where.mkdir(parents=True, exist_ok=True)
    if libc.mount(source.encode(), str(where).encode(), kind.encode(), 0, options.encode() or None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(where))
