"""``hwpoison kernels`` and ``hwpoison verify`` as people meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hwpoison.abi.problems import DONE, FINDING, NOT_POSSIBLE, WRONG_USE, NotPossible, Problem
from hwpoison.abi.records import Observation, Outcome
from hwpoison.cli.app import main
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import boot, records, together, tools
from hwpoison.lab.answers import Answer
from hwpoison.lab.boot import Acceleration
from hwpoison.lab.kernels import KNOWN, Kernel
from hwpoison.scenario.load import Scenario, catalogue
from hwpoison.scenario.model import run as run_model

from .conftest import RELEASE, Program, plant_kernel

Answers = dict[str, dict[str, Answer] | Problem]
OTHER = """\
name = "mine"
steps = '''
task A
map m task=A
store m:0 data=x
inject m:0 via=debugfs
'''
"""


def test_the_list_names_what_is_known_and_what_is_here(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernels", "--json"]) == DONE
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(KNOWN)
    assert (entries["6.12"]["release"], entries["6.12"]["image"]) == (RELEASE, str(kernel.image))
    assert (entries["7.3"]["release"], entries["7.3"]["from"]) == (None, "experimental")
    assert main(["kernels"]) == DONE
    out = capsys.readouterr().out
    assert out.count("not here") == 3
    assert RELEASE in out


def test_the_list_says_what_booting_needs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: str(tmp_path))
    assert main(["kernels"]) == DONE
    assert "To boot them: qemu-system-x86_64, busybox" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kernels", "fetsch", "6.12"], "did you mean fetch?"),
        (["kernels", "fetch"], "which kernels?"),
        (["kernels", "fetch", "6.11"], "unknown kernel '6.11'"),
        (["verify", "no-such-scenario"], "unknown scenario 'no-such-scenario'"),
        (["verify", "--kernel", "6.13"], "unknown kernel '6.13'"),
        (["verify", "--jobs", "0"], "'--jobs'"),
        (["verify", "no-such-file.toml"], "no scenario file"),
        (["fuzz", "--kernel", "6.13"], "unknown kernel '6.13'"),
        (["fuzz", "--count", "0"], "'--count'"),
        (["fuzz", "--seed", "x"], "'--seed'"),
        (["fuzz", "--first", "-1"], "'--first'"),
        (["fuzz", "--model-only", "--kernel", "6.12"], "leave --kernel out"),
        (["fuzz", "surplus"], "surplus"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], words: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == WRONG_USE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_without_a_kernel_the_way_to_get_one_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "again"]) == NOT_POSSIBLE
    assert "hwpoison kernels fetch 6.1 6.12 7.2 7.3" in capsys.readouterr().err


def test_without_qemu_what_to_install_is_told(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: str(tmp_path))
    assert main(["verify", "again"]) == NOT_POSSIBLE
    assert "apt-get install qemu-system-x86" in capsys.readouterr().err


@pytest.fixture
def given(kernel: Kernel, guest: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What kernel 6.12 answers; where nothing is put, what the model says. Records go to a folder of ours."""
    answers: Answers = {}

    def asked(
        kernels: Sequence[Kernel], scenarios: Sequence[Scenario], *_more: object, **_words: object
    ) -> Answers:
        found: Answers = {}
        for one in kernels:
            put = answers.get(one.name, {})
            if isinstance(put, Problem):
                found[one.name] = put
            else:
                model = {s.name: Answer(run_model(s, PROFILES["6.12"]).outcome) for s in scenarios}
                found[one.name] = model | put
        return found

    monkeypatch.setattr(together, "run", asked)
    monkeypatch.setattr(boot, "acceleration", lambda _image: Acceleration(False, "this is a test"))
    folder = tmp_path / "recorded"
    folder.mkdir()
    monkeypatch.setattr(records, "directory", lambda: folder)
    return answers


def without(outcome: Outcome, kind: str) -> Outcome:
    return replace(outcome, observations=tuple(seen for seen in outcome.observations if seen.kind != kind))


def statuses(capsys: pytest.CaptureFixture[str]) -> Mapping[str, Mapping[str, Mapping[str, object]]]:
    found: Mapping[str, Mapping[str, Mapping[str, object]]] = json.loads(capsys.readouterr().out)["scenarios"]
    return found


