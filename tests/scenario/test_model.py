"""The model as a witness: what it says it saw, and what it says about steps that make no sense."""

from __future__ import annotations

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.abi.records import Observation
from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.load import load_text
from hwpoison.scenario.model import Run, run


def ran(steps: str, *, kernel: str = "7.3", swap: int = 0, frames: int = 256) -> Run:
    text = f"name = 'x'\nswap = {swap}\nframes = {frames}\nsteps = '''\n{steps}\n'''\n"
    (scenario,) = load_text(text, "x.toml")
    return run(scenario, PROFILES[kernel])


def seen(steps: str, *, swap: int = 0) -> list[Observation]:
    return list(ran(steps, swap=swap).outcome.observations)


SET_UP = "task A\nfile db\nopen fd file=db\nmap m task=A\n"
WRONG = {
    "exit B": ("unknown task 'B'", "A"),
    "fork B as=C": ("unknown task 'B'",),
    "map n task=B": ("unknown task 'B'",),
    "map n task=A file=db": ("unknown open file 'db'", "fd"),
    "open fe file=dc": ("unknown file 'dc'", "db"),
    "read fe:0": ("unknown open file 'fe'", "fd"),
    "close db": ("unknown open file 'db'",),
    "truncate fd pages=0": ("unknown file 'fd'",),
    "load n:0": ("unknown area 'n'", "m"),
    "load m:0 task=X": ("unknown task 'X'",),
    "dma nothing": ("no pin or hold yet", "'nothing'"),
    "map n task=A frame=ring": ("no frame yet", "'ring'"),
    "frame ring kind=driver\nmap n task=A frame=rong": ("unknown frame 'rong'", "ring"),
    "frame ring kind=driver\nmap n task=A frame=ring file=fd": ("frame=", "file="),
    "frame beyond kind=nostruct\nmap n task=A frame=beyond": ("beyond", "no struct page"),
    "frame beyond kind=nostruct\nbreak beyond": ("beyond", "no struct page"),
    "frame beyond kind=nostruct\nhold beyond as=h": ("beyond", "no struct page"),
    "frame beyond kind=nostruct\nswapout beyond": ("beyond", "no struct page"),
    "file tmp fs=tmpfs\ndrop tmpp": ("unknown file 'tmpp'", "tmp"),
    "swapoff swap\nunlock n": ("unknown area 'n'", "m"),
    "release nothing": ("no pin or hold yet", "'nothing'"),
    "file db": ("the name 'db' is taken",),
    "task m": ("the name 'm' is taken",),
    "map A task=A": ("the name 'A' is taken",),
    "fork A as=db": ("the name 'db' is taken",),
    "file tmp fs=tmpsf": ("unknown file system 'tmpsf'", "tmpfs"),
    "inject m:0 via=debugfs": ("no page there", "touch it first"),
    "break m:0": ("no page there", "touch it first"),
    "swapout m:0": ("no page there", "touch it first"),
    "hold m:0 as=h": ("no page there", "touch it first"),
    "inject db:0 via=sysfs": ("page 0 of db is not in the page cache",),
    "inject nobody:0 via=sysfs": ("unknown area, file or frame 'nobody'",),
    "inject fd:0 via=sysfs": ("unknown area, file or frame 'fd'",),
    "inject db:0 via=madvise": ("unknown area 'db'",),
    "look nothing:0": ("unknown area",),
    "filter on mask=LRUU": ("unknown page flag 'LRUU'", "LRU"),
    "read fd:0\nbusy db:0": ("no buffers",),
    "exit A\nload m:0": ("A has ended before this step",),
    "exit A\nmap n task=A": ("A has ended before this step",),
    "exec A\nlock m": ("does not have this area any more",),
    "unmap m\nunmap m": ("does not have this area any more",),
    "load m:1": ("m has 1 page",),
    "inject m:7 via=madvise": ("m has 1 page",),
}


