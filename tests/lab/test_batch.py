"""Many scenarios in few boots, with an agent that does what the name of a scenario says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible, Problem
from hwpoison.abi.records import Observation
from hwpoison.lab import boot, together
from hwpoison.lab.answers import Answer
from hwpoison.lab.batch import Batch, Progress, Stopped
from hwpoison.lab.kernels import Kernel
from hwpoison.scenario.load import Scenario, load_text

# What it has been given in each boot goes to the file "boots".
AGENT = """
import json, os, pathlib, sys, time
scenarios = json.load(open(sys.argv[1]))
results = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
here = pathlib.Path(__file__).parent
names = [scenario["name"] for scenario in scenarios]
boots_so_far = (here / "boots").read_text().splitlines() if (here / "boots").exists() else []
with (here / "boots").open("a") as boots:
    print(*names, file=boots)
def write(line):
    os.write(results, (json.dumps(line) + "\\n").encode())
def answer(name):
    seen = [{"step": 1, "kind": "call", "who": "A", "data": "x"}]
    write({"scenario": name, "kernel": "?", "witness": "?", "observations": seen})
for number, name in enumerate(names):
    if name == "deaf":
        sys.exit(3)
    if name == "never-up" or name == "late" and not boots_so_far:
        sys.exit(99)
    if name == "deaf-later" and len(boots_so_far):
        sys.exit(4)
    write({"begin": name})
    if name == "panics" or name == "panics-in-company" and number:
        seen = [{"step": 1, "kind": "call", "who": "A", "data": "x"}]
        write({"at": 2, "scenario": name, "observations": seen})
        sys.exit(99)
    elif name == "hangs" or name == "hangs-in-company" and number:
        time.sleep(1000)
    elif name == "cannot":
        write({"scenario": name, "cannot": "no such file system"})
    elif name == "fails":
        write({"scenario": name, "failed": "KeyError"})
    elif name.startswith("alone") and number or name == "never":
        write({"scenario": name, "again": "the page of zeros is marked"})
    elif name == "ends-early":
        seen = [{"step": 1, "kind": "call", "who": "A", "data": "x"}]
        outcome = {"scenario": name, "kernel": "?", "witness": "?", "observations": seen}
        write({**outcome, "stopped": "step 2: there is no page"})
    elif name == "leaves":
        answer(name)
        sys.exit(0)
    elif name == "half":
        os.write(results, b'{"scenario": "half", "obser')
        sys.exit(1)
    else:
        answer(name)
