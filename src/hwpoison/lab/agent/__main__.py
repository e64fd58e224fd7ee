"""python -m hwpoison.lab.agent SCENARIOS.json RESULTS.jsonl: inside a guest, as root, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hwpoison.abi.problems import NotPossible, Problem, WrongUse
from hwpoison.lab.wire import from_json

from .runner import Runner

GUEST_MARK = "hwpoison_lab"  # on the command line of every kernel that boot.py boots


def main(arguments: list[str]) -> int:
    """The exit code; what was seen is in the results."""
    try:
        if len(arguments) != 2:
            raise WrongUse("expected: python -m hwpoison.lab.agent SCENARIOS.json RESULTS.jsonl")
        if GUEST_MARK not in Path("/proc/cmdline").read_text() or os.geteuid():
            raise NotPossible(
                "the agent poisons memory and runs only as root in a guest that hwpoison has booted"
            )
        runner = Runner(Path(arguments[1]))
        errands = from_json(Path(arguments[0]).read_text(encoding="utf-8"))
        runner.set_up()
        runner.run(errands)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
