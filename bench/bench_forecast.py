"""How long a forecast of the whole host takes, next to reading the same files and throwing the bytes away.

    python bench/bench_forecast.py           this machine, and a made-up host of 1 TiB (needs 4.5 GiB of disk)
    python bench/bench_forecast.py --quick   the made-up host has 16 GiB

Reading and forecasting alternate in one run, and the best of each counts. A forecast is everything between
opening the files and the finished record: counting the frames, and running the handler for each kind of
page that was met, from nothing each time. The command adds its start (importing numpy, rich and typer) and
printing, which is shown as well.

Goals: at most 1.5 times the reading of /proc, and below 200 MB of memory whatever the host's size. The files
of the made-up host come out of the page cache, a hundred times faster than any /proc, so the time there only
says what the forecast itself costs.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_scan import (
    FRAMES_PER_GIB,
    GOAL_MEMORY_MB,
    GOAL_RATIO,
    SPARE_BYTES,
    make_host,
    read_and_throw_away,
    seconds,
)

from hwpoison.abi.forecast import HostForecast, Setting
from hwpoison.abi.problems import Problem
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.kinds import Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.rollup import forecast_host
from hwpoison.host.proc import Host

SOURCE = Path(__file__).resolve().parent.parent / "src"
SETTING = Setting("bench", handler=True, handler_evidence="", profile=NEWEST.name, profile_reason="")


def forecast(host: Host) -> HostForecast:
    """With a new oracle, which has judged nothing yet."""
    return forecast_host(host, Oracle(NEWEST), SETTING)


def compare(title: str, host: Host, rounds: int, remark: str) -> float:
    """Read and forecast in turns, print the best of each and their ratio; returns the time to read."""
    found = forecast(host)
    counted = sum(line.pages for line in found.kinds)
    if counted != found.entries:
        raise SystemExit(f"forecast lost frames: {found.entries} read, {counted} in the table")
    read = forecasted = judging = math.inf
    for _ in range(rounds):
        read = min(read, seconds(lambda: read_and_throw_away(host)))
        forecasted = min(forecasted, seconds(lambda: forecast(host)))
        judging = min(judging, seconds(lambda: judge(found)))
    print(f"{title}: {found.entries} frames, {len(found.kinds)} kinds, each frame counted once")
    print(f"  raw read  {read:8.3f} s")
    print(f"  forecast  {forecasted:8.3f} s, of which running the handler for all kinds {judging:.3f} s")
    print(f"  forecast / raw read: {forecasted / read:.2f} ({remark})")
    return read


def judge(found: HostForecast) -> None:
    """Only the handler's part of a forecast: every kind again, from nothing."""
    oracle = Oracle(NEWEST)
    for line in found.kinds:
        oracle.of_kind(Kind(line.flags, line.mappers))


def command(read: float) -> None:
    """The whole command as people run it, in a process of its own."""
    code = "import sys; from hwpoison.cli.app import main; sys.exit(main(['forecast']))"
    wall = min(seconds(lambda: run(code)) for _ in range(3))
    print(f"  the command hwpoison forecast {wall:.3f} s: {wall / read:.2f} times the raw read")


def run(code: str, *arguments: str) -> str:
    """A Python program with this package, in a process of its own; what it printed."""
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    return answer.stdout


def peak_memory(root: Path) -> float:
    """Peak resident memory in MB of a process that forecasts this host and does nothing else."""
    # VmHWM and not getrusage: ru_maxrss also remembers the process that was forked before the exec.
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from bench_forecast import forecast\n"
        "from hwpoison.host.proc import Host\n"
        "forecast(Host(Path(sys.argv[1])))\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    return int(run(code, str(root))) * 1024 / 1e6


def made_up_host(gib: int, directory: Path, rounds: int) -> None:
    """Make a host of that size below the directory, measure it, and remove it whatever happens."""
    frames = gib * FRAMES_PER_GIB
    needed = 2 * 8 * frames + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        print(
            f"made-up host of {gib} GiB: left out, {directory} has {free / 2**30:.1f} GiB free and "
            f"{needed / 2**30:.1f} GiB are needed (choose another with --directory, or use --quick)"
        )
        return
    with tempfile.TemporaryDirectory(prefix="bench_forecast_", dir=directory) as name:
        make_host(Path(name), frames)
        compare(f"made-up host of {gib} GiB", Host(Path(name)), rounds, "out of the page cache: no goal")
        print(f"  peak memory of a forecast: {peak_memory(Path(name)):.0f} MB (goal {GOAL_MEMORY_MB})")


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
    try:
        command(compare("this machine", Host(), given.rounds, f"goal {GOAL_RATIO}"))
    except Problem as problem:
        print(f"this machine: left out, {problem}")
    made_up_host(16 if given.quick else 1024, given.directory, given.rounds)


if __name__ == "__main__":
    main()
