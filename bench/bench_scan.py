"""How long counting all frames takes, next to reading the same files and throwing the bytes away.

    python bench/bench_scan.py            this machine, and a made-up host of 1 TiB (needs 4.5 GiB of disk)
    python bench/bench_scan.py --quick    the made-up host has 16 GiB

Reading and scanning alternate in one run, and the best of each counts: what else the machine does then
disturbs both alike. Goals: at most 1.5 times the reading, below 200 MB of memory whatever the host's size.

The kernel makes up each entry of /proc when it is read. The files of the made-up host come out of the page
cache instead, a hundred times faster than any /proc: their ratio says little, but the difference of the two
times is what the counting costs.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from hwpoison.abi import pageflags as pf
from hwpoison.abi.problems import Problem
from hwpoison.host.frames import scan
from hwpoison.host.proc import Host

GOAL_RATIO = 1.5
GOAL_MEMORY_MB = 200
FRAMES_PER_GIB = 1 << 18
TILE = 1 << 20  # frames
SPARE_BYTES = 512 << 20  # left free on the disk

_CACHE = pf.UPTODATE | pf.LRU
_ANON = pf.UPTODATE | pf.LRU | pf.ANON | pf.SWAPBACKED | pf.MMAP
# Share of the memory, mean run in frames, flags, map count: a host at work, neither freshly booted (all free,
# in long runs) nor the worst that could be made up.
MIXTURE: tuple[tuple[float, int, int, int], ...] = (
    (0.10, 64, pf.BUDDY, 0),
    (0.20, 24, _CACHE, 0),
    (0.08, 16, _CACHE | pf.ACTIVE | pf.REFERENCED, 0),
    (0.03, 6, _CACHE | pf.DIRTY | pf.REFERENCED, 0),
    (0.02, 4, _CACHE | pf.MMAP | pf.ACTIVE | pf.REFERENCED, 30),
    (0.05, 12, _CACHE | pf.SWAPBACKED | pf.MMAP | pf.DIRTY, 3),
    (0.17, 6, _ANON, 1),
    (0.10, 4, _ANON | pf.ACTIVE | pf.REFERENCED, 1),
    (0.02, 2, _ANON | pf.SWAPCACHE | pf.DIRTY, 1),
    (0.12, 511, _ANON | pf.THP | pf.COMPOUND_TAIL, 1),
    (0.04, 7, pf.SLAB | pf.COMPOUND_TAIL, 0),
    (0.03, 2, pf.SLAB | pf.COMPOUND_HEAD, 0),
    (0.02, 3, pf.PGTABLE | pf.MMAP, 0),
    (0.02, 40, 0, 0),
)
NOISE = 0.01  # share of frames with a flag more or less than their neighbours


def tile(random: np.random.Generator) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Flags and map counts of TILE frames drawn from the mixture."""
    share, run, flags, count = (np.array(column) for column in zip(*MIXTURE, strict=True))
    weight = share / run / (share / run).sum()
    runs = int(TILE * (share / run).sum() * 1.5)
    which = random.choice(len(MIXTURE), runs, p=weight)
    frames = np.repeat(which, random.geometric(1 / run[which]))[:TILE]
    words = flags.astype(np.uint64)[frames]
    noisy = random.integers(0, TILE, int(TILE * NOISE))
    words[noisy] ^= np.array([pf.REFERENCED, pf.ACTIVE, pf.LOCKED, pf.PRIVATE], np.uint64)[noisy % 4]
    return words, count.astype(np.uint64)[frames]


