from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hwpoison.host.proc import Host, fill, reason, unreadable


def denied() -> OSError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_who_is_not_root_is_told_that_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in reason(denied())


def test_root_is_not_told_to_become_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "needs root" not in reason(denied())
    assert "capability" in reason(denied())


def test_a_missing_file_of_frames_names_the_kernel_option() -> None:
    problem = unreadable(Path("/proc/kpageflags"), FileNotFoundError(errno.ENOENT, "gone"))
    assert "/proc/kpageflags" in str(problem) and "CONFIG_PROC_PAGE_MONITOR" in str(problem)


def test_an_error_without_words_of_ours_keeps_the_systems() -> None:
    assert reason(OSError(errno.EIO, os.strerror(errno.EIO))) == os.strerror(errno.EIO)


def test_reading_goes_on_after_short_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    whole = os.preadv

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", short)
    buffer = bytearray(120)
    with Host(tmp_path).open("file") as descriptor:
        assert fill(descriptor, memoryview(buffer)[:64], 10) == 64
        assert buffer[:64] == bytes(range(10, 74))
        assert fill(descriptor, memoryview(buffer), 0) == 100


def test_a_descriptor_is_closed_after_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Host(tmp_path).open("file") as descriptor:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
