"""Errors of the hardware itself, asked for over the second serial line (the other end: lab/hardware.py).

A scrubbed error is handled by a worker of the kernel, and there is no call that returns when it is done. So
the kernel is made to print every machine check, which it does after all who wanted to act on it have.
"""

from __future__ import annotations

import functools
import json
import os
import re
import select
import struct
import termios
import time
import tty
from pathlib import Path
from typing import Any

from hwpoison.abi.signals import PAGE_SHIFT

from . import frames
from .evidence import KMSG
from .problems import CannotSetUp, WitnessFailed
from .quiet import write_once

LINE = "/dev/ttyS1"
KCORE = "/proc/kcore"
KALLSYMS = Path("/proc/kallsyms")
CALLERS = rb"(?:__)?add_to_kill\w*|collect_procs\w*|hwpoison_user_mappings|memory_failure"
ALLOCATORS = rb"kmalloc_trace|__kmalloc_cache_noprof|__kmalloc_noprof|__kmalloc"
CPUINFO = Path("/proc/cpuinfo")
KNOBS = Path("/sys/devices/system/machinecheck/machinecheck0")
PRINTED = "[Hardware Error]: PROCESSOR"  # the last line about a machine check
SECONDS = 45.0  # more than the host gives QEMU
VENDOR = "GenuineIntel"
PT_LOAD = 1
HANDLED_SECONDS = 5.0


class Hardware:
    """The host's end, as seen from the guest. CannotSetUp if nobody is there."""

    def __init__(self, line: str = LINE) -> None:
        try:
            self.line = os.open(line, os.O_RDWR | os.O_NOCTTY)
        except OSError as error:
            raise CannotSetUp(f"{line}, the way to the host's hardware errors: {error.strerror}") from None
        if os.isatty(self.line):
            tty.setraw(self.line, termios.TCSANOW)

    def ask(self, **request: Any) -> None:
        """Returns when it is done. CannotSetUp with the host's reason if it cannot be."""
        os.write(self.line, json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + SECONDS
        reply = b""
        while not reply.endswith(b"\n"):
            if not select.select([self.line], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise CannotSetUp(f"the host has not answered {request} in {SECONDS:.0f} s")
            reply += os.read(self.line, 4096)
        if problem := json.loads(reply).get("problem"):
            raise CannotSetUp(f"the host cannot bring in errors of the hardware: {problem}")

    def scrub(self, pfn: int) -> None:
        """An error in this frame that nobody has read; handled when this returns."""
        need_vendor()
        write_once(str(KNOBS / "print_all"), "1")
        write_once(
            str(KNOBS / "monarch_timeout"), "0"
        )  # this one processor has it, the others are not waited for
        log = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.lseek(log, 0, os.SEEK_END)
            self.ask(do="scrub", frame=pfn)
            _wait_for(log, PRINTED)
        finally:
            os.close(log)

    def make_bad(self, pfn: int, *, contained: bool = True) -> None:
        """From now on each load from this frame is a machine check, after which the processor may go on."""
        need_vendor()
        self.ask(do="break", frame=pfn, direct=direct_map(pfn), contained=contained)

    def fail_allocations(self, times: int) -> None:
        """So many of the handler's next small allocations find no memory."""
        callers, allocators = handler_allocations()
        self.ask(do="nomemory", times=times, callers=callers, allocators=allocators)

    def mend(self) -> None:
        self.ask(do="mend")

    def close(self) -> None:
        os.close(self.line)


def _wait_for(log: int, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if text in os.read(log, 8192).decode("utf-8", "replace"):
                return
        except BlockingIOError:
            time.sleep(0.01)
    raise WitnessFailed(f"the kernel has not printed the machine check in {SECONDS:.0f} s")


def need_vendor() -> None:
    """CannotSetUp on a processor whose machine checks are told otherwise."""
    vendor = next(
        line.split(":")[1].strip()
        for line in CPUINFO.read_text().splitlines()
        if line.startswith("vendor_id")
    )
    if vendor != VENDOR:
        raise CannotSetUp(
            f"the guest's processor is {vendor}, and QEMU's machine checks are those of {VENDOR}"
        )


@functools.cache
def handler_allocations() -> tuple[list[tuple[int, int]], list[int]]:
    """Where the handler's functions begin and end, and where those that allocate for it begin.

    It takes a while: a list of all symbols of the kernel is made for it.
    """
    callers, allocators = functions(CALLERS), functions(ALLOCATORS)
    if not callers or not allocators:
        raise CannotSetUp(
            f"{KALLSYMS} does not name the handler's functions, or those that allocate for them"
        )
    return callers, [first for first, _end in allocators]


def functions(names: bytes) -> list[tuple[int, int]]:
    """Start and end of each function of the kernel with one of these names (a pattern)."""
    line = rb"^([0-9a-f]+) [tT] (?:%s)(?:\.[\w.]+)?(?:\t.*)?\n(?:\1 .*\n)*(?=([0-9a-f]+) )" % names
    found = re.finditer(line, KALLSYMS.read_bytes(), re.MULTILINE)
    return [(int(match[1], 16), int(match[2], 16)) for match in found]


def direct_map(pfn: int) -> int:
    """The address by which the kernel itself reaches this frame, from the segments of /proc/kcore."""
    core = os.open(KCORE, os.O_RDONLY)
    try:
        header = os.pread(core, 64, 0)
        table, size, count = (
            struct.unpack_from("<Q", header, 32)[0],
            struct.unpack_from("<H", header, 54)[0],
            struct.unpack_from("<H", header, 56)[0],
        )
        segments = os.pread(core, size * count, table)
    finally:
        os.close(core)
    wanted = pfn << PAGE_SHIFT
    for number in range(count):
        kind, _flags, _offset, virtual, physical, length = struct.unpack_from(
            "<IIQQQQ", segments, size * number
        )
        if kind == PT_LOAD and physical <= wanted < physical + length:
            return int(virtual + wanted - physical)
    raise CannotSetUp(f"{KCORE} does not say where the kernel maps frame {pfn:#x}")


def wait_until_handled(pfns: set[int], unpoison: str) -> None:
    """Somebody was stopped at one of these frames: let the handler, which may be queued, finish.

    The mark is set first; a write to ``unpoison`` then waits for the handler's mutex, and is refused.
    """
    deadline = time.monotonic() + HANDLED_SECONDS
    while time.monotonic() < deadline:
        if any(frames.is_bad(pfn) for pfn in pfns):
            try:
                write_once(unpoison, str(min(pfns)))
            except OSError:
                return
        time.sleep(0.01)
