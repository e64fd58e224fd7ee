"""The whole language is spoken, and only inside a guest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hwpoison.abi.problems import NOT_POSSIBLE, WRONG_USE
from hwpoison.lab.agent import __main__ as agent
from hwpoison.lab.agent.disks import make_swap
from hwpoison.lab.agent.evidence import Evidence
from hwpoison.lab.agent.tasks import Task, Tasks
from hwpoison.lab.agent.witness import Witness
from hwpoison.scenario.steps import parse_step
from hwpoison.scenario.verbs import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_method(verb: str) -> None:
    assert callable(getattr(Witness, VERBS[verb].method))


class Quiet:
    """A log without verdicts."""

    def verdicts(self) -> list[tuple[str, str]]:
        return []


@pytest.mark.parametrize(
    ("earlier", "step", "asked"),
    [
        ("", "load m:0", False),
        ("", "inject m:0 via=sysfs", True),
        ("", "soft-offline m:0 via=sysfs", True),
        ("break m:0", "load m:0", True),
        ("inject m:0 via=scrub", "read fd:0", True),
        ("inject m:0 via=sysfs", "load m:0", False),
    ],
)
def test_all_tasks_are_asked_only_after_a_step_that_can_have_signalled_them(
    earlier: str, step: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def settle() -> None:
        nonlocal rounds
        rounds += 1

    witness = object.__new__(Witness)
    witness.restless = False
    witness.evidence = cast(Evidence, Quiet())
    witness.hand_task = cast(Task, SimpleNamespace(ended=False))
    witness.tasks = cast(Tasks, SimpleNamespace(settle=settle, news=lambda _name: []))
    for verb in VERBS.values():
        monkeypatch.setattr(Witness, verb.method, lambda _self, _step: None)
    for line in filter(None, (earlier, step)):
        rounds = 0
        witness._do(parse_step(line))
    assert rounds == asked


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
