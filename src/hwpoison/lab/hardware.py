"""Hardware errors for a guest: this host's end of its second serial line.

The agent in the guest asks, one line of JSON a request, and has an answer when it is done:

* ``{"do": "scrub", "frame"}``: the processor reports an error in a frame that nobody has read (a machine
  check of the kind "software recoverable, action optional", as the memory scrubber raises it);
* ``{"do": "break", "frame", "direct"}``: the frame is bad from now on. Nothing happens until somebody loads
  from it: a task in user mode, with the one instruction of its program that touches memory, or the kernel by
  its own mapping ``direct``. The guest is stopped at that very instruction, gets the machine check of a
  consumed error ("action required"), and goes on;
* ``{"do": "nomemory", "times", "callers", "allocators"}``: so many of the next calls from within ``callers``
  (start and end of functions) to one of ``allocators`` return at once, with nothing;
* ``{"do": "mend"}``: no frame is bad any more, and no call fails;
* ``{"do": "balloon", "mib"}``: the guest is to have so much memory, and gives the rest back.

The machine checks are QEMU's own: its ``mce`` command fills the bank of the emulated processor and raises
the exception, so everything from the kernel's entry code on is as on a real machine. That the moment
is right is the debugger's doing: QEMU has no bad memory.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hwpoison.abi.mce import CONSUMED, CORRUPT, PHYSICAL_PAGE, SCRUBBED
from hwpoison.abi.problems import NotPossible
from hwpoison.abi.signals import PAGE_SHIFT, PAGE_SIZE

from .agent import stub
from .qemu import BREAK, READ, Debugger, Monitor, Stop

# Of the processor at a machine check: it can go on; at this instruction; the exception is under way; no other
# has it.
RESTARTABLE, AT_THE_INSTRUCTION, IN_PROGRESS, LOCAL = 1, 2, 4, 8
BANK = 5
TICK = 0.5  # seconds between two looks whether the guest is gone


@dataclass(slots=True)
class Bad:
    """The frames that are bad, by number, with the address by which the kernel itself reaches each.

    ``corrupting``: those whose error takes the processor's own state along.
    """

    direct: dict[int, int] = field(default_factory=dict)
    corrupting: set[int] = field(default_factory=set)

    def watched(self, address: int) -> int | None:
        """The frame that the kernel has loaded from."""
        found = (pfn for pfn, first in self.direct.items() if first <= address < first + PAGE_SIZE)
        return next(found, None)


@dataclass(slots=True)
class Failing:
    """Allocations that are to fail: how many more, of whom, and where the kernel allocates."""

    times: int = 0
    callers: list[tuple[int, int]] = field(default_factory=list)
    allocators: list[int] = field(default_factory=list)


class Hardware:
    """The hardware of one guest, as far as errors are concerned."""

    def __init__(self, monitor: Path, debugger: Path) -> None:
        self.paths = monitor, debugger
        self.monitor: Monitor | None = None
        self.debugger: Debugger | None = None
        self.bad = Bad()
        self.failing = Failing()

    def ask(self, line: str, cpu: int = 0) -> str:
        """A command for QEMU's monitor."""
        if self.monitor is None:
            self.monitor = Monitor(self.paths[0])
        return self.monitor.command(line, cpu)

    def do(self, request: dict[str, Any]) -> None:
        """What the guest asks for. NotPossible if it cannot be had."""
        match request:
            case {"do": "scrub", "frame": int(pfn)}:
                self.machine_check(0, SCRUBBED, RESTARTABLE | IN_PROGRESS, pfn << PAGE_SHIFT)
            case {"do": "break", "frame": int(pfn), "direct": int(direct), **more}:
                self.make_bad(pfn, direct)
                if not more.get("contained", True):
                    self.bad.corrupting.add(pfn)
            case {"do": "nomemory", "times": int(times), "callers": [*callers], "allocators": [*allocators]}:
                self.fail_allocations(times, [(first, end) for first, end in callers], allocators)
            case {"do": "mend"}:
                self.mend()
            case {"do": "balloon", "mib": int(mib)}:
                self._expect_silence(f"balloon {mib}")
            case _:
                raise NotPossible(f"{request}: no such request of a guest")

    def machine_check(self, cpu: int, status: int, general: int, address: int) -> None:
        self._expect_silence(f"mce {cpu} {BANK} {status:#x} {general:#x} {address:#x} {PHYSICAL_PAGE:#x}")

    def _expect_silence(self, command: str) -> None:
        if said := self.ask(command):
            raise NotPossible(f"QEMU's monitor, of {command.split(maxsplit=1)[0]!r}: {said}")

    def make_bad(self, pfn: int, direct: int) -> None:
        """Stop the guest at the next loads from the frame."""
        debugger = self._halted()
        self.bad.direct[pfn] = direct
        debugger.put(BREAK, stub.COPY_AT)
        debugger.put(READ, direct, PAGE_SIZE)
        debugger.go()

    def fail_allocations(self, times: int, callers: list[tuple[int, int]], allocators: list[int]) -> None:
        """Stop the guest at its next allocations."""
        debugger = self._halted()
        self.failing = Failing(times, callers, allocators)
        for address in allocators:
            debugger.put(BREAK, address)
        debugger.go()

    def _halted(self) -> Debugger:
        if self.debugger is None:
            self.debugger = Debugger(self.paths[1])
        self.debugger.halt()
        return self.debugger

    def mend(self) -> None:
        self.bad, self.failing = Bad(), Failing()
        if self.debugger is not None:
            self.debugger.close()
            self.debugger = None

    def at_a_stop(self, debugger: Debugger) -> None:
        """The guest has stopped: bring in the machine check if this is the load of a bad frame; go on."""
        stop = debugger.stopped()
        if stop.watched is not None:
            if (pfn := self.bad.watched(stop.watched)) is not None:
                self._consumed(stop, pfn)
        elif stop.user and stop.registers["rip"] == stub.COPY_AT:
            debugger.take(BREAK, stub.COPY_AT)
            stop = debugger.step()
            debugger.put(BREAK, stub.COPY_AT)
            self._at_the_copy(debugger, stop)
        elif stop.user and stop.registers["rip"] == stub.FAULT_AT:
            self._at_the_copy(debugger, stop)
        elif stop.registers["rip"] in self.failing.allocators:
            self._at_an_allocation(debugger, stop)
        debugger.go()

    def _at_an_allocation(self, debugger: Debugger, stop: Stop) -> None:
        """Return from it with a null pointer if it is the handler's; no stop is needed after the last."""
        stack = stop.registers["rsp"]
        caller = debugger.word(stack)
        if any(first <= caller < end for first, end in self.failing.callers):
            debugger.write(stop, rax=0, rsp=stack + 8, rip=caller)
            self.failing.times -= 1
        else:
            debugger.take(BREAK, stop.registers["rip"])
            debugger.step()
            debugger.put(BREAK, stop.registers["rip"])
        if not self.failing.times:
            for address in self.failing.allocators:
                debugger.take(BREAK, address)

    def _at_the_copy(self, debugger: Debugger, stop: Stop) -> None:
        """A task is about to copy. A page that is not mapped yet is looked at again after the fault."""
        debugger.take(BREAK, stub.FAULT_AT)
        frames = [self._frame(stop, stop.registers[name]) for name in ("rsi", "rdi")]
        bad = [pfn for pfn in frames if pfn in self.bad.direct]
        if bad and bad[0] is not None:
            self._consumed(stop, bad[0])
        elif None in frames:
            debugger.step()
        else:
            return
        debugger.put(BREAK, stub.FAULT_AT)

    def _frame(self, stop: Stop, address: int) -> int | None:
        """The frame behind an address of the stopped task; None if there is none."""
        said = self.ask(f"gva2gpa {address:#x}", stop.cpu)
        return int(said.split()[-1], 16) >> PAGE_SHIFT if said.startswith("gpa:") else None

    def _consumed(self, stop: Stop, pfn: int) -> None:
        """The machine check of a load that has met an error, on the processor that is at this load."""
        general = RESTARTABLE | AT_THE_INSTRUCTION | IN_PROGRESS | LOCAL
        status = CONSUMED | (CORRUPT if pfn in self.bad.corrupting else 0)
        self.machine_check(stop.cpu, status, general, pfn << PAGE_SHIFT)

    def close(self) -> None:
        self.mend()
        if self.monitor is not None:
            self.monitor.close()
            self.monitor = None