def make_host(root: Path, frames: int) -> None:
    """Write the two files of a host with so many frames (a multiple of TILE), no two tiles alike in place."""
    random = np.random.default_rng(20)
    flags, counts = tile(random)
    (root / "proc").mkdir(parents=True)
    with (
        (root / "proc/kpageflags").open("wb") as flags_file,
        (root / "proc/kpagecount").open("wb") as count_file,
    ):
        for shift in random.integers(0, TILE, frames // TILE).tolist():
            for words, file in ((flags, flags_file), (counts, count_file)):
                file.write(words[shift:].data)
                file.write(words[:shift].data)
        for file in (flags_file, count_file):
            file.flush()
            os.fsync(file.fileno())


def read_and_throw_away(host: Host, block: int = 1 << 20) -> int:
    """Read both files from beginning to end, a block of each in turn as a scan does; the bytes read."""
    buffer = memoryview(bytearray(block))
    total = offset = 0
    with host.open("proc/kpageflags") as flags_file, host.open("proc/kpagecount") as count_file:
        while got := os.preadv(flags_file, [buffer], offset):
            total += got + os.preadv(count_file, [buffer[:got]], offset)
            offset += got
    return total


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(title: str, host: Host, rounds: int, remark: str) -> tuple[float, float]:
    """Read and scan in turns, print the best of each and their ratio; nanoseconds a frame of both."""
    tally = scan(host)
    if tally.entries != sum(tally.kinds.values()):
        raise SystemExit(f"scan lost frames: {tally.entries} read, {sum(tally.kinds.values())} counted")
    read = scanned = math.inf
    for _ in range(rounds):
        read = min(read, seconds(lambda: read_and_throw_away(host)))
        scanned = min(scanned, seconds(lambda: scan(host)))
    print(f"{title}: {tally.entries} frames, {len(tally.kinds)} kinds, {tally.bytes_read >> 20} MiB read")
    for what, taken in (("raw read", read), ("scan", scanned)):
        print(f"  {what:<8} {taken:8.3f} s {taken / tally.entries * 1e9:7.1f} ns a frame")
    print(f"  scan / raw read: {scanned / read:.2f} ({remark})")
    return read / tally.entries * 1e9, scanned / tally.entries * 1e9


def peak_memory(root: Path) -> float:
    """Peak resident memory in MB of a process that scans this host and does nothing else."""
    # VmHWM and not getrusage: ru_maxrss also remembers the process that was forked before the exec.
    code = (
        "import sys; from pathlib import Path\n"
        "from hwpoison.host.frames import scan\n"
        "from hwpoison.host.proc import Host\n"
        "scan(Host(Path(sys.argv[1])))\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    source = str(Path(__file__).resolve().parent.parent / "src")
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    answer = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    return int(answer.stdout) * 1024 / 1e6


def made_up_host(gib: int, directory: Path, rounds: int, proc_read: float | None) -> None:
    """Make a host of that size below the directory, measure it, and remove it whatever happens.

    ``proc_read``: nanoseconds a frame to read /proc of this machine, None where that cannot be read.
    """
    frames = gib * FRAMES_PER_GIB
    needed = 2 * 8 * frames + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        print(
            f"made-up host of {gib} GiB: left out, {directory} has {free / 2**30:.1f} GiB free and "
            f"{needed / 2**30:.1f} GiB are needed (choose another with --directory, or use --quick)"
        )
        return
    with tempfile.TemporaryDirectory(prefix="bench_scan_", dir=directory) as name:
        root = Path(name)
        make_host(root, frames)
        title = f"made-up host of {gib} GiB"
        read, scanned = compare(title, Host(root), rounds, "out of the page cache: no goal")
        print(f"  counting: {scanned - read:.1f} ns a frame")
        if proc_read is not None:
            ratio = (proc_read + scanned - read) / proc_read
            print(f"  scan / raw read, worked out for such frames in /proc: {ratio:.2f} (goal {GOAL_RATIO})")
        print(f"  peak memory of a scan: {peak_memory(root):.0f} MB (goal {GOAL_MEMORY_MB})")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="a made-up host of 16 GiB instead of 1 TiB")
    options.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    options.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to make it"
    )
    given = options.parse_args()
    proc_read = None
    try:
        proc_read, _ = compare("this machine", Host(), given.rounds, f"goal {GOAL_RATIO}")
    except Problem as problem:
        print(f"this machine: left out, {problem}")
    made_up_host(16 if given.quick else 1024, given.directory, given.rounds, proc_read)


if __name__ == "__main__":
    main()
