"""Signals, their codes, errno names and the process flags of the kill policy.

Sources: include/uapi/asm-generic/siginfo.h, errno.h, include/uapi/linux/prctl.h, include/linux/sched.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class Signal(IntEnum):
    SIGABRT = 6
    SIGBUS = 7
    SIGKILL = 9
    SIGSEGV = 11


class SiCode(IntEnum):
    """si_code of SIGBUS; the two MCEERR codes are the ones that carry an address and a size."""

    SI_KERNEL = 0x80
    BUS_ADRERR = 2
    BUS_MCEERR_AR = 4
    BUS_MCEERR_AO = 5


class Errno(IntEnum):
    """The error numbers this project speaks of. The kernel returns them negated."""

    EPERM = 1
    ENOENT = 2
    EIO = 5
    ENXIO = 6
    EAGAIN = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    ENODEV = 19
    EINVAL = 22
    ENOSPC = 28
    EOPNOTSUPP = 95
    EUCLEAN = 117
    ENOTRECOVERABLE = 131
    EHWPOISON = 133


def errno_name(code: int) -> str:
    """``0`` for success, ``-EBUSY`` for -16; a number that has no name here is given as it is."""
    if code >= 0:
        return str(code)
    try:
        return f"-{Errno(-code).name}"
    except ValueError:
        return str(code)


# Task flags (field 9 of /proc/PID/stat, and of each thread's own stat file).
PF_MCE_PROCESS = 0x00000080  # the thread has its own policy ...
PF_MCE_EARLY = 0x08000000  # ... and this is it: early (set) or late

PR_MCE_KILL = 33
PR_MCE_KILL_GET = 34


class McePolicy(IntEnum):
    """prctl(PR_MCE_KILL, PR_MCE_KILL_SET, ...) values."""

    LATE = 0
    EARLY = 1
    DEFAULT = 2


@dataclass(frozen=True, slots=True)
class SigInfo:
    """What a task learns from a signal: the byte address, and in ``lsb`` log2 of the bytes lost there."""

    signal: Signal
    code: SiCode = SiCode.SI_KERNEL
    address: int | None = None
    lsb: int = 0
    forced: bool = False

    def text(self) -> str:
        where = "" if self.address is None else f" at {self.address:#x}, {1 << self.lsb} bytes"
        code = "" if self.code is SiCode.SI_KERNEL else f"/{self.code.name}"
        return f"{self.signal.name}{code}{where}"
