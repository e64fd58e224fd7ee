"""Recorded answers: the same text for the same answers, whole files only, and no stale ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.abi.records import Observation, Outcome
from hwpoison.lab import records, tools
from hwpoison.lab.answers import Answer
from hwpoison.lab.kernels import Kernel
from hwpoison.lab.records import Record, Recorded, digest, exceptions, read, render, write
from hwpoison.scenario.load import Scenario, load_text

KERNEL = Kernel("6.12", "6.12.9-amd64", Path("vmlinuz"), Path("root"))
RETURN = Observation(2, "return", "m", {"code": "0"})
SIGNAL_A = Observation(2, "signal", "A", {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12})
SIGNAL_B = Observation(2, "signal", "B", {"code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12})
LOG = Observation(2, "log", "", {"text": "Memory failure: 0x1a2b3: corrupted page was clean"})
PANIC = Observation(2, "panic", "", {"text": "Memory failure on page 0x1a2b3"})


def scenario(
    name: str, steps: str = "task A\nmap m task=A\ninject m:0 via=madvise", head: str = ""
) -> Scenario:
    (made,) = load_text(f"name = '{name}'\n{head}\nsteps = '''\n{steps}\n'''\n", "made up")
    return made


CATALOGUE = {name: scenario(name) for name in ("a", "b", "c")}


def answered(*seen: Observation) -> Answer:
    return Answer(Outcome("a", KERNEL.name, KERNEL.release, seen))


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    path = write(
        tmp_path, KERNEL, CATALOGUE, {"a": answered(RETURN, SIGNAL_A), "b": Answer(cannot="no „ext2“")}
    )
    assert path == tmp_path / "6.12.json"
    steps = digest(CATALOGUE["a"])
    assert read(path) == Record(
        "6.12",
        KERNEL.release,
        {
            "a": Recorded(steps, Outcome("a", "6.12", KERNEL.release, (RETURN, SIGNAL_A))),
            "b": Recorded(steps, None, "no „ext2“"),
        },
    )


def test_the_text_is_json_with_a_line_for_each_observation(tmp_path: Path) -> None:
    path = write(tmp_path, KERNEL, CATALOGUE, {"a": answered(RETURN, SIGNAL_A), "b": Answer(cannot="x")})
    text = path.read_text()
    assert json.loads(text)["release"] == KERNEL.release
    assert text.splitlines()[3:6] == [
        f'  "a": {{"steps": "{digest(CATALOGUE["a"])}", "seen": [',
        '    {"step": 2, "kind": "return", "who": "m", "code": "0"},',
        '    {"step": 2, "kind": "signal", "who": "A", "code": "BUS_MCEERR_AO", "page": "m:0", "lsb": 12}',
    ]


def test_the_same_answers_are_the_same_text() -> None:
    first = Record("6.12", "r", {"a": Recorded("d", answered(RETURN, SIGNAL_A, SIGNAL_B).outcome)})
    again = Record("6.12", "r", {"a": Recorded("d", answered(SIGNAL_B, SIGNAL_A, LOG, RETURN).outcome)})
    assert render(first) == render(again)


def test_numbers_that_change_from_run_to_run_are_not_in_it() -> None:
    assert "1a2b3" not in render(Record("6.12", "r", {"a": Recorded("d", answered(PANIC, LOG).outcome)}))


def test_an_outcome_without_observations_is_recorded_as_such(tmp_path: Path) -> None:
    path = write(tmp_path, KERNEL, CATALOGUE, {"a": answered()})
    recorded = read(path).scenarios["a"].outcome
    assert recorded is not None
    assert recorded.observations == ()


def test_failures_and_strangers_are_not_recorded(tmp_path: Path) -> None:
    answers = {"a": Answer(failed="it was silent"), "b": answered(RETURN), "elsewhere": answered(RETURN)}
    assert list(read(write(tmp_path, KERNEL, CATALOGUE, answers)).scenarios) == ["b"]


def test_what_was_recorded_of_other_scenarios_stays_and_of_removed_ones_goes(tmp_path: Path) -> None:
    write(tmp_path, KERNEL, CATALOGUE, {name: answered(RETURN) for name in CATALOGUE})
    without_b = {name: entry for name, entry in CATALOGUE.items() if name != "b"}
    path = write(tmp_path, KERNEL, without_b, {"a": Answer(cannot="now it cannot")})
    assert {name: entry.cannot for name, entry in read(path).scenarios.items()} == {
        "a": "now it cannot",
        "c": "",
    }


def test_answers_of_two_releases_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, KERNEL, CATALOGUE, {name: answered(RETURN) for name in CATALOGUE})
    newer = replace(KERNEL, release="6.12.10-amd64")
    with pytest.raises(WrongUse, match=r"hwpoison verify --kernel 6\.12 --record"):
        write(tmp_path, newer, CATALOGUE, {"a": answered(RETURN)})
    path = write(tmp_path, newer, CATALOGUE, {name: answered(RETURN) for name in CATALOGUE})
    assert read(path).release == "6.12.10-amd64"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "recorded").write_text("in the way")
    with pytest.raises(NotPossible, match="cannot be written"):
        write(tmp_path / "recorded", KERNEL, CATALOGUE, {"a": answered(RETURN)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"release": "r"}',
        '{"release": "r", "scenarios": []}',
        '{"release": "r", "scenarios": {"a": {}}}',
        '{"release": "r", "scenarios": {"a": {"steps": "d", "seen": [{"step": 1}]}}}',
    ],
)
def test_a_file_that_is_no_record_is_told_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "6.12.json").write_text(text)
    with pytest.raises(NotPossible, match=r"6\.12\.json is not a record of a kernel"):
        read(tmp_path / "6.12.json")


def test_the_digest_is_of_what_a_kernel_gets_to_see() -> None:
    same = [
        scenario("other-name", head="title = 't'\nframes = 64"),
        scenario(
            "a", "task  A\n\n# a comment\nmap m task=A shared=no\ninject m:0 via=madvise\n  => return code=0"
        ),
    ]
    different = [
        scenario("a", "task A\nmap m task=A\ninject m:0 via=debugfs"),
        scenario("a", "task A\nmap m task=A pages=2\ninject m:0 via=madvise"),
        scenario("a", head="swap = 8"),
    ]
    assert {digest(each) for each in same} == {digest(CATALOGUE["a"])}
    assert digest(CATALOGUE["a"]) not in {digest(each) for each in different}


def test_exceptions_are_named_by_scenario_and_kernel(tmp_path: Path) -> None:
    path = tmp_path / "exceptions.toml"
    assert exceptions(path) == {}
    path.write_text('[[exception]]\nscenario = "a"\nkernels = ["6.1", "6.12"]\nreason = "a known hole"\n')
    assert exceptions(path) == {("a", "6.1"): "a known hole", ("a", "6.12"): "a known hole"}


@pytest.mark.parametrize(
    "text",
    [
        "[[exception",
        '[[exception]]\nscenario = "a"\nkernels = ["6.1"]\n',
        '[[exception]]\nscenario = "a"\nkernels = ["6.1"]\nreason = " "\n',
        '[[exception]]\nscenario = "a"\nkernels = ["6.1"]\nreason = "x"\nstep = 3\n',
    ],
)
def test_an_exception_without_a_reason_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "exceptions.toml"
    path.write_text(text)
    with pytest.raises(WrongUse, match=r"exceptions\.toml: "):
        exceptions(path)


def test_an_installed_package_has_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "SOURCE", tmp_path / "site-packages")
    with pytest.raises(NotPossible, match="in the project's checkout"):
        records.directory()
