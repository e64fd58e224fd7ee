"""Boot one real kernel in a virtual machine, run one command inside, and bring back what it said.

virtme-ng boots the image over this host's own file system (read-only, with overlays), so the host's Python
and the project run inside as they are; it finds the modules by itself, as the image lies in the same root.
A panic, an oops, a locked-up CPU and a task that hangs for a minute end the guest at once, and it cannot
outlive this process (processes.py).
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import tools
from .kernels import Kernel
from .processes import Watch, converse, unwatched

KVM_SECONDS = 6.0  # a kernel under KVM that works says its version in less than one
LAST_LINES = 15
HALTED = (b"PANIC: early exception", b"-- System halted")  # the kernel then loops for ever
PANIC = re.compile(r"Kernel panic - not syncing: (.*)|PANIC: (early exception .*)")
EXIT = re.compile(r"script exited with code (\d+)")
GUEST_OPTIONS = (
    "mitigations=off",  # nothing to protect, and emulated code gets faster
    "oops=panic",
    "sysctl.kernel.softlockup_panic=1",
    "sysctl.kernel.hung_task_panic=1",
    "sysctl.kernel.hung_task_timeout_secs=60",
)
# The guest's second serial line is QEMU's own monitor (QMP): the agent has machine checks brought in by it.
MONITOR = (
    "-chardev socket,id=monitor,path={0},server=on,wait=off -mon chardev=monitor,mode=control",
    "-chardev socket,id=line,path={0} -device isa-serial,chardev=line",
)

Ending = Literal["finished", "panic", "stopped", "vanished", "no start"]


@dataclass(frozen=True, slots=True)
class Boot:
    """What became of one guest. ``code`` is the command's if it finished; ``reason`` says why it did not."""

    ending: Ending
    code: int | None
    reason: str
    seconds: float
    console: str

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
        return (
            f"software emulation, as {self.why}: a boot takes about 15 s, the catalogue two to three minutes"
        )


def run(
    kernel: Kernel,
    command: Sequence[str],
    shared: Path,
    *,
    kvm: bool,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    watch: Watch = unwatched,
) -> Boot:
    """Boot a kernel and run a command of this host as root inside.

    ``shared`` is the one directory that the guest may write to. ``watch`` can give a reason to end it. Any
    exception ends the guest before it gets further. Raises
    NotPossible without QEMU or virtme-ng.
    """
    tools.need("real kernels are booted with QEMU and virtme-ng", tools.FOR_BOOTING)
    script = shared / "command"  # the kernel's own command line ends in a panic beyond 2048 bytes
    script.write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in (environment or {}).items())
        + f"exec {shlex.join(command)}\n"
    )
    started = time.monotonic()
    with tools.scratch("hwpoison-boot-") as scratch:  # a killed virtme-ng leaves things
        line = _command_line(kernel, script, str(scratch / "monitor"), kvm=kvm)
        console, reason = converse(
            line, seconds, HALTED, watch, TMPDIR=str(scratch), XDG_CACHE_HOME=str(scratch)
        )
    return judge(console, reason, time.monotonic() - started)


def _command_line(kernel: Kernel, script: Path, monitor: str, *, kvm: bool) -> list[str]:
    # Without --verbose nothing comes back when there is no terminal (virtme-ng 1.42).
    line = [tools.VIRTME, "--verbose", "-r", str(kernel.image), "--force-9p", "--cpus", "2", "--memory", "1G"]
    line += ["--user", "root", f"--rwdir={script.parent}", *([] if kvm else ["--disable-kvm"])]
    for option in GUEST_OPTIONS:
        line += ["--append", option]
    line.append(f"--qemu-opts={' '.join(MONITOR).format(monitor)}")
    return [*line, "--exec", shlex.join(["/bin/sh", str(script)])]


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
