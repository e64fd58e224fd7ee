"""Files that no file system shows: System V shared memory, memfd_create(2), memfd_secret(2).

Each is made by the process of the scenario and reached through its own /proc: what ends with that
process leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from . import syscalls as nr
from .problems import CannotSetUp
from .syscalls import PAGE, libc

IPC_CREAT_RW, IPC_RMID, SHM_LOCK, SHM_UNLOCK = 0o1600, 0, 11, 12
F_ADD_SEALS = 1033
SEALS = {"shrink": 2, "grow": 4, "write": 8, "future-write": 16}
KINDS = ("sysv", "memfd", "secret")
libc.shmat.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class Made:
    """Where it can be opened; ``segment``: the number of a System V segment; ``descriptor``: ours, if any."""

    path: Path
    segment: int | None = None
    descriptor: int | None = None


def make(kind: str, name: str, pages: int) -> Made:
    """A file of this kind and size. CannotSetUp if the kernel has none of the kind."""
    if kind == "sysv":
        return _segment(pages)
    if kind == "memfd":
        descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    else:
        try:
            descriptor = nr.call(nr.MEMFD_SECRET, 0)
        except nr.CallFailed as error:
            raise CannotSetUp(f"this kernel has memfd_secret(2) switched off: {error.strerror}") from None
    os.ftruncate(descriptor, pages * PAGE)
    return Made(Path(f"/proc/{os.getpid()}/fd/{descriptor}"), descriptor=descriptor)


def _segment(pages: int) -> Made:
    """Destroyed with its last user: we hold it by a mapping, through which it can be opened as a file.

    An error there may be told to us early, as to anybody who maps it, and is not to end us. A handler, not
    SIG_IGN: a program that we start has the default action again.
    """
    signal.signal(signal.SIGBUS, lambda _number, _frame: None)
    number = nr.call(nr.SHMGET, 0, pages * PAGE, IPC_CREAT_RW)
    address = libc.shmat(number, None, 0)
    nr.call(nr.SHMCTL, number, IPC_RMID, 0)
    start = f"{address:x}-"
    found = re.search(rf"^({start}[0-9a-f]+) ", Path("/proc/self/maps").read_text(), re.MULTILINE)
    if found is None:
        raise CannotSetUp("the new segment of shared memory is not mapped")
    return Made(Path(f"/proc/{os.getpid()}/map_files/{found[1]}"), segment=number)


def add_seal(path: Path, against: str) -> None:
    """F_ADD_SEALS. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS[against])
    finally:
        os.close(descriptor)


def lock_segment(segment: int, *, on: bool) -> None:
    """SHM_LOCK or SHM_UNLOCK. Raises CallFailed."""
    nr.call(nr.SHMCTL, segment, SHM_LOCK if on else SHM_UNLOCK, 0)
