"""A process of its own for each scenario, bounded in time.

It and every task that it starts are one process group: whatever becomes of them, the group is killed
and waited for before the caller goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

LIMIT = 60.0  # seconds for one scenario; the usual one takes less than one, one with 1 GiB to copy ten


def isolated(
    work: Callable[[int], None], release: Callable[[], None], limit: float = LIMIT
) -> Iterator[dict[str, Any]]:
    """The lines of JSON that ``work`` writes to the descriptor it is given, in another process.

    The last line is the first that does not only name a ``frame``; when there is none in time, it is ours.
    ``release`` is called when the group has been killed, to let go what its members may be waiting for.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.close(reader)
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        yield from _lines(reader, limit)
    finally:
        os.close(reader)
        _end_group(pid, release)


def _lines(reader: int, limit: float) -> Iterator[dict[str, Any]]:
    """What comes through the pipe until it is closed, or the time is over."""
    deadline = time.monotonic() + limit
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            break
        part = os.read(reader, 1 << 16)
        if not part:
            return
        *whole, text = (text + part).split(b"\n")
        yield from (json.loads(line) for line in whole)
        if whole and "frame" not in json.loads(whole[-1]):
            return
    yield {"failed": f"not done within {limit:.0f} s"}


def _end_group(pid: int, release: Callable[[], None]) -> None:
    """Kill a process group and wait for all its members: they are ours, or become so (a subreaper's)."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)
    release()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
