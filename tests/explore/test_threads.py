"""Two threads of one process in the kernel at once: what one takes away the other may still be using."""

from __future__ import annotations

import pytest

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.race import Race
from hwpoison.explore.search import Result, Search, Status
from hwpoison.scenario.load import load_text

CALLS = {
    "mlock": "lock m task=t",
    "pin": "pin m:0 as=p task=t\none: release p",
    "load": "load m:0 task=t",
    "discard": "discard m:0 task=t",
    "migrate": "migrate m:0 task=t",
    "fork": "fork t as=child",
    "exec": "exec t",
    "exit": "exit t",
    "inject": "inject m:0 via=madvise task=t",
}


def explore(one: str, two: str) -> tuple[Race, Result]:
    """Every order of a call of a thread and one of its leader."""
    steps = (
        f"task app\nmap m task=app\nstore m:0 data=x\nthread app as=t\ntogether\none: {one}\ntwo: {two}\nend"
    )
    (scenario,) = load_text(f"name = 'it'\nswap = 4\nframes = 64\nsteps = '''\n{steps}\n'''", "it.toml")
    race = Race(scenario)
    explorer = Explorer(race)
    with explorer.open():
        return race, Search(explorer, 2_000).run("dpor")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("two", ["exit app", "exec app"])
def test_the_memory_stays_until_the_last_thread_has_left_the_kernel(call: str, two: str) -> None:
    """mm_users: a thread in a system call has its part in it, until it returns and ends, too."""
    race, result = explore(CALLS[call], two)
    assert (result.status, result.failures) == (Status.EXHAUSTED, [])
    assert result.orders > 1
    app = race.model.tasks["app"]
    assert app.mm is None or app.mm.users == [app]
    assert race.model.vm.check() == []


def test_an_area_that_another_thread_has_given_up_cannot_be_locked() -> None:
    race, result = explore(CALLS["mlock"], "unmap m task=app")
    assert (result.status, result.failures) == (Status.EXHAUSTED, [])
    assert race.model.vm.check() == []
