"""Memory cgroups: made when a task is first moved into one, and gone with their scenario."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .files import ROOT
from .problems import CannotSetUp
from .quiet import mount, write_once

TREE = ROOT / "cgroups"
PREFIX = "scenario-"


def _mount() -> None:
    """Mount the hierarchy, once in a boot, with the accounting of memory for what is made in it."""
    if TREE.is_mount():
        return
    try:
        mount("none", TREE, "cgroup2")
        write_once(str(TREE / "cgroup.subtree_control"), "+memory")
    except OSError as error:
        raise CannotSetUp(f"this kernel accounts no memory by cgroups: {error.strerror}") from None


def _group(name: str) -> Path:
    _mount()
    place = TREE / f"{PREFIX}{name}"
    place.mkdir(exist_ok=True)
    return place


def join(name: str, pid: int) -> None:
    """Move a process. What it has in memory already is paid for by the group that it leaves."""
    write_once(str(_group(name) / "cgroup.procs"), str(pid))


def number(name: str) -> int:
    """What /proc/kpagecgroup and the injection filter call the group: the number of its inode."""
    return _group(name).stat().st_ino


def remove() -> None:
    """All groups, as far as nobody is in them any more."""
    for place in TREE.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            place.rmdir()
