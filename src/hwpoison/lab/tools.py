"""Programs of this machine that the lab calls: where they are, what to install if not, and bounded runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hwpoison.abi.problems import NotPossible

SOURCE = Path(__file__).parents[2]  # what has to be in PYTHONPATH to find this package
DEBIAN_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",  # the first steps inside the guest, before its file systems are there
    "modprobe": "kmod",
    "depmod": "kmod",
    "setpriv": "util-linux",
    "timeout": "coreutils",
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
}
FOR_BOOTING = ("qemu-system-x86_64", "busybox", "modprobe", "setpriv", "timeout")
FOR_FETCHING = ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "depmod")
NO_SPACE = "No space left on device"
SCRATCH_NEEDED = 64 << 20  # bytes: an initramfs, results, and room to spare
LAST_WORDS = 3  # lines of a failed program's output that are passed on


def search_path() -> str:
    """PATH, after the directory of this Python, before the administrator's."""
    beside = str(Path(sys.executable).parent)
    return os.pathsep.join((beside, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name, path=search_path())


def missing(programs: Sequence[str]) -> str:
    """What to install to have all of ``programs``, as a clause; empty when all are there."""
    absent = [name for name in programs if program(name) is None]
    packages = dict.fromkeys(DEBIAN_PACKAGES[name] for name in absent)
    way = f"on Debian, apt-get install {' '.join(packages)}"
    return f"{', '.join(absent)} not found ({way})" if absent else ""


def need(purpose: str, programs: Sequence[str]) -> None:
    """Raise NotPossible, with what to install, unless all programs are there."""
    if lack := missing(programs):
        raise NotPossible(f"{purpose}: {lack}")


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory for a guest, gone afterwards. NotPossible if there is no room for one."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as made:
        if (free := shutil.disk_usage(made).free) < SCRATCH_NEEDED:
            raise NotPossible(
                f"{made} has {free >> 20} MiB free, and a guest needs {SCRATCH_NEEDED >> 20}: "
                "free some, or name another directory with TMPDIR"
            )
        yield Path(made)


def environment(**more: str) -> dict[str, str]:
    """This process's environment with a complete PATH and messages in English."""
    return os.environ | {"PATH": search_path(), "LC_ALL": "C"} | more


def run(command: Sequence[str], *, seconds: float, directory: Path | None = None) -> str:
    """What a command printed. NotPossible, with its last words, when it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment(DEBIAN_FRONTEND="noninteractive"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotPossible(f"{command[0]} was not done after {seconds:.0f} s: {' '.join(command)}") from None
    except OSError as error:
        raise NotPossible(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise failure(command[0], done.returncode, done.stderr or done.stdout)
    return done.stdout


def failure(name: str, code: int, said: str) -> NotPossible:
    """The error for a program that failed; a full disk is named as what it is."""
    if NO_SPACE in said:
        return NotPossible(f"{name} failed because the disk is full ({NO_SPACE}): free some, or name another")
    words = " | ".join(line.strip() for line in said.strip().splitlines()[-LAST_WORDS:])
    return NotPossible(f"{name} failed ({code}): {words or 'it said nothing'}")
