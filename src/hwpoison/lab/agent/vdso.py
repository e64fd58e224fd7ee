"""A page of the kernel's image in a process: the vDSO that nobody else in the guest uses, the 32-bit one.

Were the one bad that every program has, each later process would die. A process may have one vDSO only, so it
first gives up its own (arch/x86/entry/vdso/vma.c map_vdso_once()).
"""

from __future__ import annotations

from pathlib import Path

from . import syscalls as nr
from .problems import CannotSetUp
from .remote import Remote

ARCH_MAP_VDSO_32 = 0x2002


def map_vdso(task: Remote) -> int:
    """Map it; the address of its first page. CannotSetUp on a kernel without 32-bit programs."""
    for first, end, _name in _areas(task.pid):
        task.call(nr.MUNMAP, first, end - first)
    if task.raw(nr.ARCH_PRCTL, ARCH_MAP_VDSO_32, 0) < 0:
        raise CannotSetUp("this kernel does not map the 32-bit vDSO when it is asked to")
    for first, _end, name in _areas(task.pid):
        if name == "[vdso]":
            return first
    raise CannotSetUp("the 32-bit vDSO is mapped, but /proc/PID/maps does not say where")


def _areas(pid: int) -> list[tuple[int, int, str]]:
    """Start, end and name of the areas of a vDSO and of its data."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if words[-1].startswith(("[vdso", "[vvar")):
            first, end = (int(part, 16) for part in words[0].split("-"))
            found.append((first, end, words[-1]))
    return found
