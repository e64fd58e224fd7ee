"""Core files, made up: the signal's note counts, with the thread of the first registers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hwpoison.lab.agent.corefile import NT_PRSTATUS, NT_SIGINFO, fatal_signal, memory
from hwpoison.lab.agent.remote import Note

SIGBUS, AR = 7, 4


def note(kind: int, text: bytes) -> bytes:
    return struct.pack("<III", 5, len(text), kind) + b"CORE\0\0\0\0" + text + bytes(-len(text) % 4)


def core(*notes: bytes) -> bytes:
    text = b"".join(notes)
    header = b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64) + bytes(16) + struct.pack("<H", 1) + bytes(6)
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(text), 0, 4) + text


def status(tid: int) -> bytes:
    return note(NT_PRSTATUS, bytes(32) + struct.pack("<i", tid) + bytes(301))


SIGINFO = note(NT_SIGINFO, struct.pack("<iiiiQH", SIGBUS, 0, AR, 0, 0x7000, 12).ljust(128, b"\0"))


def test_the_first_thread_of_a_core_file_got_the_signal(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(core(status(11), SIGINFO, status(10)))
    assert fatal_signal(tmp_path / "core") == (SIGBUS, Note(11, AR, 0x7000, 12))


@pytest.mark.parametrize("content", [b"", b"no core file", core(status(11)), core(status(11), SIGINFO)[:150]])
def test_without_a_whole_core_file_nothing_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "core").write_bytes(content)
    assert fatal_signal(tmp_path / "core") is None
    assert fatal_signal(tmp_path / "no such file") is None


def with_memory(*segments: tuple[int, bytes, int]) -> bytes:
    """A core file with these pieces of memory: address, what is in the file, how much there was."""
    header = b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64) + bytes(16)
    header += struct.pack("<H", len(segments)) + bytes(6)
    offset, table, contents = 64 + 56 * len(segments), b"", b""
    for address, content, size in segments:
        table += struct.pack("<IIQQQQQQ", 1, 6, offset + len(contents), address, 0, len(content), size, 4096)
        contents += content
    return header + table + contents


def test_memory_is_found_by_its_address(tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(with_memory((0x1000, b"a" * 8, 8), (0x5000, b"b" * 8 + b"c" * 8, 16)))
    assert memory(core, 0x5008, 8) == b"c" * 8
    assert memory(core, 0x1000, 8) == b"a" * 8


def test_what_a_core_file_breaks_off_before_reads_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(with_memory((0x1000, b"a" * 4, 8)))
    assert memory(tmp_path / "core", 0x1000, 8) == b"a" * 4 + bytes(4)


@pytest.mark.parametrize("address", [0x0FF8, 0x1008, 0x9000])
def test_memory_that_is_not_described_is_not_made_up(tmp_path: Path, address: int) -> None:
    (tmp_path / "core").write_bytes(with_memory((0x1000, b"a" * 8, 8), (0x9000, b"", 8)))
    assert memory(tmp_path / "core", address, 8) is None
    assert memory(tmp_path / "no such file", address, 8) is None
