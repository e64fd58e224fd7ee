"""The whole language is spoken, and only inside a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpoison.abi.problems import NOT_POSSIBLE, WRONG_USE
from hwpoison.lab.agent import __main__ as agent
from hwpoison.lab.agent.disks import make_swap
from hwpoison.lab.agent.witness import Witness
from hwpoison.scenario.verbs import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_method(verb: str) -> None:
    assert callable(getattr(Witness, VERBS[verb].method))


def test_it_refuses_to_run_outside_a_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main([str(tmp_path / "in"), str(tmp_path / "out")]) == NOT_POSSIBLE
    assert "only as root in a guest" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main([]) == WRONG_USE
    assert "SCENARIOS.json RESULTS.jsonl" in capsys.readouterr().err


def test_a_swap_area_has_the_header_that_swapon_wants(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(8192))
    make_swap(str(tmp_path / "disk"))
    page = (tmp_path / "disk").read_bytes()[:4096]
    version, last_page, bad_pages = (int.from_bytes(page[at : at + 4], "little") for at in (1024, 1028, 1032))
    assert (page[-10:], version, last_page, bad_pages) == (b"SWAPSPACE2", 1, (64 << 20) // 4096 - 1, 0)
