"""Getting kernels: the distribution's packages, through apt, into the cache.

The mirror and its keys are those the machine is configured for, but list, state and cache directories are our
own, and the machine's hooks are switched off: its package state is neither read nor written. Kernels of newer
suites than the machine's are taken from the same mirror.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hwpoison.abi.problems import NotPossible, Problem, unknown_name

from . import tools
from .apt import ELSEWHERE, SECONDS, Archive, Told
from .kernels import (
    CACHE_VARIABLE,
    KNOWN,
    Kernel,
    Known,
    cache_directory,
    check_configuration,
    kernel_in,
    present,
)

SPACE_NEEDED = 1 << 30  # bytes: packages, what they unpack to, and the lists, with room to spare


def fetch(names: Sequence[str], told: Told) -> list[Kernel]:
    """Download and unpack the newest kernel of each series; those that are present are taken as they are.

    Raises WrongUse for an unknown series, NotPossible without apt, network, space, such packages, or a memory
    error handler in them. A kernel gets into the cache as a whole or not at all; one that fails does not keep
    the others from being fetched.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in KNOWN:
            raise unknown_name("kernel", name, KNOWN)
    failed: list[Problem] = []
    wanted = [name for name in names if not present(name)]
    if wanted:
        tools.need(
            f"kernels are fetched with the tools of Debian (elsewhere, {ELSEWHERE})", tools.FOR_FETCHING
        )
        with _workshop() as work:
            archive = Archive(work / "apt")
            for name in wanted:
                try:
                    _fetch(archive, KNOWN[name], work / name, told)
                except Problem as problem:
                    failed.append(problem)
    if failed:
        raise NotPossible("; ".join(dict.fromkeys(map(str, failed))))
    return [kernel for name in names if (kernel := present(name))]


@contextmanager
def _workshop() -> Iterator[Path]:
    """A directory in the cache, so on the same file system, that goes away however this ends."""
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with tempfile.TemporaryDirectory(prefix=f".fetch-{os.getpid()}-", dir=cache) as work:
            if (free := shutil.disk_usage(cache).free) < SPACE_NEEDED:
                raise NotPossible(
                    f"{cache} has {free >> 20} MiB free, and fetching needs {SPACE_NEEDED >> 20}: "
                    f"free some, or name another directory with {CACHE_VARIABLE}"
                )
            yield Path(work)
    except OSError as error:
        raise NotPossible(
            f"the kernel cache {cache} cannot be written: {error.strerror}; name another with "
            f"{CACHE_VARIABLE}"
        ) from None


def _sweep(cache: Path) -> None:
    """Remove what a process that was killed has left."""
    for left in cache.glob(".fetch-*"):
        owner = left.name.split("-")[1]
        if not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)


def _fetch(archive: Archive, known: Known, work: Path, told: Told) -> None:
    told(known.name, "reading package lists", 0.0)
    work.mkdir()
    archive.download(known, work, told)
    tree = work / "tree"
    tree.mkdir()
    for package in sorted(work.glob("*.deb")):
        told(known.name, "unpacking", 0.0)
        tools.run(["dpkg-deb", "--extract", str(package), str(tree)], seconds=SECONDS)
    settle(known.name, tree)
    target = cache_directory() / known.name
    shutil.rmtree(target, ignore_errors=True)  # a half of what somebody else removed
    tree.rename(target)
    shutil.rmtree(work)


def settle(name: str, tree: Path) -> None:
    """Make an unpacked package a root whose modules are found; refuse a kernel that cannot be a witness."""
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    for modules in (tree / "lib" / "modules").glob("*/kernel"):
        tools.run(["depmod", "-b", str(tree), modules.parent.name], seconds=SECONDS)
    kernel = kernel_in(tree, name)
    if kernel is None:
        raise NotPossible(f"the packages of kernel {name} hold no image with its modules; {ELSEWHERE}")
    check_configuration(kernel)
    shutil.rmtree(tree / "usr" / "share", ignore_errors=True)
