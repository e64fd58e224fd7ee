"""The race catalogue, and the lines between together and end."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.scenario.load import Scenario, find, load_text, races, triples
from hwpoison.scenario.model import run
from hwpoison.scenario.races import triple_bounds

START = "task app\nmap m task=app\nstore m:0 data=x\n"


def load(steps: str) -> Scenario:
    (scenario,) = load_text(f"name = 'it'\nsteps = '''\n{steps}\n'''", "it.toml")
    return scenario


def test_steps_between_together_and_end_have_the_name_of_their_path() -> None:
    scenario = load(
        START + "together\n  one: load m:0\n  mce: inject m:0 via=sysfs\n  one: load m:0\nend\nload m:0"
    )
    assert [step.path for step in scenario.steps] == ["", "", "", "one", "mce", "one", ""]
    assert scenario.labels == ["one", "mce"]
    assert scenario.steps[3].text() == "load m:0"


def test_whoever_takes_one_step_after_the_other_takes_them_as_they_are_written() -> None:
    outcome = run(load(START + "together\nfault: load m:0\nmce: inject m:0 via=sysfs\nend")).outcome
    assert [seen.kind for seen in outcome.observations][-2:] == ["return", "verdict"]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("together\none: load m:0\ntwo: load m:0", "not closed"),
        ("one: load m:0", "'together' does not stand before"),
        ("together\nload m:0\nend", "has no label"),
        ("together\none: load m:0\nend", "two paths or more"),
        ("end", "without 'together'"),
        ("together\ntogether\nend", "a second 'together'"),
        ("together\none: load m:0\ntwo: load m:0\nend\ntogether\nend", "a second 'together'"),
        ("together\none: leap m:0\nend", "unknown step 'leap'"),
    ],
)
def test_what_is_wrong_with_such_lines_is_said(steps: str, says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        load(START + steps)


def test_every_rival_meets_every_victim_that_it_can() -> None:
    tables = tomllib.loads((resources.files("hwpoison.scenario") / "races.toml").read_text(encoding="utf-8"))
    pairs = {
        f"{victim['name']}+{rival['name']}"
        for victim in tables["victim"]
        for rival in tables["rival"]
        if set(rival["needs"].split()) & set(victim["kinds"])
    }
    assert races().keys() == pairs
    assert len(pairs) > 300


def test_a_race_can_be_run_one_path_after_the_other() -> None:
    """Unless the first path leaves no page to strike."""
    ran = 0
    for race in races().values():
        try:
            broken = run(race).outcome.broken
        except WrongUse:
            continue
        ran += 1
        assert all(b.deviation in DEVIATIONS for b in broken), (race.name, broken)
    assert ran > 100


def test_the_second_rival_of_three_paths_is_another_thread() -> None:
    race = triples()["forked+unmap+fork"]
    assert race.labels == ["unmap", "fork", "mce"]
    assert [s.text() for s in race.steps if s.path][:2] == ["unmap m task=other", "fork twin as=third"]
    assert triple_bounds().keys() == triples().keys()
    assert 8 <= len(triples()) <= 20


def test_a_race_is_found_by_its_name() -> None:
    assert [race.name for race in find("anon+load+reclaim")] == ["anon+load+reclaim"]
    assert [race.name for race in find("ext4-dirty+fsync")] == ["ext4-dirty+fsync"]
    with pytest.raises(WrongUse, match=r"ext4-dirty\+fsync"):
        find("ext4-dirty+fsink")
