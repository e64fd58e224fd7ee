"""What a core file says of the signal that ended its process: the one place where code and address remain.

A task whose SIGBUS has the default action cannot note it itself. The kernel writes the siginfo of the
fatal signal into the core file as a note NT_SIGINFO (fs/binfmt_elf.c fill_siginfo_note()), and the
registers of the thread that got it come first (NT_PRSTATUS, whose pr_pid is the thread).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from .remote import Note

PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS = 1
NT_SIGINFO = 0x53494749
PR_PID = 32  # offset in struct elf_prstatus


def fatal_signal(path: Path) -> tuple[int, Note] | None:
    """(signal number, what came with it), or None without a whole core file."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    tid: int | None = None
    for kind, text in _notes(content):
        if kind == NT_PRSTATUS and tid is None:
            tid = struct.unpack_from("<i", text, PR_PID)[0]
        if kind == NT_SIGINFO and tid is not None:
            number, _errno, code = struct.unpack_from("<iii", text)
            address, lsb = struct.unpack_from("<QH", text, 16)
            return number, Note(tid, code, address, lsb)
    return None


def memory(path: Path, address: int, size: int) -> bytes | None:
    """What a core file has of this memory; None if it is not described. What was left out reads as zeros."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    for kind, offset, start, in_file, in_memory in _segments(content):
        if kind == PT_LOAD and start <= address < start + in_memory:
            skipped = address - start
            found = content[offset + skipped : offset + min(in_file, skipped + size)]
            return found.ljust(size, b"\0") if in_file > skipped else None
    return None


def _segments(content: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each program header of an ELF64 file: type, offset, address, size in the file and in memory."""
    if len(content) < 64 or content[:4] != b"\x7fELF":
        return
    table, count = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)[0]
    for number in range(count):
        kind, _flags, offset, start, _paddr, in_file, in_memory = struct.unpack_from(
            "<IIQQQQQ", content, table + 56 * number
        )
        yield kind, offset, start, in_file, in_memory


def _notes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each note of an ELF64 core file."""
    for kind, offset, _start, size, _in_memory in _segments(content):
        end = offset + size
        while kind == PT_NOTE and offset + 12 <= end <= len(content):
            name_size, text_size, note = struct.unpack_from("<III", content, offset)
            start = offset + 12 + (name_size + 3 & ~3)
            yield note, content[start : start + text_size]
            offset = start + (text_size + 3 & ~3)