class Server(threading.Thread):
    """Answers the guest until it is closed. Used as a context: the thread ends with it."""

    def __init__(self, line: Path, monitor: Path, debugger: Path) -> None:
        super().__init__(name="hardware", daemon=True)
        self.hardware = Hardware(monitor, debugger)
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(str(line))
        self.door.listen(1)
        self.door.settimeout(TICK)
        self.over = threading.Event()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.join()
        self.door.close()

    def run(self) -> None:
        while not self.over.is_set():
            with suppress(TimeoutError):
                line, _ = self.door.accept()
                with line:
                    self._serve(line)

    def _serve(self, line: socket.socket) -> None:
        """One guest, until its line or we are closed."""
        text = b""
        try:
            while not self.over.is_set():
                debugger = self.hardware.debugger
                waiting: list[socket.socket | Debugger] = [line, *([] if debugger is None else [debugger])]
                ready = select.select(waiting, [], [], TICK)[0]
                if debugger is not None and debugger in ready:
                    if debugger.heard():
                        self.hardware.at_a_stop(debugger)
                elif line in ready:
                    if not (part := line.recv(4096)):
                        return
                    *requests, text = (text + part).split(b"\n")
                    for request in requests:
                        line.sendall(self.answer(request))
        except (OSError, NotPossible):
            pass  # the guest has ended; boot.py sees that too, and says why
        finally:
            self.hardware.close()

    def answer(self, request: bytes) -> bytes:
        """The line for the guest when a request of its has been seen to."""
        try:
            self.hardware.do(json.loads(request))
            reply: dict[str, object] = {"done": True}
        except (NotPossible, OSError, ValueError) as problem:
            reply = {"problem": str(problem)}
        return json.dumps(reply).encode() + b"\n"
