"""Processes with an end: run a command, hear what it prints, and leave nothing of it running.

coreutils' ``timeout`` owns the process group and ends it when time is up, or when this process dies,
however it dies (``setpriv --pdeathsig``).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from . import tools

END_SECONDS = 5.0  # a killed QEMU gives back its memory in well under one
LOOK_SECONDS = 0.25
HEARD_BYTES = 8 << 20  # what is kept of one that does not stop talking

Watch = Callable[[], str | None]
"""Called several times a second; a reason that it gives ends the process."""


def converse(
    command: Sequence[str],
    seconds: float,
    enough: tuple[bytes, ...],
    watch: Watch = lambda: None,
    **environment: str,
) -> tuple[str, str]:
    """(what a command prints, why it was ended before its own end); its process group is gone afterwards.

    It is ended after ``seconds``, when ``watch`` gives a reason, and when it has printed one of ``enough``.
    """
    # setpriv's signal reaches timeout when the thread that started it ends; timeout hands it to the group.
    bounded = [
        "setpriv",
        "--pdeathsig",
        "TERM",
        "timeout",
        "--signal=KILL",
        str(seconds + END_SECONDS),
        *command,
    ]
    process = subprocess.Popen(
        bounded,
        env=tools.environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        heard, reason = _listen(process, time.monotonic() + seconds, watch, enough)
    finally:
        _end_group(process)
    return heard.decode(errors="replace").replace("\r", ""), reason or ""


def _listen(
    process: subprocess.Popen[bytes], deadline: float, watch: Watch, enough: tuple[bytes, ...]
) -> tuple[bytearray, str | None]:
    heard = bytearray()
    stream = process.stdout.fileno() if process.stdout else -1
    limit = deadline - time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        if reason := watch():
            return heard, reason
        if not select.select([stream], [], [], min(left, LOOK_SECONDS))[0]:
            continue
        part = os.read(stream, 65536)
        heard += part
        recent = heard[-len(part) - max(map(len, enough)) :]
        if not part or any(word in recent for word in enough):
            return heard, None
        if len(heard) > HEARD_BYTES:
            del heard[HEARD_BYTES // 8 : len(heard) - HEARD_BYTES // 2]
    return heard, f"it was not done after {limit:.0f} s"


def held_up(pid: int) -> float:
    """Seconds that the busiest thread of a process was ready to run and had no processor; 0 if unknown."""
    waits = [0.0]
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            waits.append(int(path.read_text().split()[1]) / 1e9)
    return max(waits)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the group and wait for its last member: QEMU outlives its parent by some milliseconds."""
    deadline = time.monotonic() + END_SECONDS
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while _running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.stdout:
        process.stdout.close()


def _running(group: int) -> bool:
    """Whether a member of the process group runs. The dead do not count: in a container, who buries them?"""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, member_of, *_rest = status.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it has just ended
        if int(member_of) == group and state not in "ZX":
            return True
    return False
