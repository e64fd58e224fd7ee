"""``hwpoison fuzz`` as people meet it; the kernel is the model, with a mistake where a test puts one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hwpoison.abi.problems import DONE, FINDING, NOT_POSSIBLE
from hwpoison.abi.records import Outcome
from hwpoison.cli import fuzz as command
from hwpoison.cli.app import INTERRUPTED, main
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import boot, together
from hwpoison.lab.answers import Answer
from hwpoison.lab.boot import Acceleration
from hwpoison.lab.kernels import Kernel
from hwpoison.scenario.load import Scenario, load_file
from hwpoison.scenario.model import run as run_model

Answering = Callable[[Scenario], Answer]


def faithful(scenario: Scenario) -> Answer:
    return Answer(run_model(scenario, PROFILES["6.12"]).outcome)


def mistaken(scenario: Scenario) -> Answer:
    """fsync(2) never tells."""
    outcome: Outcome = run_model(scenario, PROFILES["6.12"]).outcome
    verbs = {number: step.verb for number, step in enumerate(scenario.steps, 1)}
    kept = tuple(o for o in outcome.observations if (verbs.get(o.step), o.kind) != ("fsync", "call"))
    return Answer(replace(outcome, observations=kept))


@pytest.fixture
def answering(
    kernel: Kernel, guest: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Answering]:
    """The last of these answers for the kernel. Scenarios that differ go to a folder of the test's."""
    ways: list[Answering] = [faithful]

    def asked(
        kernels: Sequence[Kernel], scenarios: Sequence[Scenario], *_more: object, **_words: object
    ) -> dict[str, dict[str, Answer]]:
        return {one.name: {s.name: ways[-1](s) for s in scenarios} for one in kernels}

    monkeypatch.setattr(together, "run", asked)
    monkeypatch.setattr(boot, "acceleration", lambda _image: Acceleration(False, "this is a test"))
    monkeypatch.chdir(tmp_path)
    return ways


def test_no_difference_is_told_with_seed_count_and_what_came_up(
    answering: list[Answering], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fuzz", "--kernel", "6.12", "--seed", "4", "--count", "20"]) == DONE
    out = capsys.readouterr().out
    assert "seed 4, scenarios 0 to 19" in out
    assert "20 the same" in out
    assert "verdicts: " in out
    assert "did not come up: " in out


def test_a_difference_is_made_short_and_written_to_a_file_that_repeats_it(
    answering: list[Answering], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answering.append(mistaken)
    assert main(["fuzz", "--kernel", "6.12", "--seed", "3", "--count", "40", "--json"]) == FINDING
    told = json.loads(capsys.readouterr().out)
    (case,) = told["found"]
    assert case["steps"] < case["first_steps"]
    assert case["stable"]
    assert case["differences"][0]["step"] == case["steps"]
    _hwpoison, _verify, path, *rest = case["command"].split()
    assert rest == ["--kernel", "6.12"]
    (scenario,) = load_file(tmp_path / path)
    assert len(scenario.steps) == case["steps"]
    assert main(["verify", path, "--kernel", "6.12"]) == FINDING
    counts = told["kernels"]["6.12"]
    assert counts["done"] == 40 == counts["same"] + counts["differs"]
    assert counts["differs"] == 1 + len(case["alike"])


def test_without_shrinking_every_difference_is_listed_as_it_is(
    answering: list[Answering], capsys: pytest.CaptureFixture[str]
) -> None:
    answering.append(mistaken)
    arguments = ["fuzz", "--kernel", "6.12", "--seed", "3", "--count", "40", "--no-shrink", "--json"]
    assert main(arguments) == FINDING
    told = json.loads(capsys.readouterr().out)
    assert len(told["found"]) == told["kernels"]["6.12"]["differs"]
    assert all(case["steps"] == case["first_steps"] for case in told["found"])
    assert all(case["stable"] is None for case in told["found"])


def test_what_cannot_be_set_up_is_counted_with_its_reason_and_no_answer_is_a_finding(
    answering: list[Answering], capsys: pytest.CaptureFixture[str]
) -> None:
    answering.append(lambda _scenario: Answer(cannot="no such disk"))
    assert main(["fuzz", "--kernel", "6.12", "--count", "3"]) == DONE
    assert "3 times: no such disk" in capsys.readouterr().out
    answering.append(lambda _scenario: Answer(failed="not done within 30 s"))
    assert main(["fuzz", "--kernel", "6.12", "--count", "3"]) == FINDING
    assert "3 times: not done within 30 s" in capsys.readouterr().out


def test_an_interrupt_tells_what_was_done(
    answering: list[Answering], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "IN_A_BOOT", 10)
    asked = 0

    def interrupted(scenario: Scenario) -> Answer:
        nonlocal asked
        asked += 1
        if asked > 15:
            raise KeyboardInterrupt
        return faithful(scenario)

    answering.append(interrupted)
    assert main(["fuzz", "--kernel", "6.12", "--count", "30", "--json"]) == INTERRUPTED
    told = json.loads(capsys.readouterr().out)
    assert told["interrupted"]
    assert told["kernels"]["6.12"]["done"] == 10


def test_the_model_alone_is_asked_without_any_kernel(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fuzz", "--model-only", "--count", "10", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["kernels"], told["broken_promises"]) == ({}, [])
    assert told["coverage"]["scenarios"] == 10
    assert not list(tmp_path.glob("hwpoison-fuzz/*"))


def test_a_promise_that_the_model_breaks_is_a_finding_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hwpoison.abi.records import Broken
    from hwpoison.scenario import model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "broken_promises", lambda *_run: [Broken(5, "the books do not balance")])
    assert main(["fuzz", "--model-only", "--count", "3"]) == FINDING
    out = capsys.readouterr().out
    assert "promise broken 5 on 7.3: the books do not balance" in out
    assert "repeat it: hwpoison simulate hwpoison-fuzz/random-1-" in out


def test_without_a_kernel_the_way_to_get_one_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz"]) == NOT_POSSIBLE
    assert "hwpoison kernels fetch 6.1 6.12 7.2 7.3" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    answering: list[Answering], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering.append(mistaken)
    (tmp_path / "file").write_text("")
    arguments = ["fuzz", "--kernel", "6.12", "--seed", "3", "--count", "40", "--save", "file/in-it"]
    assert main([*arguments, "--no-shrink"]) == NOT_POSSIBLE
    assert "--save" in capsys.readouterr().err
