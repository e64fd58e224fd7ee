"""Huge pages of the guest's pools: their counters, and where their parts are known to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpoison.lab.agent import huge
from hwpoison.lab.agent.bench import Bench


def test_a_counter_of_promises_can_be_less_than_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge, "_folder", lambda _size: tmp_path)
    for file, text in zip(huge.COUNTERS.values(), ("1", "0", "18446744073709551615", "0"), strict=True):
        (tmp_path / file).write_text(text)
    assert huge.counters("2M") == {"nr": 1, "free": 0, "reserved": -1, "surplus": 0}


def test_a_pool_is_made_on_the_first_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "_folder", lambda _size: tmp_path / "pool")
    monkeypatch.setattr(huge, "NODE", tmp_path / "node0")
    written: dict[Path, str] = {}
    monkeypatch.setattr(huge, "write_once", lambda name, text: written.update({Path(name): text}))
    for folder in ("pool", "node0/pool"):
        (tmp_path / folder).mkdir(parents=True)
        for file in ("nr_overcommit_hugepages", "nr_hugepages"):
            (tmp_path / folder / file).write_text("2")
    huge.set_pool("2M", 2, 1)
    assert written == {
        tmp_path / "pool/nr_overcommit_hugepages": "1",
        tmp_path / "node0/pool/nr_hugepages": "2",
    }
    assert huge.on_node("2M") == 2


def test_what_was_known_of_a_huge_page_that_has_moved_is_forgotten() -> None:
    bench = object.__new__(Bench)
    bench.areas, bench.files = {}, {}
    bench.known = {("f", 0): 1024, ("f", 3): 2051, ("f", 512): 1536, ("g", 0): 1024}
    bench._forget_moved("f", 3, 2051)
    assert bench.known == {("f", 3): 2051, ("f", 512): 1536, ("g", 0): 1024}
