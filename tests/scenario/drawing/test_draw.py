"""Random scenarios: the same for a seed, valid on every kernel, and the model keeps its promises in them."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hwpoison.abi.records import Outcome
from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.drawing.coverage import Coverage
from hwpoison.scenario.drawing.draw import compose, draw
from hwpoison.scenario.drawing.limits import COSTLY, LIMITS, UNDRAWN, forbidden
from hwpoison.scenario.drawing.moves import MOVES
from hwpoison.scenario.drawing.world import drawable
from hwpoison.scenario.load import Scenario, load_text
from hwpoison.scenario.model import Model, run
from hwpoison.scenario.verbs import VERBS
from hwpoison.scenario.write import to_toml

SEED = 20
COUNT = 150


@cache
def drawn() -> tuple[Scenario, ...]:
    return tuple(draw(SEED, number) for number in range(COUNT))


@cache
def outcomes() -> tuple[tuple[Scenario, Outcome], ...]:
    return tuple((scenario, run(scenario, p).outcome) for scenario in drawn() for p in PROFILES.values())


def text(scenario: Scenario) -> list[str]:
    return [step.text() for step in scenario.steps]


def test_the_same_seed_and_number_give_the_same_scenario() -> None:
    assert text(draw(SEED, 7)) == text(drawn()[7])
    assert text(draw(SEED + 1, 7)) != text(drawn()[7])
    assert len({tuple(text(scenario)) for scenario in drawn()}) == COUNT


def test_every_scenario_can_be_run_on_every_kernel() -> None:
    cannot = [(s.name, name) for s in drawn() for name, p in PROFILES.items() if not drawable(s, p)]
    assert cannot == []


def test_every_scenario_has_an_error_or_a_reason_to_have_none() -> None:
    without = [s for s in drawn() if not any(step.verb == "inject" for step in s.steps)]
    assert len(without) < COUNT / 10


def test_a_scenario_survives_being_written_to_a_file() -> None:
    for scenario in drawn()[:20]:
        (again,) = load_text(to_toml(scenario), "a file")
        assert (text(again), again.swap, again.frames) == (text(scenario), scenario.swap, scenario.frames)


def test_the_model_keeps_its_promises_or_names_the_weakness() -> None:
    broken = [
        (scenario.name, outcome.kernel, b.text)
        for scenario, outcome in outcomes()
        for b in outcome.broken
        if b.deviation is None
    ]
    assert broken == [], f"repeat: hwpoison fuzz --model-only --seed {SEED} --count {COUNT}"


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.randoms(use_true_random=False))
def test_the_model_keeps_its_promises_whatever_is_drawn(random: Random) -> None:
    scenario = compose(random, "found-by-hypothesis")
    for profile in PROFILES.values():
        broken = [b for b in run(scenario, profile).outcome.broken if b.deviation is None]
        assert broken == [], to_toml(scenario)


def test_every_verb_can_be_drawn_or_has_a_reason_why_not() -> None:
    drawn_verbs = {move.verb for move in MOVES} | {"open"}
    left_out = {verb for verb, name, value in UNDRAWN if not name and not value}
    assert set(VERBS) - drawn_verbs - left_out == set(), "give it a Move, or a reason in limits.UNDRAWN"
    assert drawn_verbs & left_out == set(), "take it off UNDRAWN"


def test_what_is_left_out_is_in_the_language_and_never_comes_up() -> None:
    for verb, name, value in UNDRAWN:
        assert verb in VERBS
        parameters = {parameter.name: parameter for parameter in VERBS[verb].parameters}
        assert not name or name in parameters
        came_up = [
            scenario.name
            for scenario in drawn()
            for step in scenario.steps
            if step.verb == verb
            if not (name or value) or value == (step.args.get(name) if name else step.subject)
        ]
        assert came_up == []


def test_most_of_the_language_comes_up_in_a_few_scenarios() -> None:
    coverage = Coverage()
    for scenario in drawn():
        coverage.add(scenario)
    for _scenario, outcome in outcomes():
        coverage.add_outcome(outcome)
    rare = [word for word in coverage.missing() if not word.startswith("sysctl")]
    assert len(rare) <= 6, rare
    assert {"ext4", "xfs", "tmpfs"} <= set(coverage.file_systems)
    assert {"dirty LRU page: Recovered", "clean LRU page: Recovered"} <= set(coverage.verdicts)
    assert coverage.as_dict()["scenarios"] == COUNT


def test_coverage_names_what_never_came_up() -> None:
    assert "swapout keep=yes" in Coverage().missing()
    assert not any(word.startswith("break") for word in Coverage().missing())


LIMITED = [
    ("swapout m:0", "swap = 8", "fork A as=B"),
    ("swapout p:0 keep=yes", "swap = 8", ""),
    ("pin s:0 as=h", "", ""),
    ("drop f", "", "file g\nopen gd file=g\nread gd:0"),
    ("truncate d pages=1", "", "file d fs=bdev"),
    ("punch d:0", "", "file d fs=bdev"),
    ("read dd:1", "", "file d fs=bdev\nopen dd file=d"),
    ("readv dd:1 into=m:0 pages=1", "", "file d fs=bdev\nopen dd file=d"),
    ("map x task=A file=dd pages=2", "", "file d fs=bdev\nopen dd file=d"),
    ("inject z:0 via=madvise", "", "task Z\nmap z task=Z file=fd shared=yes"),
    ("splice dd:1", "", "file d fs=bdev\nopen dd file=d"),
    ("inject k via=sysfs", "swap = 8", "note m:0 as=k\nswapout m:0\nfile g\nopen gd file=g\nread gd:0"),
    ("fsync fd", "", "disk fail"),
    ("msync s", "", "disk fail"),
    ("disk hold", "", "disk fail"),
    ("map x task=A file=vd pages=1 shared=yes", "", "file v fs=sysv pages=2\nopen vd file=v"),
    ("readv fd:0 into=m:0 pages=2", "", ""),
    ("peek m:0 by=A via=ptrace", "", ""),
    ("soft-offline s:0 via=madvise", "", ""),
    ("writev fd:0 from=p:0 pages=2", "", ""),
    ("splice hf:0", "", "file h fs=hugetlbfs pages=512\nopen hf file=h"),
    (
        "look h:0",
        "frames = 4096",
        "hugepages 2M pages=2\nfile h fs=hugetlbfs pages=1024\nopen hf file=h\n"
        "map hm task=A pages=1024 file=hf shared=yes\nstore hm:0 data=x",
    ),
    ("write xf:0 data=a pages=2", "", "file x fs=xfs pages=1\nopen xf file=x"),
    ("map x task=A frame=n", "", "frame n kind=driver\nmap w task=A frame=n"),
    ("marker t:1", "frames = 4096", "map t task=A pages=512 huge=yes\nstore t:1 data=x"),
    ("file x", "", "disk hold"),
    ("inject n via=debugfs", "", "frame n kind=free\nload m:0"),
    ("inject n via=sysfs", "", "note m:0 as=n\nmigrate m:0\nload m:0"),
    ("map x task=A frame=n", "", "frame n kind=slab"),
    ("unpoison n", "", "frame n kind=slab\ninject n via=debugfs"),
    (
        "unpoison h:0",
        "frames = 4096",
        "hugepages 2M pages=1\nmap h task=A pages=512 hugetlb=2M\nload h:0\nhold h:0 as=r\n"
        "inject h:0 via=sysfs",
    ),
    ("inject u:0 via=sysfs", "", "map u task=A shared=yes\nstore u:0 data=a"),
    ("inject s:0 via=sysfs", "", "map s2 task=A file=fd shared=yes\nload s:0\nload s2:0"),
    (
        "swapout h:0 pages=512",
        "frames = 4096\nswap = 600",
        "map h task=A pages=512 huge=yes\nstore h:0 data=a\nfork A as=B",
    ),
    (
        "unpoison m:0",
        "",
        "inject m:0 via=sysfs\nunpoison m:0\nmap q task=A\nstore q:0 data=b\ninject q:0 via=sysfs",
    ),
    ("inject m:0 task=T via=madvise", "", "thread A as=T"),
    ("inject m:0 via=sysfs", "swap = 8", "disk hold\nswapout m:0 keep=yes"),
    ("exec T", "", "thread A as=T"),
]
SET_UP = """
task A
file f
open fd file=f
map m task=A
store m:0 data=a
map p task=A file=fd
load p:0
map s task=A file=fd shared=yes
"""


def before(step: str, keys: str, more: str) -> tuple[Model, Scenario]:
    """A model just before the last step, and the scenario."""
    steps = f"{SET_UP}{more}\n{step}"
    (scenario,) = load_text(f"name = 'x'\n{keys}\nsteps = '''{steps}\n'''", "x")
    model = Model(scenario, PROFILES["7.3"], None)
    for one in scenario.steps[:-1]:
        model.take(one)
    return model, scenario


@pytest.mark.parametrize(("step", "keys", "more"), LIMITED)
def test_a_limit_forbids_what_the_lab_cannot_do(step: str, keys: str, more: str) -> None:
    model, scenario = before(step, keys, more)
    assert forbidden(model, scenario.steps[-1])
    assert not drawable(scenario, PROFILES["7.3"])


def test_every_limit_is_tried() -> None:
    tried = {forbidden(model, s.steps[-1]) for model, s in (before(*case) for case in LIMITED)}
    assert {limit.reason for limit in LIMITS} - tried == set()


@pytest.mark.parametrize(
    "step", ["sysctl memory_failure_recovery value=0", "inject m:0 via=madvise", "inject z:0 via=sysfs"]
)
def test_what_takes_a_boot_is_forbidden_unless_it_may_be_costly(step: str) -> None:
    more = "task B\nmap z task=B\nload z:0\nmap u task=B"
    model, scenario = before(step.replace("m:0", "u:0"), "", more)
    assert forbidden(model, scenario.steps[-1]) is None
    assert forbidden(model, scenario.steps[-1], costly=False) in {limit.reason for limit in COSTLY}
