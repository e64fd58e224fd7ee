"""What the running kernel says about an error: its log, its trace event, its counters.

None is derived from another. The log is read between markers that we write to it ourselves, so no line
is missed or taken from somebody else's error; the trace event comes as text that the kernel makes from
its own format, wherever it has it.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from hwpoison.abi.results import PageType

from .problems import WitnessFailed

KMSG = Path("/dev/kmsg")
TRACING = Path("/sys/kernel/tracing")
NODES = "/sys/devices/system/node"
LESS_THAN_NOTHING = 1 << 62  # 2^64 bytes in pages of 4 KiB, counted in KiB
EVENTS = ("ras", "memory_failure")  # the trace systems it was in, up to and since 7.0
LOGGED = re.compile(r"^Memory failure: 0x[0-9a-f]+: recovery action for (.*): (\w+)$")
TRACED = re.compile(r"pfn 0x[0-9a-f]+: recovery action for (.*): (\w+)$")
SPELLING = {kind.trace: kind.log for kind in PageType}

Said = tuple[str, str]  # type and result, as the log spells them


class Evidence:
    """Log and trace since the object was made."""

    def __init__(self) -> None:
        self.log = os.open(KMSG, os.O_RDWR | os.O_NONBLOCK)
        os.lseek(self.log, 0, os.SEEK_END)
        self.markers = 0
        self.trace = os.open(trace_instance() / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        self._traced()
        self.before: dict[str, int] = {}

    def lines(self) -> list[str]:
        """The log since the last call. WitnessFailed if the kernel has overwritten a part of it."""
        self.markers += 1
        marker = f"hwpoison lab {os.getpid()}: {self.markers}"
        os.write(self.log, f"<7>{marker}\n".encode())
        found: list[str] = []
        while True:
            try:
                record = os.read(self.log, 8192).decode("utf-8", "replace")
            except BrokenPipeError:
                raise WitnessFailed("the kernel's log was overwritten before it was read") from None
            except BlockingIOError:
                raise WitnessFailed(f"the marker {marker!r} did not arrive in the kernel's log") from None
            text = record.partition(";")[2].split("\n")[0]
            if text == marker:
                return found
            found.append(text)

    def verdicts(self) -> list[Said]:
        """The verdicts since the last call. WitnessFailed if log and trace disagree.

        The log is only read when there is an event: it takes long, and most steps have none.
        """
        traced = self._traced()
        if not traced:
            return []
        logged = self._logged()
        if logged != traced:
            raise WitnessFailed(f"the log says {logged}, the trace event says {traced}")
        return logged

    def nothing_left(self) -> None:
        """WitnessFailed if the log has a verdict for which there was no event."""
        if logged := self._logged():
            raise WitnessFailed(f"the log says {logged}, and there was no trace event")

    def _logged(self) -> list[Said]:
        return [(match[1], match[2]) for line in self.lines() if (match := LOGGED.search(line))]

    def _traced(self) -> list[Said]:
        text = bytearray()
        try:
            while part := os.read(self.trace, 1 << 16):
                text += part
        except BlockingIOError:
            pass
        found = [
            (match[1], match[2]) for line in text.decode().splitlines() if (match := TRACED.search(line))
        ]
        return [(SPELLING.get(kind, kind), result) for kind, result in found]

    def count(self) -> None:
        """Note what the counters say now."""
        self.before = counters()

    def counted(self) -> dict[str, int]:
        """By how much each counter has moved since count()."""
        return {name: value - self.before[name] for name, value in counters().items()}


@functools.cache
def trace_instance() -> Path:
    """A trace buffer of our own, with the one event switched on. WitnessFailed on a kernel without it."""
    instance = TRACING / "instances" / "hwpoison"
    instance.mkdir(exist_ok=True)
    for system in EVENTS:
        switch = instance / "events" / system / "memory_failure_event" / "enable"
        if switch.exists():
            switch.write_text("1")
            return instance
    raise WitnessFailed(f"this kernel has no trace event memory_failure_event in {' or '.join(EVENTS)}")


def counters() -> dict[str, int]:
    """HardwareCorrupted in pages, and what the nodes count where they do."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("HardwareCorrupted:"):
            pages = int(line.split()[1]) // 4
            # Marks that were never counted can be taken away: then it is less than nothing.
            found["HardwareCorrupted"] = (
                pages - LESS_THAN_NOTHING if pages > LESS_THAN_NOTHING // 2 else pages
            )
    for path in Path(NODES).glob("node*/memory_failure/*"):
        found[path.name] = found.get(path.name, 0) + int(path.read_text())
    return found
