"""``hwpoison explore``: try every interleaving of paths that run at the same time."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from hwpoison.abi.exploration import Exploration
from hwpoison.abi.problems import FINDING, NOT_POSSIBLE
from hwpoison.explore.report import Investigation, Tell
from hwpoison.explore.schedule import read
from hwpoison.explore.search import DEFAULT_BUDGET, STRATEGIES, Result
from hwpoison.failure.profiles import NEWEST, profile_named
from hwpoison.report.exploration import print_exploration
from hwpoison.report.story import print_catalogue
from hwpoison.scenario.load import find, races, triples


def explore(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A race of the catalogue, or a TOML file.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="Which kernel's handler.")] = NEWEST.name,
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(STRATEGIES)}.")] = "auto",
    budget: Annotated[int, typer.Option(min=1, help="The most executions.")] = DEFAULT_BUDGET,
    seed: Annotated[int, typer.Option(help="Of the random strategies.")] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Go on after a failure, to the other sorts of it.")
    ] = False,
    schedule: Annotated[
        str | None, typer.Option(help="Run just this: 'PATH > OPERATION; PATH > end; ...'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for programs.")] = False,
) -> None:
    """Try every interleaving of paths that run at the same time.

    A failure is told as its shortest run, in columns, with the command that repeats it. Without a name:
    list the races of the catalogue. Exit code 0 if every interleaving was tried without a failure, 1 for a
    failure, 2 for wrong use, 3 if the budget was spent first or a strategy was chosen that cannot exhaust:
    that is no pass.

    \b
    hwpoison explore
    hwpoison explore ext4-dirty+fsync
    hwpoison explore my-race.toml --kernel 6.1 --budget 1000000
    hwpoison explore my-race.toml --schedule 'mce > take folio_lock(0x3); fault > end'
    """
    profile = profile_named(kernel)
    if name is None:
        print_catalogue([(s.name, s.title, s.origin) for s in (races() | triples()).values()])
        return
    told = []
    misfits = []
    for scenario in find(name):
        work = Investigation(scenario, profile, name)
        if schedule is not None:
            one, misfit = work.replay(read(schedule))
            told.append(one)
            misfits += [misfit] if misfit else []
        else:
            told.append(work.explore(strategy, budget, seed, keep_going=everything, tell=_progress(as_json)))
    _print(told, misfits, as_json)
    if any(one.failures for one in told):
        raise typer.Exit(FINDING)
    if misfits or any(one.status not in ("exhausted", "one schedule") for one in told):
        raise typer.Exit(NOT_POSSIBLE)


def _print(told: list[Exploration], misfits: list[str], as_json: bool) -> None:
    if as_json:
        found = [{**one.as_dict(), "misfits": misfits} for one in told]
        json.dump(found if len(found) > 1 else found[0], sys.stdout, indent=2)
        print()
        return
    for one in told:
        print_exploration(one)
    for misfit in misfits:
        print(f"the schedule does not fit: {misfit}")


def _progress(as_json: bool) -> Tell | None:
    """One line on a terminal that is kept up to date; nothing elsewhere."""
    if as_json or not sys.stderr.isatty():
        return None
    start = time.monotonic()

    def tell(result: Result) -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        size = f", about {result.estimate:,} in all" if result.estimate else ""
        speed = f"{result.executions:,} executions, {result.executions / seconds:,.0f}/s"
        print(f"\r\x1b[K{speed}, {result.share:.0%} done{size}", end="", file=sys.stderr, flush=True)

    return tell
