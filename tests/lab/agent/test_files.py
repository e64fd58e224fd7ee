"""Labels of pages, and looking into the page cache without changing it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwpoison.lab.agent.disks import Disks
from hwpoison.lab.agent.files import Files, cached, label
from hwpoison.lab.agent.problems import CannotSetUp


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"db:0:old".ljust(4096, b"\0"), "db:0:old"),
        (bytes(4096), "zeros"),
        (b"", ""),
        (b"\0rest", "mixed"),
        (b"\xff\0", "\ufffd"),
    ],
)
def test_a_page_is_read_as_the_word_it_starts_with(content: bytes, expected: str) -> None:
    assert label(content) == expected


def test_a_page_just_written_is_cached_and_a_hole_or_the_end_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 3 * 4096)
    os.pwrite(descriptor, bytes(4096), 4096)
    os.close(descriptor)
    assert [cached(file, index) for index in (1, 3)] == [True, False]


def test_a_file_system_that_cannot_be_made_is_named() -> None:
    with pytest.raises(CannotSetUp, match="fuse"):
        Files(Disks()).prepare("fuse")
