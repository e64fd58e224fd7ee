"""hwpoison explore: what it prints, and what its exit codes mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwpoison.abi.problems import DONE, FINDING, NOT_POSSIBLE, WRONG_USE
from hwpoison.cli.app import main

FAILING = """
name = "to-swap"
swap = 4
steps = '''
task app
map m task=app
store m:0 data=x
together
  reclaim: swapout m:0
  mce: inject m:0 via=sysfs
end
'''
"""


@pytest.fixture
def failing(tmp_path: Path) -> str:
    path = tmp_path / "to-swap.toml"
    path.write_text(FAILING, encoding="utf-8")
    return str(path)


def test_without_a_name_the_races_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore"]) == DONE
    assert "ext4-dirty+fsync" in capsys.readouterr().out


def test_a_race_without_a_failure_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "anon+unmap"]) == DONE
    assert "every interleaving: no failure" in capsys.readouterr().out


def test_a_failure_is_a_finding_shown_in_columns_with_the_command_that_repeats_it(
    failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", failing]) == FINDING
    out = capsys.readouterr().out
    assert "promise 1: a device read the bad page" in out
    assert "race:" in out
    assert "certain from:" in out
    assert ">>>" in out
    (command,) = [line for line in out.splitlines() if line.strip().startswith("repeat:")]
    schedule = command.split("--schedule ")[1].strip("'")
    assert main(["explore", failing, "--schedule", schedule]) == FINDING
    assert "a device read the bad page" in capsys.readouterr().out


def test_a_spent_budget_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "forked+store", "--budget", "30"]) == NOT_POSSIBLE
    assert "no pass" in capsys.readouterr().out


def test_a_strategy_that_cannot_exhaust_is_no_pass_either() -> None:
    assert main(["explore", "anon+unmap", "--strategy", "random", "--budget", "20"]) == NOT_POSSIBLE
    assert main(["explore", "anon+exec", "--strategy", "bounded:1"]) == NOT_POSSIBLE


def test_a_schedule_that_does_not_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "anon+unmap", "--schedule", "mce > fly; unmap > end"]) == NOT_POSSIBLE
    assert "never came to 'fly'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["file-dirty"],
        ["no+race"],
        ["anon+unmap", "--strategy", "luck"],
        ["anon+unmap", "--schedule", "mce"],
        ["anon+unmap", "--budget", "0"],
        ["anon+unmap", "--kernel", "5.0"],
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", *arguments]) == WRONG_USE
    assert capsys.readouterr().err.count("\n") == 1


def test_programs_get_one_object(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", failing, "--json"]) == FINDING
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "failed"
    assert told["failures"][0]["schedule"].count(">") > 1