def test_when_all_say_the_same_all_is_well(given: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == DONE
    out, err = capsys.readouterr()
    assert f"6.12 ({RELEASE}): {len(catalogue())} the same" in out
    assert "software emulation, as this is a test" in err


def test_a_difference_is_shown_side_by_side_and_is_a_finding(
    given: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_model(catalogue()["anonymous"], PROFILES["6.12"]).outcome
    given["6.12"] = {"anonymous": Answer(without(model, "verdict"), note="after others")}
    assert main(["verify", "anonymous", "again"]) == FINDING
    out = capsys.readouterr().out
    assert "anonymous on 6.12: different" in out
    assert "result=Recovered type=dirty LRU page" in out
    assert "after others" in out
    assert "1 the same, 1 different" in out
    assert main(["verify", "anonymous", "again", "--json"]) == FINDING
    found = statuses(capsys)
    assert found["again"]["6.12"] == {"status": "same"}
    assert found["anonymous"]["6.12"]["status"] == "differs"


def test_a_difference_that_is_known_has_its_reason_and_is_no_finding(
    given: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_model(catalogue()["anonymous"], PROFILES["6.12"]).outcome
    given["6.12"] = {"anonymous": Answer(without(model, "verdict"))}
    entry = '[[exception]]\nscenario = "anonymous"\nkernels = ["6.12"]\nreason = "a known hole"\n'
    (records.directory() / "exceptions.toml").write_text(entry)
    assert main(["verify", "anonymous"]) == DONE
    assert "a known hole: anonymous" in capsys.readouterr().out


def test_what_cannot_be_set_up_has_its_reason_and_is_no_finding(
    given: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    given["6.12"] = {name: Answer(cannot="no balloon") for name in ("again", "anonymous")}
    assert main(["verify", "again", "anonymous"]) == DONE
    out = capsys.readouterr().out
    assert "no balloon: again, anonymous" in out
    assert "2 cannot be set up" in out


def test_no_answer_is_a_finding_and_shows_the_guests_last_lines(
    given: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    given["6.12"] = {"again": Answer(failed="it was silent", last_lines=("[ 9.1] INFO: task stuck",))}
    assert main(["verify", "again"]) == FINDING
    out = capsys.readouterr().out
    assert "it was silent: again" in out
    assert "[ 9.1] INFO: task stuck" in out


def test_a_panic_that_the_model_does_not_know_is_a_difference(
    given: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    panic = Observation(4, "panic", "", {"text": "BUG: unable to handle page fault"})
    outcome = Outcome("again", "6.12", RELEASE, (panic,))
    given["6.12"] = {"again": Answer(outcome, last_lines=("Kernel panic - not syncing: x",))}
    assert main(["verify", "again"]) == FINDING
    assert "Kernel panic - not syncing: x" in capsys.readouterr().out


def test_a_kernel_that_does_not_run_is_told_alone_and_among_others(
    given: Answers, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given["6.1"] = NotPossible("kernel 6.1 runs no scenario: QEMU said nothing")
    plant_kernel(cache / "6.1", "6.1.0-1-amd64")
    assert main(["verify", "anonymous", "--kernel", "6.1"]) == NOT_POSSIBLE
    assert "QEMU said nothing" in capsys.readouterr().err
    assert main(["verify", "anonymous", "--kernel", "6.1", "--kernel", "6.12", "--json"]) == FINDING
    found = statuses(capsys)["anonymous"]
    assert (found["6.1"]["status"], found["6.12"]["status"]) == ("failed", "same")


def test_answers_are_recorded_when_asked_for(given: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    given["6.12"] = {"again": Answer(cannot="no")}
    assert main(["verify", "again", "anonymous", "--record"]) == DONE
    scenarios = records.read(records.directory() / "6.12.json").scenarios
    assert scenarios["again"].cannot == "no"
    assert scenarios["anonymous"].outcome is not None


def test_only_the_catalogue_on_known_kernels_is_recorded(
    given: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(OTHER)
    image = plant_kernel(tmp_path / "other", "6.18.1-amd64")
    assert main(["verify", str(tmp_path / "mine.toml"), "--record"]) == WRONG_USE
    assert "'mine' is not in the catalogue" in capsys.readouterr().err
    assert main(["verify", "again", "--record", "--kernel", str(image)]) == WRONG_USE
    assert "kernel 6.18.1-amd64 is not one of" in capsys.readouterr().err
    assert list(records.directory().iterdir()) == []


def test_a_file_of_ones_own_is_verified_on_an_image_of_ones_own(
    given: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(OTHER)
    image = plant_kernel(tmp_path / "other", "6.12.77-mine")
    assert main(["verify", str(tmp_path / "mine.toml"), "--kernel", str(image), "--json"]) == DONE
    assert statuses(capsys) == {"mine": {"6.12.77-mine": {"status": "same"}}}


INTERRUPTED = """
import signal, sys
from pathlib import Path
from hwpoison.lab import prepared, tools
tools.search_path = lambda: {path!r}
prepared.bundle = prepared.images = lambda: Path("/dev/null")  # as in the fixture of stand-in guests
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
from hwpoison.cli.app import main
sys.exit(main(["verify", "again", "--kernel", "6.12"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing_running_and_nothing_behind(
    number: int, code: int, kernel: Kernel, guest: None, program: Program, tmp_path: Path
) -> None:
    program("qemu-system-x86_64", f"echo Linux version; echo $$ > {tmp_path}/guest; exec sleep 1000")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(path=tools.search_path())],
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "guest").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)  # until its number is written
    guest_pid = int((tmp_path / "guest").read_text())
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (code, False), err
    status = Path("/proc", str(guest_pid), "stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    assert list(scratch.iterdir()) == []
