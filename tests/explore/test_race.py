"""Scenarios whose paths run at the same time: explored, told, and repeated by the command that is printed."""

from __future__ import annotations

import shlex

import pytest

from hwpoison.abi.exploration import Exploration
from hwpoison.abi.problems import WrongUse
from hwpoison.explore.report import Investigation
from hwpoison.explore.schedule import read
from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.scenario.load import catalogue, load_text, races

RECLAIM = "anon+reclaim"


def investigate(text: str) -> Investigation:
    (scenario,) = load_text(f"name = 'it'\nswap = 4\nsteps = '''\n{text}\n'''", "it.toml")
    return Investigation(scenario, NEWEST, "it.toml")


def test_a_race_without_a_failure_is_exhausted() -> None:
    told = Investigation(races()["anon+unmap"], NEWEST, "anon+unmap").explore()
    assert (told.status, told.failures, told.known) == ("exhausted", (), ())
    assert told.orders > 5
    assert told.paths == ("unmap", "mce")


def test_steps_after_the_end_run_after_every_execution() -> None:
    told = investigate(
        """
        task app
        map m task=app
        store m:0 data=x
        fork app as=other
        together
          gone: unmap m task=other
          mce: inject m:0 via=sysfs
        end
        load m:0 task=app
        """
    ).explore()
    assert (told.status, told.failures) == ("exhausted", ())


@pytest.fixture(scope="module")
def reclaimed() -> Exploration:
    """The weakness of a page that goes to swap while it goes bad, as a failure."""
    investigation = Investigation(races()[RECLAIM], NEWEST, RECLAIM)
    investigation.race.expected = set()
    return investigation.explore(budget=500)


def test_a_failure_is_told_with_its_race_and_from_when_it_was_certain(reclaimed: Exploration) -> None:
    (failure,) = reclaimed.failures
    assert reclaimed.status == "failed"
    assert "a device read the bad page" in failure.text
    assert failure.racing is not None
    assert failure.racing[0].split(":")[0] != failure.racing[1].split(":")[0]
    assert failure.certain is not None
    assert failure.preemptions <= 1
    assert {moment.path for moment in failure.moments} == {"reclaim", "mce", "disk:0x3"}
    assert [moment.role for moment in failure.moments].count("race") >= 1
    assert any("recovery action" in line for line in failure.state)


def test_the_schedule_that_is_printed_fails_again(reclaimed: Exploration) -> None:
    (failure,) = reclaimed.failures
    words = shlex.split(failure.command)
    schedule = words[words.index("--schedule") + 1]
    again = Investigation(races()[RECLAIM], NEWEST, RECLAIM)
    again.race.expected = set()
    told, misfit = again.replay(read(schedule))
    assert misfit is None
    assert [f.text for f in told.failures] == [failure.text]


def test_a_known_weakness_is_told_but_is_no_failure() -> None:
    told = Investigation(races()[RECLAIM], NEWEST, RECLAIM).explore(budget=400)
    assert told.failures == ()
    assert {weakness.known for weakness in told.known} == {"device-reads-on"}


def test_a_scenario_of_one_path_cannot_be_explored() -> None:
    with pytest.raises(WrongUse, match="together"):
        Investigation(catalogue()["file-dirty"], NEWEST, "file-dirty")


def test_a_path_that_lost_what_it_wanted_to_work_with_just_ends() -> None:
    told = investigate(
        """
        task app
        map m task=app
        store m:0 data=x
        fork app as=other
        thread other as=second
        together
          one: unmap m task=other
          two: unmap m task=second
        end
        """
    ).explore()
    assert (told.status, told.failures) == ("exhausted", ())


@pytest.mark.parametrize("kernel", sorted(PROFILES))
def test_every_kernel_can_be_explored(kernel: str) -> None:
    told = Investigation(races()["forked+exit"], PROFILES[kernel], "forked+exit").explore()
    assert told.kernel == kernel
    assert told.status == "exhausted"


@pytest.mark.parametrize(
    "rival",
    [
        "exit second",
        "exec second",
        "fork second as=child",
        "load n:0 task=second",
        "store n:0 data=y task=second",
    ],
)
def test_a_process_ends_once_whatever_its_other_thread_does(rival: str) -> None:
    told = investigate(
        f"""
        task app
        thread app as=second
        map m task=app
        store m:0 data=x
        map n task=app
        together
          one: exit app
          two: {rival}
        end
        """
    ).explore()
    assert (told.status, told.failures) == ("exhausted", ())
