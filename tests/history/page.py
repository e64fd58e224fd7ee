"""docs/history.md: every bug of the past, whether it is found, by what, and after how many executions.

    python -m tests.history.page      write it

What takes long to find out is in ``found.json``, which ``bench/bench_history.py --write`` measures.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from hwpoison.docs import table

from .rows import NOT_UNDONE, ROWS, number

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "history.md"
MEASURED = Path(__file__).parent / "found.json"
STRATEGIES = ("dpor", "random", "pos", "pct")
BUDGET = 3_000
"""Executions after which a strategy is said not to find a bug."""
HEAD = f"""<!-- Printed by `make docs` from tests/history; edit its rows, not this file. -->
# Bugs of the past

The numbered bugs of the handler's history, each put back into the model: a small replacement, made by a test,
undoes the fix. With the replacement a scenario fails, or some order of a race; without it the scenario
passes, and no order of the race fails. `python -m tests.undone B7` shows one of them, with its shortest
failing run; `--ours` shows that the fix helps, `--strategy` and `--budget` look for it in other ways.

* *fix*: the commit or release that mended it, as far as it is known; `~`: by memory, not looked up again.
* *shown by*: a plain scenario; any order of some paths; or a race, and the preemptions of its shortest
  failing run.
* *checker*: one of the six promises ([scope.md](scope.md)), an assertion of the model or of the kernel, the
  lock order, an execution without an end; a *remark* is a statement of the row's own about what must not be,
  and *expected* means that a caller saw something else than the scenario says.
* The last columns: executions until it was found, by strategy (seed 0); "-": not in {BUDGET:,}.
  `python bench/bench_history.py` measures them, and prints seconds too.
"""


@dataclass(frozen=True)
class Measured:
    """How a bug is found. ``executions`` by strategy, None: not within BUDGET; empty for a plain scenario."""

    checker: str
    preemptions: int | None
    executions: dict[str, int | None]


def checker_of(failure: str) -> str:
    """The checker that a line about a failure comes from (tests/undone.py)."""
    if " not seen on " in failure or " not expected on " in failure:
        return "expected"
    inside = re.match(r"promise 6: (LockOrderError|KernelBug)", failure)
    if inside:
        return {"LockOrderError": "lock order", "KernelBug": "assertion"}[inside[1]]
    return failure.split(":", maxsplit=1)[0]


def measured() -> dict[str, Measured]:
    return {name: Measured(**found) for name, found in json.loads(MEASURED.read_text("utf-8")).items()}


def write_measured(found: dict[str, Measured]) -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(asdict(entry))}" for name, entry in found.items()]
    MEASURED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def preemptions(found: dict[str, Measured]) -> list[int]:
    """Of all that take a race, the fewest first."""
    return sorted(entry.preemptions for entry in found.values() if entry.preemptions)


def render(found: dict[str, Measured]) -> str:
    needed = preemptions(found)
    parts = [
        HEAD,
        f"\n{len(ROWS)} bugs are found, {len(needed)} of them by races, whose shortest failing runs ",
    ]
    parts.append(f"have a median of {median(needed):g} and at most\n{needed[-1]} preemptions; ")
    parts.append(f"{len(NOT_UNDONE)} could not be put back.\n\n## Found\n\n")
    header = ("bug", "what happened", "fix", "shown by", "checker", *STRATEGIES)
    parts.append(table(header, [_row(n, found[bug.name]) for n, bug in enumerate(ROWS)]))
    parts.append("\n## Where the model stands for something else\n\n")
    parts += [f"* {bug.name}: {bug.note}.\n" for bug in ROWS if bug.note]
    parts.append("\n## Not put back\n\n")
    rows = [(name, *NOT_UNDONE[name]) for name in sorted(NOT_UNDONE, key=number)]
    parts.append(table(("bug", "what happened", "fix", "why not"), rows))
    return "".join(parts)


def _row(n: int, found: Measured) -> tuple[str, ...]:
    bug = ROWS[n]
    if found.preemptions is None:
        shown, counts = "plain", [""] * len(STRATEGIES)
    else:
        shown = f"race, {found.preemptions}" if found.preemptions else "any order"
        counts = [f"{found.executions[name] or '-'}" for name in STRATEGIES]
    return (bug.name, bug.title, bug.fix, shown, found.checker, *counts)


if __name__ == "__main__":
    PAGE.write_text(render(measured()), encoding="utf-8")
