"""Boot one real kernel in a virtual machine, run one command inside, and bring back what it said.

The guest has this host's own file system, read-only, so the host's Python and the project run inside as
they are (initramfs.py says how it comes up); its kernel and modules have been unpacked before
(prepared.py). It has one processor: QEMU then emulates on one thread, where atomic instructions are cheap,
and the races of emulated processors with each other are gone. (virtme-ng did all this first, and well;
emulated, its way up cost 18 s of processor time, and thousands of scenarios want it half as long.) A panic,
an oops, a locked-up CPU and a task that hangs for a minute end the guest at once, and it cannot outlive
this process (processes.py).

A guest that ends before the command is under way says nothing about the command: it is booted again, a
bounded number of times, and the result says so. A file that is no longer empty is the mark that tells.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from . import initramfs, tools
from .hardware import Server
from .kernels import Kernel
from .prepared import Prepared, prepare
from .processes import converse, held_up

KVM_SECONDS = 6.0  # a kernel under KVM that works says its version in less than one
STARTS = 3  # emulated kernels have been seen to panic on their way up, once in some hundred boots
START_SECONDS = 120.0  # of its own time until the command is under way; it needs about ten
PATIENCE = 6.0  # so many times the limits is the longest that a guest may take on a machine with other work
LAST_LINES = 15
OUTPUT_BYTES = 1 << 20  # of what the command prints, the last ones
GUEST_MARK = "hwpoison_lab"  # on the command line of every guest's kernel
HALTED = (b"PANIC: early exception", b"-- System halted")  # the kernel then loops for ever
PANIC = re.compile(r"Kernel panic - not syncing: (.*)|PANIC: (early exception .*)")
EXIT = re.compile(re.escape(initramfs.ENDED) + r" (\d+)")
CPU = "max,la57=off,smap=off,smep=off"  # a fifth page table level and these checks are slow to emulate
GUEST_OPTIONS = (
    f"{GUEST_MARK} console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1",
    "loglevel=6",  # each character is an exit to QEMU; an oops is printed whole all the same
    "mitigations=off cryptomgr.notests apparmor=0 audit=0",  # nothing to protect or test
    "tsc=reliable no_timer_check",  # a guest that is made to wait must not mistrust its clocks
    "oops=panic",
    "sysctl.kernel.softlockup_panic=1",
    "sysctl.kernel.hung_task_panic=1",
    "sysctl.kernel.hung_task_timeout_secs=60",
)
MACHINE = "q35,max-ram-below-4g=1G"
# For errors of the hardware (hardware.py): the guest's second serial line ends in this process, which has
# QEMU's monitor and its debugger's stub. Intel's machine checks are the ones that QEMU can bring in.
HARDWARE = (
    "-chardev socket,id=monitor,path={0}/monitor,server=on,wait=off -mon chardev=monitor,mode=control",
    "-chardev socket,id=debugger,path={0}/debugger,server=on,wait=off -gdb chardev:debugger",
    "-chardev socket,id=line,path={0}/line -device isa-serial,chardev=line",
    "-device virtio-balloon-pci",
)
INTEL = "vendor=GenuineIntel"


@dataclass(frozen=True, slots=True)
class Memory:
    """How much of it a guest has, a gigabyte below 4G and the rest above, and its kernel's options about it.

    It is taken from the host only where something is written. ``cpu``: what the processor is to be without.
    """

    size: str
    options: tuple[str, ...]
    cpu: str = ""


USUAL = Memory(
    "2368M",
    (
        "numa=fake=2",  # a second node, for pages to be moved to
        # Four devices of persistent memory, with nothing between them (agent/pmem.py).
        "memmap=128M!4G memmap=128M$4224M memmap=384M!4352M memmap=128M$4736M memmap=384M!4864M",
        "memmap=128M$5248M memmap=64M!5376M",
    ),
)
GIGANTIC = Memory("6144M", (), ",erms=off,fsrm=off")
"""Room for pages of 1 GiB, on one node. To copy one byte by byte (rep movsb) takes the emulator half a
minute: a kernel that is not told that this is fast takes words, and three seconds."""

Watch = Callable[[float], str | None]
"""Called several times a second with the seconds of its own that the guest has had; a reason ends it."""

Ending = Literal["finished", "panic", "stopped", "vanished", "no start"]


@dataclass(frozen=True, slots=True)
class Boot:
    """What became of one guest. ``code`` is the command's if it finished; ``reason`` says why it did not.

    ``started``: was the command under way? ``before``: the guests before this one, which did not get so far.
    """

    ending: Ending
    code: int | None
    reason: str
    seconds: float
    console: str
    started: bool = False
    before: tuple[Boot, ...] = ()

    def why(self) -> str:
        """Why it ended, in a clause."""
        return self.reason or f"the command in the guest ended with code {self.code}"

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The end of the console; of a panic, what led to it and the first lines of its report."""
        lines = [line for line in self.console.splitlines() if line.strip()]
        if self.ending == "panic":
            at = next((number for number, line in enumerate(lines) if PANIC.search(line)), len(lines))
            lines = lines[: at + LAST_LINES // 3]
        return tuple(lines[-LAST_LINES:])


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How guests run on this machine, and why so."""

    kvm: bool
    why: str = ""

    def text(self) -> str:
        if self.kvm:
            return "hardware acceleration (KVM)"
        return f"software emulation, as {self.why}: a boot takes about 10 s, the catalogue a minute or two"


def run(
    kernel: Kernel,
    command: Sequence[str],
    shared: Path,
    *,
    kvm: bool,
    seconds: float,
    watch: Watch = lambda _clock: None,
    mark: Path | None = None,
    memory: Memory = USUAL,
) -> Boot:
    """Boot a kernel and run a command of this host as root inside, for so many ``seconds`` at most.

    Seconds are the guest's own: those in which other work kept it from a processor do not count (held_up()).

    ``shared`` is the one directory that the guest may write to. ``mark`` is a file there that the command
    writes to when it gets going; without one, that it was started will do. From then on ``watch`` can give a
    reason to end it. Any exception that it raises, then or before, ends the guest first. Raises NotPossible
    without QEMU.
    """
    tools.need("real kernels are booted with QEMU", tools.FOR_BOOTING)
    script = shared / initramfs.COMMAND  # the kernel's own command line ends in a panic beyond 2048 bytes
    script.write_text(f"echo > {shlex.quote(str(shared / 'started'))}\nexec {shlex.join(command)}\n")
    (shared / initramfs.PLACE).write_text(f"{shared}\n")
    mark = mark or shared / "started"
    prepared = prepare(kernel)
    before: list[Boot] = []
    while True:
        mark.unlink(missing_ok=True)
        limits = _Limits(mark, seconds, watch)
        ended = _boot(prepared, shared, limits, memory, kvm=kvm)
        if limits.started() or ended.ending in ("finished", "no start") or len(before) == STARTS - 1:
            return replace(ended, started=limits.started(), before=tuple(before))
        before.append(ended)


@dataclass(slots=True)
class _Limits:
    """When to end a guest: how long it may take until there is the mark, and from then on."""

    mark: Path
    seconds: float
    watch: Watch
    pid_file: Path = Path("nowhere")  # where QEMU writes its number
    begun: float = field(default_factory=time.monotonic)
    since: float = 0.0  # the guest's own time when the command got going
    up: bool = False

    @property
    def longest(self) -> float:
        """Seconds by the clock after which it ends in any case."""
        return PATIENCE * (START_SECONDS + self.seconds)

    def started(self) -> bool:
        return self.mark.exists() and self.mark.stat().st_size > 0

    def clock(self) -> float:
        """The guest's own time."""
        waited = 0.0
        with suppress(OSError, ValueError):  # QEMU is not there yet
            waited = held_up(int(self.pid_file.read_text()))
        return time.monotonic() - self.begun - waited

    def reason(self) -> str | None:
        clock = self.clock()
        if not self.up and self.started():
            self.up, self.since = True, clock
        reason, limit = self.watch(clock), self.seconds if self.up else START_SECONDS
        late = clock - self.since > limit
        if self.up:
            return reason or (f"it was not done after {limit:.0f} s" if late else None)
        return f"it did not get going in {limit:.0f} s" if late else None


def _boot(kernel: Prepared, shared: Path, limits: _Limits, memory: Memory, *, kvm: bool) -> Boot:
    """One guest."""
    begun = time.monotonic()
    output = shared / initramfs.OUTPUT
    output.unlink(missing_ok=True)
    with tools.scratch("hwpoison-boot-") as scratch:
        (scratch / "initramfs").write_bytes(b"".join(archive.read_bytes() for archive in kernel.archives))
        line = _command_line(kernel.image, scratch, shared, memory, kvm=kvm)
        limits.pid_file = scratch / "pid"
        line += ["-pidfile", str(limits.pid_file)]
        with Server(scratch / "line", scratch / "monitor", scratch / "debugger"):
            console, reason = converse(line, limits.longest, HALTED, limits.reason)
    if output.exists():
        console += output.read_bytes()[-OUTPUT_BYTES:].decode(errors="replace")
    return judge(console, reason, time.monotonic() - begun)


def _command_line(image: Path, scratch: Path, shared: Path, memory: Memory, *, kvm: bool) -> list[str]:
    line = ["qemu-system-x86_64", "-name", "hwpoison-lab", "-machine", MACHINE, "-m", memory.size]
    cpu = (CPU if kvm else f"{CPU},{INTEL}") + memory.cpu
    line += ["-smp", "1", "-accel", "kvm" if kvm else "tcg", "-cpu", cpu]
    line += ["-nodefaults", "-display", "none", "-no-reboot"]
    line += ["-kernel", str(image), "-initrd", str(scratch / "initramfs"), "-serial", "stdio"]
    line += ["-append", " ".join((*GUEST_OPTIONS, *memory.options))]
    for tag, path, access in ((initramfs.ROOT_TAG, "/", "on"), (initramfs.SHARED_TAG, str(shared), "off")):
        place = f"path={path.replace(',', ',,')},security_model=none"
        line += ["-fsdev", f"local,id={tag},{place},readonly={access},multidevs=remap"]
        line += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return [*line, *shlex.split(" ".join(HARDWARE).format(str(scratch).replace(",", ",,")))]


def judge(console: str, reason: str, seconds: float) -> Boot:
    """What a console, and the reason for which the guest was ended (if it was), come to."""
    if panic := PANIC.search(console):
        return Boot("panic", None, panic[1] or panic[2], seconds, console)
    if ended := EXIT.search(console):
        return Boot("finished", int(ended[1]), "", seconds, console)
    if reason:
        return Boot("stopped", None, reason, seconds, console)
    if "Linux version" in console:
        return Boot("vanished", None, "the guest ended without a word", seconds, console)
    last = (console.strip().splitlines() or ["QEMU said nothing"])[-1]
    return Boot("no start", None, last, seconds, console)


def acceleration(image: Path) -> Acceleration:
    """Whether this machine really runs a guest under KVM: the device may be there and of no use. A moment."""
    device = "/dev/kvm"
    if not Path(device).exists():
        return Acceleration(False, f"there is no {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        return Acceleration(False, f"{device} may not be used by this user")
    proof = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-machine", "q35", "-m", "512M"]
    proof += ["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(image)]
    proof += ["-append", "console=ttyS0 earlyprintk=serial panic=-1"]
    said, _reason = converse(proof, KVM_SECONDS, (b"Linux version",))
    if "Linux version" in said:
        return Acceleration(True)
    last = (said.strip().splitlines() or ["no guest started in time"])[-1].rpartition(": ")[2]
    return Acceleration(False, f"{device} does not work ({last})")