@pytest.mark.parametrize("steps", WRONG)
def test_a_step_that_makes_no_sense_is_refused_with_its_place(steps: str) -> None:
    line = len(SET_UP.splitlines()) + len(steps.splitlines()) + 4
    with pytest.raises(WrongUse) as refused:
        ran(SET_UP + steps)
    message = str(refused.value)
    assert message.startswith(f"x.toml:{line}: {steps.splitlines()[-1]}"), message
    assert [part for part in WRONG[steps] if part not in message] == [], message


def test_too_little_memory_is_said_to_be_the_scenarios_fault() -> None:
    steps = "task A\nmap m task=A pages=40\n" + "\n".join(f"store m:{n} data=x" for n in range(40))
    with pytest.raises(WrongUse, match="give the scenario more frames"):
        ran(steps, frames=16)


def test_swap_out_without_swap_leaves_the_page_where_it_is() -> None:
    (looked,) = [
        o for o in seen("task A\nmap m task=A\nstore m:0 data=x\nswapout m:0\nlook m:0") if o.kind == "pte"
    ]
    assert looked.value == {"entry": "present", "bad": "no"}


@pytest.mark.parametrize(
    ("steps", "entry"),
    [
        ("look m:0", {"entry": "none"}),
        ("store m:0 data=x\nlook m:0", {"entry": "present", "bad": "no"}),
        ("store m:0 data=x\nswapout m:0\nlook m:0", {"entry": "swap"}),
        ("store m:0 data=x\ninject m:0 via=debugfs\nlook m:0", {"entry": "poison"}),
    ],
)
def test_an_entry_is_seen_as_pagemap_shows_it(steps: str, entry: dict[str, str]) -> None:
    looked = seen(f"task A\nmap m task=A\n{steps}", swap=4)[-1]
    assert (looked.kind, looked.who, looked.value) == ("pte", "m:0", entry)


def test_a_page_of_a_file_is_seen_in_the_cache_and_on_the_disk() -> None:
    cached, disk = seen("file db\nopen fd file=db\nwrite fd:0 data=new\nlook db:0")[-2:]
    assert cached.value == {"cached": "yes", "dirty": "yes", "bad": "no"}
    assert (disk.kind, disk.value) == ("disk", {"data": "db:0:old"})


def test_a_signal_names_the_page_in_the_words_of_the_task_that_got_it() -> None:
    steps = "task A sigbus=handler\ntask B sigbus=handler\nmap a task=A\nmap b task=B\n"
    steps += "store b:0 data=x\ninject b:0 via=debugfs\nload b:0"
    (signal,) = [o for o in seen(steps) if o.kind == "signal"]
    assert (signal.who, signal.value["page"]) == ("B", "b:0")


def test_a_death_is_seen_once() -> None:
    steps = "task A\nmap m task=A\nstore m:0 data=x\ninject m:0 via=debugfs\nload m:0\ntask B\ntask C"
    assert [o.who for o in seen(steps) if o.kind == "died"] == ["A"]


def test_a_panic_ends_the_run_and_is_an_outcome_not_a_broken_promise() -> None:
    steps = "sysctl memory_failure_recovery value=0\nframe f kind=free\ninject f via=sysfs\ncounters all"
    outcome = ran(steps).outcome
    assert [o.kind for o in outcome.observations] == ["panic"]
    assert outcome.broken == ()


def test_the_story_says_for_each_step_what_was_done_and_why() -> None:
    result = ran("task A\nmap m task=A\nstore m:0 data=x\ninject m:0 via=debugfs\nload m:0")
    assert [told.step.split()[0] for told in result.story] == ["task", "map", "store", "inject", "load"]
    assert [told.number for told in result.story] == [1, 2, 3, 4, 5]
    injected = result.story[3]
    assert any("row" in note.text and note.source for note in injected.notes)
    assert any("recovery action for dirty LRU page: Recovered" in line for line in injected.log)
    assert {o.kind for o in injected.seen} == {"return", "verdict"}


def test_an_outcome_says_who_the_witness_was() -> None:
    outcome = ran("task A", kernel="6.12").outcome
    assert (outcome.scenario, outcome.kernel, outcome.witness) == ("x", "6.12", "model")
