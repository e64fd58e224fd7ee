"""Scenario files: what they may hold, and what is said about those that are wrong."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.load import catalogue, find, load_file, load_text

ONE = """\
name = "lost"
title = "A page is lost"
source = "somewhere"
swap = 4
frames = 64
breaks = ["stale-read", "forgotten-victim 6.1 6.12"]
steps = '''
task A

# not a step
map m task=A
  => call A data=ok
'''
"""


def test_a_file_with_one_scenario_needs_no_table() -> None:
    (scenario,) = load_text(ONE, "one.toml")
    assert (scenario.name, scenario.title, scenario.source) == ("lost", "A page is lost", "somewhere")
    assert (scenario.swap, scenario.frames, scenario.origin) == (4, 64, "one.toml")
    assert [step.verb for step in scenario.steps] == ["task", "map"]


def test_lines_are_counted_as_in_the_file() -> None:
    (scenario,) = load_text(ONE, "one.toml")
    lines = ONE.splitlines()
    assert [lines[step.line - 1] for step in scenario.steps] == ["task A", "map m task=A"]
    (expected,) = scenario.steps[1].expects
    assert lines[expected.line - 1].strip() == "=> call A data=ok"


@pytest.mark.parametrize("opening", ["steps = '''\ntask A\nmap m task=B", "steps = '''task A\nmap m task=B"])
@pytest.mark.parametrize("quotes", ["'''", '"""'])
def test_lines_are_counted_in_every_table_however_the_steps_begin(opening: str, quotes: str) -> None:
    table = f"[[scenario]]\nname = 'x'\n{opening}\n'''\n".replace("'''", quotes)
    text = table.replace("'x'", "'first'") + "\n" + table.replace("'x'", "'second'")
    for scenario in load_text(text, "two.toml"):
        for step in scenario.steps:
            assert step.text() in text.splitlines()[step.line - 1]


def test_a_weakness_is_for_all_kernels_unless_some_are_named() -> None:
    (scenario,) = load_text(ONE, "one.toml")
    assert scenario.breaks["stale-read"] == frozenset(PROFILES)
    assert scenario.breaks["forgotten-victim"] == {"6.1", "6.12"}
    assert scenario.expected_breaks("7.3") == {"stale-read"}
    assert scenario.expected_breaks("6.1") == {"stale-read", "forgotten-victim"}


HEAD = "name = 'x'\nsteps = '''\n"
WRONG = {
    "no TOML": ("name = x", "w.toml", "not valid TOML", "line 1"),
    "unknown key": ("name = 'x'\nswapp = 3\nsteps = 'task A'", "'x'", "unknown key 'swapp'", "swap"),
    "no name": ("steps = 'task A'", "w.toml", "'name' is missing", "expected name ="),
    "no steps": ("name = 'x'", "'x'", "'steps' is missing", "expected steps ="),
    "steps not a text": ("name = 'x'\nsteps = ['task A']", "'x'", "'steps'", "not a text"),
    "title not a text": ("name = 'x'\ntitle = 3\nsteps = 'task A'", "'x'", "'title'", "not a text"),
    "no step": ("name = 'x'\nsteps = '''\n# nothing\n'''", "w.toml:3", "no step", "expected at least one"),
    "swap not a number": (
        "name = 'x'\nswap = 'big'\nsteps = 'task A'",
        "'x'",
        "swap = 'big'",
        "expected a number",
    ),
    "frames a yes": (
        "name = 'x'\nframes = true\nsteps = 'task A'",
        "'x'",
        "frames = True",
        "expected a number",
    ),
    "huge no power": ("name = 'x'\nhuge = 6\nsteps = 'task A'", "'x'", "huge = 6", "power of two"),
    "swap negative": ("name = 'x'\nswap = -1\nsteps = 'task A'", "'x'", "swap = -1", "expected a number"),
    "breaks not a list": (
        "name = 'x'\nbreaks = 'stale-read'\nsteps = 'task A'",
        "'x'",
        "breaks",
        "expected a list",
    ),
    "unknown weakness": (
        "name = 'x'\nbreaks = ['stale-red']\nsteps = 'task A'",
        "'stale-red'",
        "stale-read",
        "'x'",
    ),
    "unknown kernel": ("name = 'x'\nbreaks = ['stale-read 6.3']\nsteps = 'task A'", "'6.3'", "6.1", "'x'"),
    "empty weakness": ("name = 'x'\nbreaks = ['']\nsteps = 'task A'", "'x'", "deviation", "''"),
    "scenario not a list": ("scenario = 3", "w.toml", "'scenario' must be a list", "[[scenario]]"),
    "table not a table": ("scenario = [3]", "w.toml", "'scenario' must be a list", "[[scenario]]"),
    "a key beside the tables": (
        "swap = 3\n[[scenario]]\n" + HEAD + "task A'''",
        "w.toml",
        "'swap'",
        "[[scenario]]",
    ),
    "unknown verb": (HEAD + "task A\ntsak B\n'''", "w.toml:4", "unknown step 'tsak'", "task"),
    "bad argument": (
        HEAD + "task A policy=often\n'''",
        "w.toml:3",
        "policy='often'",
        "expected default or early",
    ),
    "expectation first": (HEAD + "  => panic\n'''", "w.toml:3", "before the first step", "=>"),
    "wrong kernel": (HEAD + "task A\n  => [6.2] panic\n'''", "w.toml:4", "unknown kernel '6.2'", "6.12"),
    "unknown kind": (HEAD + "task A\n  => singal A\n'''", "w.toml:4", "'singal'", "signal"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_the_place_and_what_was_expected(case: str) -> None:
    text, *parts = WRONG[case]
    with pytest.raises(WrongUse) as refused:
        load_text(text, "w.toml")
    message = str(refused.value)
    assert message.startswith("w.toml")
    assert [part for part in parts if part not in message] == [], message


def test_two_scenarios_of_a_file_may_not_have_one_name() -> None:
    table = "[[scenario]]\nname = 'x'\nsteps = 'task A'\n"
    with pytest.raises(WrongUse, match=r"second scenario.*'x'"):
        load_text(table + table, "w.toml")


def test_a_file_is_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(ONE, encoding="utf-8")
    assert [scenario.name for scenario in load_file(path)] == ["lost"]
    assert [scenario.name for scenario in find(str(path))] == ["lost"]


def test_a_missing_file_is_wrong_use() -> None:
    with pytest.raises(WrongUse, match="no scenario file"):
        find("nowhere/lost.toml")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="cannot read the scenario file"):
        load_file(tmp_path)
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongUse, match="is no text: expected a scenario file in TOML"):
        load_file(path)


def test_scenarios_of_the_catalogue_are_found_by_name() -> None:
    assert [scenario.name for scenario in find("file-dirty")] == ["file-dirty"]


def test_an_unknown_name_brings_the_near_ones() -> None:
    with pytest.raises(WrongUse, match="file-dirty"):
        find("file-dirt")


def test_the_catalogue_does_not_take_a_name_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    for name in ("a.toml", "b.toml"):
        (folder / name).write_text(ONE, encoding="utf-8")
    monkeypatch.setattr(resources, "files", lambda _package: tmp_path)
    with pytest.raises(WrongUse, match=r"b\.toml.*'lost'"):
        catalogue.__wrapped__()
