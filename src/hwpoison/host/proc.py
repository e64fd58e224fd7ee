"""Where /proc and /sys are, how they are read, and what people are told when they cannot be.

Every other module of this package reads through :class:`Host`, so all of them work on this machine, on a
copy of another machine's files, and on the made-up ones of the tests.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hwpoison.abi.problems import NotPossible

Progress = Callable[[int, int], None]
"""Told how many are done, and how many there are."""

_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.ESRCH: "the process has ended",
}
_ABSENT_HINTS = {
    "kpageflags": "the kernel was built without CONFIG_PROC_PAGE_MONITOR, or this is no /proc",
    "pagemap": "the kernel was built without CONFIG_PROC_PAGE_MONITOR, or this is no /proc",
    "osrelease": "is /proc mounted?",
}


@dataclass(frozen=True, slots=True)
class Host:
    """A Linux host: this machine, or the files below ``root`` (root/proc/..., root/sys/...).

    ``page_size`` is in bytes; it belongs to the host the files come from.
    """

    root: Path = Path("/")
    page_size: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE"))

    def path(self, name: str) -> Path:
        """The file that is /``name`` on the host."""
        return self.root / name

    def read_text(self, name: str) -> str:
        """The whole of a small file, without the white space around it. Raises OSError."""
        return self.path(name).read_text(errors="replace").strip()

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """A descriptor to read /``name`` with, closed afterwards. Raises OSError."""
        descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def reason(error: OSError) -> str:
    """Why a file could not be read, in a few words."""
    if error.errno in (errno.EACCES, errno.EPERM):
        if os.geteuid():
            return "permission denied, needs root"
        return "permission denied even to root: a capability is missing, or a security module forbids it"
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def unreadable(path: Path, error: OSError) -> NotPossible:
    """The problem to raise for a file that could not be read."""
    hint = _ABSENT_HINTS.get(path.name) if error.errno == errno.ENOENT else None
    return NotPossible(f"{path} cannot be read: {reason(error)}" + (f" ({hint})" if hint else ""))


def fill(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read bytes from ``offset`` on until the buffer is full or the file ends; how many were read.

    A read that returns nothing is the only end there is: files of /proc have no size.
    """
    have = 0
    while have < len(buffer):
        got = os.preadv(descriptor, [buffer[have:]], offset + have)
        if got == 0:
            break
        have += got
    return have
