"""``hwpoison simulate`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hwpoison.cli.app import main
from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.load import catalogue
from hwpoison.scenario.verbs import VERBS

LOSES = "file db\nopen fd file=db\nwrite fd:0 data=new\ninject db:0 via=scrub\n"


def scenario(tmp_path: Path, steps: str, more: str = "") -> str:
    path = tmp_path / "my.toml"
    path.write_text(f"name = 'mine'\n{more}\nsteps = '''\n{steps}'''\n")
    return str(path)


def test_without_a_name_the_catalogue_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(catalogue())
    assert main(["simulate"]) == 0
    assert "file-dirty" in capsys.readouterr().out


def test_the_steps_are_explained_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--steps"]) == 0
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if not line.startswith(" ")] == [
        v.usage() for v in VERBS.values()
    ]


@pytest.mark.parametrize("kernel", PROFILES)
def test_the_story_names_who_decided_what_and_who_was_hurt(
    kernel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "anonymous-shared-by-fork", "--kernel", kernel]) in (0, 2)
    capsys.readouterr()
    assert main(["simulate", "file-dirty-mapped", "--kernel", kernel]) == 0
    told = capsys.readouterr().out
    assert f"on kernel {kernel}" in told
    row = next(n for n, row in enumerate(PROFILES[kernel].states, 1) if row.type.log == "dirty LRU page")
    assert f"row {row} of the state table" in told
    assert re.search(r"^Verdict: +dirty LRU page: Recovered$", told, re.M)
    assert re.search(r"^Hurt: +\w", told, re.M)
    assert re.search(r"^Lost: +page 0 of the ext4 file", told, re.M)


def test_a_weakness_that_is_not_listed_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", scenario(tmp_path, LOSES)]) == 1
    told = capsys.readouterr().out
    assert "Promise 2 broken" in told
    assert "known weakness 'stale-read'" in told
    assert main(["simulate", scenario(tmp_path, LOSES, "breaks = ['stale-read']")]) == 0


def test_without_expectations_nothing_is_unexpected(tmp_path: Path) -> None:
    steps = "task A sigbus=handler\nmap m task=A\nstore m:0 data=x\ninject m:0 via=debugfs\nload m:0\n"
    assert main(["simulate", scenario(tmp_path, steps)]) == 0
    assert (
        main(["simulate", scenario(tmp_path, steps.replace("debugfs\n", "debugfs\n  => return code=0\n"))])
        == 1
    )


def test_the_outcome_for_programs_has_what_was_seen_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scenario(tmp_path, LOSES + "fsync fd\n  => errno=ENXIO\n")
    assert main(["simulate", path, "--json", "--kernel", "6.1"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["scenario"], outcome["kernel"], outcome["witness"]) == ("mine", "6.1", "model")
    assert {"step": 5, "kind": "call", "who": "fd", "errno": "EIO"} in outcome["observations"]
    assert any("not seen on 6.1: call errno=ENXIO" in line for line in outcome["differences"])
    assert outcome["losses"] == ["page 0 of the ext4 file db: 'new'"]
    assert [broken["deviation"] for broken in outcome["broken"]] == ["stale-read"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("file db\n=> errno=EFOO\n", r"my.toml:5: unknown errno of a 'call' 'EFOO'"),
        ("file db\n=> verdict result=Recoverd\n", r"'Recoverd': did you mean Recovered"),
        ("file db\n=> verdict type='dirty lru page'\n", r"did you mean dirty LRU page"),
        ("file db\n=> verdict kind=x\n", r"unknown part of a 'verdict' 'kind'"),
    ],
)
def test_a_misspelt_expectation_is_refused_with_the_near_word(
    tmp_path: Path, steps: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", scenario(tmp_path, steps.replace("'", '"'))]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_the_scenario_of_the_readme_does_what_the_readme_says(tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    (block,) = re.findall(r"```toml\n(.*?)```", readme.read_text(encoding="utf-8"), re.S)
    path = tmp_path / "readme.toml"
    path.write_text(block)
    assert main(["simulate", str(path)]) == 0
