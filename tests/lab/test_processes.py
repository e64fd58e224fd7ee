"""A process that is run to its end, or ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hwpoison.lab import processes
from hwpoison.lab.processes import converse

ENOUGH = (b"PANIC: early exception", b"System halted")


def alive(group: int) -> bool:
    """Whether any process of a group is there that has not ended."""
    states = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(group) and "Z" not in line.split()[1] for line in states.splitlines())


def gone(group: int) -> bool:
    """Wait until a group has ended."""
    deadline = time.monotonic() + 30
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(group)


def test_what_a_command_prints_is_heard_to_its_end() -> None:
    said, reason = converse(["sh", "-c", "echo one; echo two >&2; exit 3"], 60, ENOUGH)
    assert (said, reason) == ("one\ntwo\n", "")


STUBBORN = "trap '' TERM INT; sh -c \"trap '' TERM INT; exec sleep 1000\" & ps -o pgid= $$; wait"


def test_a_guest_is_ended_when_time_is_up_with_all_that_it_started() -> None:
    said, reason = converse(["sh", "-c", STUBBORN], 0.5, ENOUGH)
    assert "it was not done after" in reason
    assert not alive(int(said))


def test_a_guest_is_ended_for_the_reason_that_its_watcher_gives() -> None:
    reasons = iter([None, None, "it was silent"])
    said, reason = converse(["sh", "-c", STUBBORN], 60, ENOUGH, lambda: next(reasons))
    assert reason == "it was silent"
    assert not alive(int(said))


@pytest.mark.parametrize("last", ["PANIC: early exception 0d", "-- System halted"])
def test_a_guest_is_ended_when_it_has_said_enough(last: str) -> None:
    said, reason = converse(["sh", "-c", f"echo first; echo '{last}'; sleep 1000"], 60, ENOUGH)
    assert (said, reason) == (f"first\n{last}\n", "")


def test_an_interrupt_ends_the_guest_before_it_gets_further() -> None:
    started: list[int] = []

    def interrupt() -> str | None:
        children = subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "timeout"], capture_output=True, text=True, check=False
        ).stdout.split()
        if not children:
            return None
        started.append(int(children[0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converse(["sh", "-c", STUBBORN], 60, ENOUGH, interrupt)
    assert not alive(started[0])


def test_a_guest_does_not_outlive_a_process_that_is_killed() -> None:
    code = "from hwpoison.lab.processes import converse; converse(['sleep', '1000'], 600, (b'no',))"
    owner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    children: list[str] = []
    while not children and time.monotonic() < deadline:
        found = subprocess.run(
            ["pgrep", "-P", str(owner.pid), "timeout"], capture_output=True, text=True, check=False
        )
        children = found.stdout.split()
        time.sleep(0.05)
    assert children, "the stand-in for a guest did not start"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert gone(int(children[0]))


def test_a_guest_that_does_not_stop_talking_is_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HEARD_BYTES", 1 << 16)
    said, _reason = converse(["sh", "-c", "echo first; seq 100000; echo last"], 60, ENOUGH)
    assert said.startswith("first\n")
    assert said.endswith("last\n")
    assert len(said) < 2 << 16


def test_a_process_that_waits_for_a_processor_is_held_up() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    busy = ["taskset", "--cpu-list", cpu, "sh", "-c", "while :; do :; done"]
    rivals = [subprocess.Popen(busy) for _ in range(3)]
    try:
        deadline = time.monotonic() + 60
        while processes.held_up(rivals[0].pid) < 0.2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes.held_up(rivals[0].pid) >= 0.2
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert processes.held_up(rivals[0].pid) == 0.0
