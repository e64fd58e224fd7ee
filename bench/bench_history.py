"""How many executions, and how long, until each bug of the past is found, by strategy.

    python bench/bench_history.py              three minutes
    python bench/bench_history.py B7 B22       these only
    python bench/bench_history.py --write      keep the numbers for docs/history.md, and write it

Seconds are of the search alone, of this process; where nothing was found, those of the whole budget.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / part) for part in ("src", "")]

undone: Any = import_module("tests.undone")
page: Any = import_module("tests.history.page")
ROWS: Any = import_module("tests.history.rows").ROWS


def plain(bug: Any) -> Any:
    """The checker that tells of it; SystemExit if nothing does."""
    found = undone.run(bug).wrong
    line = next((line for line in found if re.search(bug.breaks, line)), None)
    if line is None:
        raise SystemExit(f"{bug.name} is not found: {found}; repeat: {bug.command()}")
    print(f"{bug.name:5} plain   {page.checker_of(line)}")
    return page.Measured(page.checker_of(line), None, {})


def race(bug: Any, budget: int) -> Any:
    """Every strategy; the shortest failing run is that of dpor, which finds them all."""
    executions: dict[str, int | None] = {}
    cells = []
    for name in page.STRATEGIES:
        outcome = undone.explore(bug, name, budget, shorten=name == "dpor")
        found = outcome.word == "found"
        executions[name] = outcome.executions if found else None
        cells.append(f"{outcome.executions if found else '-':>6} {outcome.seconds:6.2f} s")
        if name == "dpor":
            if not found or not re.search(bug.breaks, outcome.failure):
                raise SystemExit(f"{bug.name}: {outcome.word} {outcome.failure}; repeat: {outcome.command}")
            checker, preemptions = page.checker_of(outcome.failure), outcome.preemptions
    print(f"{bug.name:5} race, {preemptions} {checker:12} {'  '.join(cells)}")
    return page.Measured(checker, preemptions, executions)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--budget", type=int, default=page.BUDGET, help="executions of each strategy")
    parser.add_argument("--write", action="store_true", help="keep the numbers for docs/history.md")
    given = parser.parse_args(arguments)
    if given.write and (given.names or given.budget != page.BUDGET):
        parser.error("--write is for all bugs, with the budget that the page names")
    print(f"{'':27}{'  '.join(f'{name:>15}' for name in page.STRATEGIES)}")
    rows = [bug for bug in ROWS if not given.names or bug.name in given.names]
    found = {bug.name: race(bug, given.budget) if bug.races else plain(bug) for bug in rows}
    needed = page.preemptions(found)
    if needed:
        told = f"preemptions: {median(needed):g} in the median, {needed[-1]} at most"
        print(f"{len(found)} bugs found, {len(needed)} by races; {told}")
    if given.write:
        page.write_measured(found)
        page.PAGE.write_text(page.render(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