"""
ANSWERED = (Observation(1, "call", "A", {"data": "x"}),)


def scenarios(names: Sequence[str]) -> list[Scenario]:
    text = "".join(
        f"[[scenario]]\nname = '{name}'\nsteps = '''\ntask A\nmap m task=A\n'''\n" for name in names
    )
    return load_text(text, "made up") if names else []


@pytest.fixture
def batch(guest: None, kernel: Kernel, tmp_path: Path) -> Batch:
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    return Batch(
        kernel,
        kvm=False,
        expected=(),
        told=lambda _progress: None,
        stop=threading.Event(),
        agent=(sys.executable, str(agent)),
        silence_seconds=2.0,
    )


def boots(tmp_path: Path) -> list[list[str]]:
    """The scenarios that were handed to each guest."""
    return [line.split() for line in (tmp_path / "boots").read_text().splitlines()]


def test_all_scenarios_run_in_one_boot(batch: Batch, tmp_path: Path) -> None:
    told: list[Progress] = []
    batch.told = told.append
    answers = batch.run(scenarios(["a", "b", "cannot", "fails"]))
    assert boots(tmp_path) == [["a", "b", "cannot", "fails"]]
    outcome = answers["a"].outcome
    assert outcome is not None
    assert (outcome.kernel, outcome.witness) == ("6.12", batch.kernel.release)
    assert outcome.observations == ANSWERED
    assert answers["cannot"] == Answer(cannot="no such file system")
    assert answers["fails"] == Answer(failed="KeyError")
    assert told[0] == Progress("6.12", 0, 4, 1, "booting")
    assert set(answers) == {"a", "b", "cannot", "fails"}


def test_nothing_to_do_boots_nothing(batch: Batch, tmp_path: Path) -> None:
    assert batch.run([]) == {}
    assert not (tmp_path / "boots").exists()


def test_an_expected_panic_comes_last_and_is_what_the_kernel_did(batch: Batch, tmp_path: Path) -> None:
    batch.expected = {"panics"}
    answers = batch.run(scenarios(["panics", "a"]))
    assert boots(tmp_path) == [["a", "panics"]]
    outcome = answers["panics"].outcome
    assert outcome is not None
    assert outcome.observations == (
        *ANSWERED,
        Observation(2, "panic", "", {"text": "Memory failure on page 0x1a2b3"}),
    )
    assert "Memory failure: 0x1a2b3: nobody could help" in answers["panics"].last_lines


def test_after_a_panic_that_nobody_expected_it_is_tried_alone_and_the_rest_goes_on(
    batch: Batch, tmp_path: Path
) -> None:
    answers = batch.run(scenarios(["a", "panics", "b"]))
    assert boots(tmp_path) == [["a", "panics", "b"], ["b"], ["panics"]]
    assert answers["panics"].outcome is not None
    assert "Memory failure on page" in answers["panics"].note
    assert answers["b"].outcome is not None


def test_a_panic_that_is_an_earlier_scenarios_doing_does_not_count(batch: Batch, tmp_path: Path) -> None:
    answers = batch.run(scenarios(["a", "panics-in-company"]))
    assert boots(tmp_path) == [["a", "panics-in-company"], ["panics-in-company"]]
    outcome = answers["panics-in-company"].outcome
    assert outcome is not None
    assert outcome.observations == ANSWERED
    assert answers["panics-in-company"].note.startswith("in the same guest after others: Memory failure")


def test_a_hang_is_tried_alone_and_reported(batch: Batch, tmp_path: Path) -> None:
    answers = batch.run(scenarios(["hangs", "hangs-in-company", "a"]))
    assert boots(tmp_path) == [
        ["hangs", "hangs-in-company", "a"],
        ["hangs-in-company", "a"],
        ["hangs"],
    ]
    assert answers["hangs"].failed == "no answer: it was silent for 2 s"
    assert answers["hangs-in-company"].outcome is not None
    assert answers["a"].outcome is not None


def test_an_agent_that_breaks_down_over_a_scenario_has_failed_there_only(batch: Batch) -> None:
    answers = batch.run(scenarios(["half", "a"]))
    assert answers["half"].failed == "no answer: the command in the guest ended with code 1"
    assert answers["a"].outcome is not None


def test_a_scenario_that_asks_for_a_boot_of_its_own_gets_one(batch: Batch, tmp_path: Path) -> None:
    answers = batch.run(scenarios(["a", "alone", "b", "alone-too"]))
    assert boots(tmp_path) == [["a", "alone", "b", "alone-too"], ["alone", "alone-too"], ["alone-too"]]
    assert all(answer.outcome for answer in answers.values())


def test_a_scenario_that_is_never_content_with_its_boot_has_failed(batch: Batch) -> None:
    answers = batch.run(scenarios(["a", "never"]))
    assert answers["never"].failed == "first in a boot, and yet: the page of zeros is marked"


def test_an_agent_may_leave_early(batch: Batch, tmp_path: Path) -> None:
    answers = batch.run(scenarios(["leaves", "a", "b"]))
    assert boots(tmp_path) == [["leaves", "a", "b"], ["a", "b"]]
    assert all(answer.outcome for answer in answers.values())


def test_an_answer_that_ended_early_says_why(batch: Batch) -> None:
    answers = batch.run(scenarios(["ends-early"]))
    assert answers["ends-early"].note == "ended early: step 2: there is no page"
    assert answers["ends-early"].outcome is not None


def test_a_guest_that_does_not_get_going_ends_it_with_its_last_words(batch: Batch) -> None:
    with pytest.raises(NotPossible, match=r"kernel 6\.12 runs no scenario: .* code 3; its last words: Linux"):
        batch.run(scenarios(["deaf"]))


def test_a_guest_that_fails_on_its_way_up_is_booted_again(batch: Batch, tmp_path: Path) -> None:
    answers = batch.run(scenarios(["late", "a"]))
    assert boots(tmp_path) == [["late", "a"], ["late", "a"]]
    assert all(answer.outcome for answer in answers.values())
    assert answers["late"].note == (
        "booted again, as a guest did not get going: Memory failure on page 0x1a2b3"
    )
    assert answers["a"].note == ""


def test_a_kernel_that_never_gets_going_is_not_booted_for_ever(batch: Batch, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match=r"Memory failure on page 0x1a2b3 \(3 boots\); its last words"):
        batch.run(scenarios(["never-up"]))
    assert len(boots(tmp_path)) == boot.STARTS


def test_what_was_answered_before_guests_failed_to_start_counts(batch: Batch) -> None:
    answers = batch.run(scenarios(["leaves", "deaf-later", "a"]))
    assert answers["leaves"].outcome is not None
    assert "runs no scenario" in answers["deaf-later"].failed
    assert "code 4" in answers["a"].failed


def test_a_guest_that_is_silent_from_the_start_is_ended(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.agent = ("sh", "-c", "exec sleep 1000")
    monkeypatch.setattr(boot, "START_SECONDS", 0.5)
    with pytest.raises(NotPossible, match=r"runs no scenario: it did not get going in 0 s \(3 boots\)"):
        batch.run(scenarios(["a"]))


def test_another_thread_can_stop_it(batch: Batch) -> None:
    def stop(progress: Progress) -> None:
        if progress.doing == "hangs":
            batch.stop.set()

    batch.told = stop
    with pytest.raises(Stopped):
        batch.run(scenarios(["a", "hangs"]))


class Asked:
    """In the place of Batch: a kernel answers by its name."""

    def __init__(
        self, kernel: Kernel, _kvm: bool, expected: object, told: object, stop: threading.Event
    ) -> None:
        self.kernel, self.stop = kernel, stop

    def run(self, asked: Sequence[Scenario]) -> dict[str, Answer]:
        if self.kernel.name == "broken":
            raise NotPossible("no image")
        if self.kernel.name == "endless":
            self.stop.wait()
            raise Stopped("stopped")
        if self.kernel.name == "interrupted":
            raise KeyboardInterrupt
        return {scenario.name: Answer(cannot=self.kernel.name) for scenario in asked}


def ask(names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Answer] | Problem]:
    monkeypatch.setattr(together, "Batch", Asked)
    kernels = [Kernel(name, name, Path(name), Path()) for name in names]
    expected = {name: () for name in names}
    return together.run(kernels, scenarios(["a"]), expected, lambda _progress: None, kvm=False, jobs=2)


def test_a_kernel_that_does_not_run_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(["6.1", "broken", "7.3"], monkeypatch)
    assert list(found) == ["6.1", "broken", "7.3"]
    assert found["7.3"] == {"a": Answer(cannot="7.3")}
    assert str(found["broken"]) == "no image"


def test_an_interrupt_ends_all_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(["interrupted", "endless"], monkeypatch)


def test_there_are_as_many_guests_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus in (1, 2, 8):
        monkeypatch.setattr(together.os, "sched_getaffinity", lambda _pid, cpus=cpus: set(range(cpus)))
        assert together.usual_jobs() == cpus
