"""A host made of files, to be read like a real one."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hwpoison.abi.pagemap import PFN_MASK
from hwpoison.host.proc import Host

PAGE = 4096


class FakeHost:
    """Writes the files of /proc and /sys below a directory."""

    def __init__(self, root: Path) -> None:
        (root / "proc").mkdir(parents=True)
        self.host = Host(root, PAGE)

    def text(self, name: str, content: str) -> None:
        path = self.host.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def words(self, name: str, words: Sequence[int], extra: bytes = b"") -> None:
        self.host.path(name).write_bytes(np.array(words, np.uint64).tobytes() + extra)

    def frames(self, flags: Sequence[int], counts: Sequence[int] | None = None) -> None:
        self.words("proc/kpageflags", flags)
        if counts is not None:
            self.words("proc/kpagecount", counts)

    def process(self, pid: int, comm: str, maps: Sequence[str], pages: Mapping[int, int] = {}) -> None:
        """A process with these lines of maps, and these page table entries by address."""
        self.text(f"proc/{pid}/comm", comm + "\n")
        self.text(f"proc/{pid}/maps", "".join(line + "\n" for line in maps))
        with self.host.path(f"proc/{pid}/pagemap").open("wb") as pagemap:
            ends = [int(line.split()[0].split("-")[1], 16) for line in maps]
            os.truncate(pagemap.fileno(), max(ends, default=0) // PAGE * 8)
            for address, entry in pages.items():
                pagemap.seek(address // PAGE * 8)
                pagemap.write(entry.to_bytes(8, "little"))


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "host")


def own_page(memory: mmap.mmap) -> tuple[int, int]:
    """Address and frame of the first page of this memory, by another way than the code under test."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        return address, int.from_bytes(pagemap.read(8), "little") & PFN_MASK


@pytest.fixture
def live() -> Host:
    """This machine, if its page frames can be read."""
    try:
        with open("/proc/kpageflags", "rb"), mmap.mmap(-1, PAGE) as memory:
            memory[0] = 1
            if own_page(memory)[1] == 0:
                pytest.skip("/proc/self/pagemap of this machine hides frame numbers: needs CAP_SYS_ADMIN")
    except OSError as error:
        pytest.skip(f"{error.filename} of this machine cannot be read: {error.strerror}")
    return Host()
