"""Processes and their memory areas, from /proc/PID/maps (fs/proc/task_mmu.c, show_map_vma()).

A process can end between any two reads: FileNotFoundError and ProcessLookupError mean that it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwpoison.abi.problems import WrongUse

from .proc import Host

Backing = tuple[str, int]
"""A file as maps names it: device ("major:minor" in hexadecimal) and inode number."""


@dataclass(frozen=True, slots=True)
class Vma:
    """One memory area: addresses ``start`` to ``end`` (exclusive) map ``backing`` from byte ``offset`` on.

    ``shared`` as the mapping was asked for. ``path`` is None for plain anonymous memory; it can be a name in
    brackets ("[heap]"). ``backing`` is None where there is no file; memory shared without a file has one all
    the same, of the kernel's own tmpfs.
    """

    start: int
    end: int
    shared: bool
    offset: int
    backing: Backing | None
    path: str | None


def processes(host: Host) -> list[int]:
    """The numbers of all processes, ascending. Raises OSError."""
    return sorted(int(entry.name) for entry in host.path("proc").iterdir() if entry.name.isdigit())


def command(host: Host, pid: int) -> str:
    """The name of the process ("comm", at most 15 characters). Raises OSError."""
    return _read(host, f"proc/{pid}/comm").removesuffix("\n")


def areas(host: Host, pid: int | str) -> list[Vma]:
    """The memory areas of a process (its number, or "self") by address; none for kernel threads.

    Leaves out [vsyscall], which is not in the page tables of the process. Raises OSError, and WrongUse for a
    text that is no maps file.
    """
    name = f"proc/{pid}/maps"
    found = []
    for number, line in enumerate(_read(host, name).split("\n")[:-1], 1):
        try:
            vma = _area(line)
        except ValueError:
            raise WrongUse(
                f"{host.path(name)} line {number} is {line!r}: expected addresses, permissions, offset, "
                "device, inode and path"
            ) from None
        if vma.path != "[vsyscall]":
            found.append(vma)
    return found


def _area(line: str) -> Vma:
    """Raises ValueError if the line is none of a maps file."""
    span, permissions, offset, device, inode, *rest = line.split(None, 5)
    start, end = span.split("-")
    path = rest[0] if rest else None
    # Inode 0 is no file; but file systems exist that give it to real ones.
    has_file = inode != "0" or (path is not None and path.startswith("/"))
    return Vma(
        int(start, 16),
        int(end, 16),
        permissions[3:4] == "s",
        int(offset, 16),
        (device, int(inode)) if has_file else None,
        path,
    )


def _read(host: Host, name: str) -> str:
    return host.path(name).read_bytes().decode(errors="backslashreplace")
