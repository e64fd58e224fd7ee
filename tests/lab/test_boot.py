"""One guest: what its end means, and that nothing of it is left. Those marked lab boot a real kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import boot, kernels, tools
from hwpoison.lab.boot import Acceleration, acceleration, judge
from hwpoison.lab.compare import differences
from hwpoison.lab.initramfs import ENDED
from hwpoison.lab.kernels import KNOWN, Kernel
from hwpoison.lab.together import run as run_together
from hwpoison.scenario.load import catalogue
from hwpoison.scenario.model import run as run_model

from .conftest import QEMU, Program

HANDFUL = ("anonymous", "file-dirty", "file-clean-mapped", "tmpfs-mapped", "early-by-prctl", "again")
PREFERRED = "6.12"
COMMAND_SECONDS = 240.0  # from its start; what it does takes a moment


@pytest.mark.parametrize(
    ("console", "reason", "ending", "code", "why"),
    [
        (f"Linux version 6\n[ 7.0] {ENDED} 0\n", "", "finished", 0, "ended with code 0"),
        (f"Linux version 6\n[ 7.0] {ENDED} 3\n", "", "finished", 3, "ended with code 3"),
        (
            f"Linux version 6\nKernel panic - not syncing: Fatal machine check\n[ 7.0] {ENDED} 1",
            "it was silent",
            "panic",
            None,
            "Fatal machine check",
        ),
        ("PANIC: early exception 0x0d IP 10:ff\n", "", "panic", None, "early exception 0x0d IP 10:ff"),
        ("Linux version 6\nhello\n", "it was silent for 9 s", "stopped", None, "it was silent for 9 s"),
        ("Linux version 6\nhello\n", "", "vanished", None, "the guest ended without a word"),
        (
            "qemu: no\nqemu: cannot set up guest memory\n",
            "",
            "no start",
            None,
            "qemu: cannot set up guest memory",
        ),
        ("", "", "no start", None, "QEMU said nothing"),
    ],
)
def test_the_console_tells_how_a_guest_ended(
    console: str, reason: str, ending: str, code: int | None, why: str
) -> None:
    ended = judge(console, reason, 1.0)
    assert (ended.ending, ended.code) == (ending, code)
    assert ended.why().endswith(why)


def test_of_a_panic_the_last_lines_are_those_that_led_to_it() -> None:
    lines = [f"line {n}" for n in range(100)]
    console = "\n".join([*lines, "Kernel panic - not syncing: x", *(f"trace {n}" for n in range(100))])
    last = judge(console, "", 1.0).last_lines
    assert "line 99" in last
    assert "Kernel panic - not syncing: x" in last
    assert "trace 99" not in last
    assert len(last) == boot.LAST_LINES


def test_without_qemu_there_is_one_sentence(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: str(tmp_path))
    with pytest.raises(NotPossible, match=r"booted with QEMU: qemu-system-x86_64, .*apt-get install"):
        boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=60)


def test_a_command_reaches_the_guest_whatever_its_words(guest: None, kernel: Kernel, tmp_path: Path) -> None:
    words = ["it's", "two words", "$HOME", "x" * 5000]
    code = "import os, sys; print(sys.argv[1:], os.environ['GIVEN'])"
    ended = boot.run(
        kernel,
        ["env", "GIVEN=a 'quoted' $text", sys.executable, "-c", code, *words],
        tmp_path,
        kvm=False,
        seconds=60,
    )
    assert (ended.ending, ended.code) == ("finished", 0)
    assert f"{words} a 'quoted' $text" in ended.console


UNSURE = """
tries=$(cat {here}/tries 2>/dev/null || echo 0); echo $((tries + 1)) > {here}/tries
echo "Linux version 6.12.9-amd64 (stand-in)"
if [ $tries -lt {panics} ]; then echo "Kernel panic - not syncing: Fatal exception in interrupt"; exit 1; fi
"""


def on_the_way_up(program: Program, here: Path, *, panics: int) -> None:
    """QEMU whose first guests panic before they come to the command."""
    program("qemu-system-x86_64", UNSURE.format(here=here, panics=panics) + QEMU)


def test_a_guest_that_panics_on_its_way_up_is_booted_again_and_the_result_says_so(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path
) -> None:
    on_the_way_up(program, tmp_path, panics=2)
    ended = boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=60)
    assert (ended.ending, ended.code, ended.started) == ("finished", 0, True)
    assert [first.reason for first in ended.before] == ["Fatal exception in interrupt"] * 2


def test_a_kernel_that_panics_at_every_boot_is_given_up(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path
) -> None:
    on_the_way_up(program, tmp_path, panics=99)
    ended = boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=60)
    assert (ended.ending, ended.started, len(ended.before)) == ("panic", False, boot.STARTS - 1)
    assert (tmp_path / "tries").read_text() == f"{boot.STARTS}\n"


def test_a_panic_after_the_command_was_started_is_the_answer(
    guest: None, kernel: Kernel, tmp_path: Path
) -> None:
    crash = ["sh", "-c", f"echo x >> {tmp_path}/runs; exit 99"]
    ended = boot.run(kernel, crash, tmp_path, kvm=False, seconds=60)
    assert (ended.ending, ended.started, ended.before) == ("panic", True, ())
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_slow_way_up_is_not_the_commands_time(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path
) -> None:
    program("qemu-system-x86_64", "sleep 2\n" + QEMU)
    ended = boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=1, watch=lambda _clock: None)
    assert (ended.ending, ended.code) == ("finished", 0)
    ended = boot.run(kernel, ["sleep", "1000"], tmp_path, kvm=False, seconds=1)
    assert (ended.ending, ended.reason) == ("stopped", "it was not done after 1 s")


def test_a_guest_that_hangs_on_its_way_up_is_booted_again(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "START_SECONDS", 0.5)
    program("qemu-system-x86_64", "echo Linux version 6; exec sleep 1000")
    ended = boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=60)
    assert (ended.ending, ended.started, len(ended.before)) == ("stopped", False, boot.STARTS - 1)
    assert ended.reason.startswith("it did not get going in")


def test_time_that_other_work_took_from_the_guest_does_not_count(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'for word; do [ "$last" = -pidfile ] && echo $$ > "$word"; last=$word; done; sleep 2\n'
    program("qemu-system-x86_64", script + QEMU)
    monkeypatch.setattr(boot, "START_SECONDS", 1.0)
    asked: list[int] = []

    def held_up(pid: int) -> float:
        asked.append(pid)
        return 100.0

    monkeypatch.setattr(boot, "held_up", held_up)
    ended = boot.run(kernel, ["true"], tmp_path, kvm=False, seconds=60)
    assert (ended.ending, ended.code, ended.before) == ("finished", 0, ())
    assert len(set(asked)) == 1


def test_a_watch_has_no_say_before_the_command_is_under_way(
    guest: None, program: Program, kernel: Kernel, tmp_path: Path
) -> None:
    program("qemu-system-x86_64", "sleep 1\n" + QEMU)
    ended = boot.run(
        kernel, ["sleep", "1000"], tmp_path, kvm=False, seconds=60, watch=lambda _clock: "enough"
    )
    assert (ended.ending, ended.reason, ended.started) == ("stopped", "enough", True)


def test_the_command_itself_can_say_when_it_is_under_way(guest: None, kernel: Kernel, tmp_path: Path) -> None:
    begins_late = (
        f"[ -s {tmp_path}/tried ] || {{ echo 1 > {tmp_path}/tried; exit 99; }}; echo > {tmp_path}/mark"
    )
    ended = boot.run(
        kernel, ["sh", "-c", begins_late], tmp_path, kvm=False, seconds=60, mark=tmp_path / "mark"
    )
    assert (ended.ending, ended.code, len(ended.before)) == ("finished", 0, 1)


def test_hardware_acceleration_is_believed_when_a_guest_has_run(program: Program, tmp_path: Path) -> None:
    program("qemu-system-x86_64", "echo Linux version 6; sleep 1000")
    found = acceleration(tmp_path)
    assert found in (Acceleration(True), acceleration_without_device())


def acceleration_without_device() -> Acceleration:
    exists = Path("/dev/kvm").exists()
    return Acceleration(False, "/dev/kvm may not be used by this user" if exists else "there is no /dev/kvm")


def test_emulation_says_why_and_what_it_costs() -> None:
    text = Acceleration(False, "there is no /dev/kvm").text()
    assert text.startswith("software emulation, as there is no /dev/kvm: a boot takes about 10 s")


# Real guests.


@pytest.fixture(scope="module")
def real() -> Kernel:
    """A kernel that can be booted here, or one line that says why there is none."""
    if lack := tools.missing(tools.FOR_BOOTING):
        pytest.skip(f"no kernel is booted: {lack}")
    found = [kernel for name in (PREFERRED, *KNOWN) if (kernel := kernels.present(name))]
    if not found:
        pytest.skip(f"no kernel is here: hwpoison kernels fetch {PREFERRED}")
    return found[0]


@pytest.fixture(scope="module")
def kvm(real: Kernel) -> bool:
    return acceleration(real.image).kvm


@pytest.mark.lab
def test_a_real_kernel_says_what_the_model_says(real: Kernel, kvm: bool) -> None:
    scenarios = [catalogue()[name] for name in HANDFUL]
    profile = PROFILES[real.name]
    found = run_together([real], scenarios, {real.name: ()}, lambda _progress: None, kvm=kvm, jobs=1)
    answers = found[real.name]
    assert isinstance(answers, dict), answers
    wrong = [
        f"{scenario.name}: {answer.failed or answer.cannot or [d.text() for d in found]}"
        for scenario in scenarios
        if (answer := answers[scenario.name]).outcome is None
        or (found := differences(run_model(scenario, profile).outcome, answer.outcome))
    ]
    assert wrong == []


@pytest.mark.lab
def test_a_real_panic_ends_the_guest_with_its_words(real: Kernel, kvm: bool, tmp_path: Path) -> None:
    crash = ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000"]
    ended = boot.run(real, crash, tmp_path, kvm=kvm, seconds=COMMAND_SECONDS)
    assert (ended.ending, ended.reason) == ("panic", "sysrq triggered crash"), ended.last_lines


@pytest.mark.lab
def test_a_real_guest_that_hangs_is_ended_and_nothing_is_left(
    real: Kernel, kvm: bool, tmp_path: Path
) -> None:
    hang = ["/bin/sh", "-c", f"echo hangs > {tmp_path}/hangs; sleep 1000"]

    def watch(_clock: float) -> str | None:
        return "it hangs" if (tmp_path / "hangs").exists() else None

    ended = boot.run(real, hang, tmp_path, kvm=kvm, seconds=COMMAND_SECONDS, watch=watch)
    assert (ended.ending, ended.reason) == ("stopped", "it hangs"), ended.last_lines
    left = subprocess.run(["pgrep", "-f", f"qemu.*{tmp_path}"], capture_output=True, text=True, check=False)
    assert left.stdout == ""
