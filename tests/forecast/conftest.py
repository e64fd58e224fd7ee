"""A host made of files, small enough to count by hand, and an oracle for each kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.kinds import Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.plant import NotReproduced, Planted, Situation, User, Wanted, plant, some_users
from hwpoison.forecast.recipes import recipes_for
from hwpoison.host.proc import Host
from hwpoison.mm.machine import Traits

PAGE = 4096
USUAL = Situation()


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


class Builder(Protocol):
    def __call__(
        self,
        kind: Kind,
        situation: Situation = ...,
        users: tuple[User, ...] | None = ...,
        traits: Traits = ...,
    ) -> Planted: ...


@pytest.fixture(scope="session")
def build() -> Builder:
    """Build the page of a kind by the first recipe that can; raises NotReproduced with all reasons."""

    def planted(
        kind: Kind,
        situation: Situation = USUAL,
        users: tuple[User, ...] | None = None,
        traits: Traits = NEWEST.traits,
    ) -> Planted:
        reasons = []
        for recipe in recipes_for(kind.flags):
            try:
                chosen = some_users(kind.mappers) if users is None else users
                return plant(recipe, Wanted(kind, chosen, situation, traits))
            except NotReproduced as reason:
                reasons.append(str(reason))
        raise NotReproduced("; ".join(reasons) or "no recipe")

    return planted


def name(kind: Kind) -> str:
    """A kind in the name of a test."""
    return f"{'+'.join(pg.names(kind.flags)) or 'nothing'}-{kind.mappers}"


@pytest.fixture(params=EXAMPLES, ids=name)
def example(request: pytest.FixtureRequest) -> Kind:
    """One example after the other."""
    kind: Kind = request.param
    return kind
