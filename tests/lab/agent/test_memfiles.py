"""Files that no file system shows, made on the running kernel: nothing in them is bad, and nothing stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwpoison.lab.agent import memfiles
from hwpoison.lab.agent.problems import CannotSetUp


def test_a_memfd_can_be_opened_by_its_path() -> None:
    made = memfiles.make("memfd", "buffer", 2)
    assert made.descriptor is not None
    try:
        assert made.path.stat().st_size == 2 * 4096
    finally:
        os.close(made.descriptor)
    assert not made.path.exists()


@pytest.mark.parametrize("against", memfiles.SEALS)
def test_a_seal_is_of_the_file_and_not_of_who_has_it_open(against: str) -> None:
    made = memfiles.make("memfd", "buffer", 1)
    assert made.descriptor is not None
    try:
        memfiles.add_seal(made.path, against)
        refused = {
            "shrink": lambda descriptor: os.ftruncate(descriptor, 0),
            "grow": lambda descriptor: os.ftruncate(descriptor, 8192),
        }.get(against, lambda descriptor: os.write(descriptor, b"x"))
        with pytest.raises(PermissionError):
            refused(made.descriptor)
    finally:
        os.close(made.descriptor)


def test_a_file_without_seals_says_so(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    with pytest.raises(OSError):
        memfiles.add_seal(tmp_path / "plain", "shrink")


def test_a_segment_has_a_number_and_a_path() -> None:
    try:
        made = memfiles.make("sysv", "", 1)
    except (OSError, CannotSetUp) as reason:
        pytest.skip(f"no System V shared memory here: {reason}")
    assert made.segment is not None
    assert made.path.parent.name == "map_files"
