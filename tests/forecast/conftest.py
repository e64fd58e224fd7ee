"""A host made of files, small enough to count by hand, and an oracle for each kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.forecast.oracle import Oracle
from hwpoison.host.proc import Host

PAGE = 4096


class MadeHost:
    """Writes the files of /proc that a forecast reads."""

    def __init__(self, root: Path) -> None:
        (root / "proc").mkdir()
        self.host = Host(root, PAGE)
        self.text("proc/sys/kernel/osrelease", "6.12.3-test")

    def text(self, name: str, content: str) -> None:
        path = self.host.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def frames(self, flags: Sequence[int], counts: Sequence[int] | None = None) -> None:
        np.array(flags, np.uint64).tofile(self.host.path("proc/kpageflags"))
        if counts is not None:
            np.array(counts, np.uint64).tofile(self.host.path("proc/kpagecount"))

    def process(self, pid: int, comm: str, maps: Sequence[str], pages: Mapping[int, int] = {}) -> None:
        """A process with these lines of maps and these entries, frame | flags, by address."""
        self.text(f"proc/{pid}/comm", comm + "\n")
        self.text(f"proc/{pid}/maps", "".join(line + "\n" for line in maps))
        ends = [int(line.split()[0].split("-")[1], 16) for line in maps]
        table = np.zeros(max(ends, default=0) // PAGE, np.uint64)
        for address, entry in pages.items():
            table[address // PAGE] = entry
        table.tofile(self.host.path(f"proc/{pid}/pagemap"))


@pytest.fixture
def made(tmp_path: Path) -> MadeHost:
    return MadeHost(tmp_path)


@pytest.fixture(scope="session")
def newest() -> Oracle:
    return Oracle(NEWEST)


@pytest.fixture(params=list(PROFILES))
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """One kernel's oracle after the other."""
    return Oracle(PROFILES[request.param])
