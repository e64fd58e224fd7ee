"""The same small model for Spin, for frontrun and for our explorer: verdicts, states, times side by side.

    python bench/bench_spin.py                 the slice of the handler, as it is and with each planted bug
    python bench/bench_spin.py --rounds 4      each path makes so many rounds (1 and 2 without it)

Spin (apt-get install spin) needs a C compiler. frontrun (pip install frontrun greenlet, best in an
environment of its own) explores Python threads: frontrun python bench/bench_spin.py. What is missing is
passed over with one line.

The model is hwpoison/explore/toy_handler.py, which is data. From it come the paths that our engine runs, a
plain stepper in Python, a Promela text with one process that may take any enabled step, and Python threads.
Spin and the stepper must agree on the number of states and of deadlocks before any time is worth a look.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from hwpoison.explore.explorer import Explorer
from hwpoison.explore.search import Search, Status
from hwpoison.explore.toy_handler import (
    BUGS,
    JUMPS,
    START,
    WORDS,
    Code,
    ToyHandler,
    count_paths,
    final_words,
    programs,
    skipped,
)

frontrun: Any = import_module("frontrun") if find_spec("frontrun") else None
LOCKS = ("P", "T")
FRONTRUN_EXECUTIONS = 3_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one tool says. ``states`` and ``stuck`` are None where the tool does not count them."""

    tool: str
    broken: bool  # some end of all paths is wrong
    deadlock: bool
    states: int | None
    stuck: int | None
    work: str
    seconds: float


# The model as Promela.


def landing(code: Code, at: int, register: int) -> int:
    """Where a path stands when the jumps from ``at`` on are made."""
    while at < len(code) and code[at][0] in JUMPS:
        op, count = code[at]
        at += 1 + skipped(op, register, count)
    return at


def step_text(path: int, code: Code, at: int) -> str:
    """One instruction as an option of the process."""
    op, name, *rest = code[at]
    guard, effect = f"pc{path} == {at}", ""
    if op == "lock":
        guard += f" && own{name} == 0"
        effect = f"own{name} = {path + 1}"
    elif op == "unlock":
        effect = f"own{name} = 0"
    elif op == "load":
        effect = f"r{path} = {name}"
    elif op == "set":
        effect = f"{name} = {rest[0]}"
    else:
        effect = f"{name} = {'r' + str(path) if op == 'store' else name} + ({rest[0]})"
    zero, other = landing(code, at + 1, 0), landing(code, at + 1, 1)
    goes_to = str(zero) if zero == other else f"(r{path} != 0 -> {other} : {zero})"
    return f"  :: d_step {{ {guard} -> {effect}; pc{path} = {goes_to} }}"


def promela(bug: str, rounds: int) -> str:
    codes = list(programs(bug, rounds).values())
    lines = [f"short {word} = {START[word]};" for word in WORDS]
    lines += [f"byte own{lock};" for lock in LOCKS]
    for path, code in enumerate(codes):
        lines.append(f"byte pc{path} = {landing(code, 0, 0)}; short r{path};")
    done = " && ".join(f"pc{path} == {len(code)}" for path, code in enumerate(codes))
    lines += ["active proctype paths() {", "  do"]
    for path, code in enumerate(codes):
        lines += [step_text(path, code, at) for at in range(len(code)) if code[at][0] not in JUMPS]
    right = f"mapcount == pte && ref == {START['ref'] + rounds}"
    lines += [f"  :: d_step {{ {done} -> assert({right}) }}", "  od", "}"]
    return "\n".join(lines) + "\n"


def spin(bug: str, rounds: int) -> Verdict:
    """Spin without reductions: what it can see is every state. Times of the search, and of getting there."""
    with tempfile.TemporaryDirectory() as folder:

        def call(*words: str) -> str:
            return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout

        Path(folder, "model.pml").write_text(promela(bug, rounds), encoding="utf-8")
        start = time.perf_counter()
        call("spin", "-a", "-o1", "model.pml")
        call("cc", "-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c")
        made = time.perf_counter() - start
        start = time.perf_counter()
        ends = call("./pan", "-m1000000", "-c0", "-A")  # deadlocks: assertions are ignored
        seconds = time.perf_counter() - start
        wrong = call("./pan", "-m1000000", "-c0", "-E")  # assertions: deadlocks are ignored
    found = re.search(r"(\d+) states, stored", ends)
    stuck, errors = (int(re.search(r"errors: (\d+)", text)[1]) for text in (ends, wrong))  # type: ignore[index]
    if found is None:
        raise SystemExit(f"Spin says something unexpected:\n{ends}")
    work = f"made in {made:.1f} s, then all states"
    return Verdict("Spin", errors > 0, stuck > 0, int(found[1]), stuck, work, seconds)


# The others.


def stepper(bug: str, rounds: int) -> Verdict:
    start = time.perf_counter()
    interleavings, states, stuck = count_paths(bug, rounds)
    seconds = time.perf_counter() - start
    broken = any(
        end["mapcount"] != end["pte"] or end["ref"] != START["ref"] + rounds
        for end in (dict(zip(WORDS, words, strict=True)) for words in final_words(bug, rounds))
    )
    work = f"{interleavings:.3g} interleavings"
    return Verdict("stepper", broken, stuck > 0, states, stuck, work, seconds)


def ours(bug: str, rounds: int, budget: int) -> Verdict:
    """Every order of what conflicts, by running the code."""
    explorer = Explorer(ToyHandler(bug, rounds))
    start = time.perf_counter()
    with explorer.open():
        result = Search(explorer, budget, keep_going=True).run("dpor")
    seconds = time.perf_counter() - start
    kinds = {found.failure.kind for found in result.failures}
    ended = result.status in (Status.EXHAUSTED, Status.FAILED) and result.share == 1.0
    work = f"{result.executions:,} executions" + ("" if ended else ", the budget is spent")
    return Verdict("explorer", "assertion" in kinds, "deadlock" in kinds, None, None, work, seconds)


class Threads:
    """The same programs as plain Python on threads and locks, for frontrun."""

    def __init__(self, bug: str, rounds: int) -> None:
        for word in WORDS:
            setattr(self, word, START[word])
        self.P, self.T = threading.Lock(), threading.Lock()
        self.atomic = threading.Lock()  # one operation on a counter: Python has none
        self.expected = START["ref"] + rounds

    def right(self) -> bool:
        values: Any = vars(self)
        return bool(values["mapcount"] == values["pte"] and values["ref"] == self.expected)


def python_lines(code: Code) -> list[str]:
    """The instructions as statements; a jump forward is an ``if`` around what it passes over."""
    lines, at = ["r = 0"], 0
    while at < len(code):
        op, name, *rest = code[at]
        at += 1
        if op in ("if", "unless"):
            lines.append("if not r:" if op == "if" else "if r:")
            lines += [f"    {line}" for line in python_lines(code[at : at + name])[1:]]
            at += name
        elif op in ("lock", "unlock"):
            lines.append(f"state.{name}.{'acquire' if op == 'lock' else 'release'}()")
        elif op == "load":
            lines.append(f"r = state.{name}")
        elif op == "set":
            lines.append(f"state.{name} = {rest[0]}")
        elif op == "store":
            lines.append(f"state.{name} = r + ({rest[0]})")
        else:
            lines += ["with state.atomic:", f"    state.{name} = state.{name} + ({rest[0]})"]
    return lines


def worker(name: str, code: Code) -> Callable[[Threads], None]:
    body = "\n    ".join(python_lines(code))
    space: dict[str, Any] = {}
    exec(compile(f"def {name}(state):\n    {body}\n", __file__, "exec"), space)
    made: Callable[[Threads], None] = space[name]
    return made


def frontrun_says(bug: str, rounds: int, bound: int | None) -> Verdict | str:
    """Its own search, with a bound on preemptions or without; a failure does not stop it."""
    if any(step[0] == "always" for code in programs(bug, rounds).values() for step in code):
        return "frontrun: passed over, the jumps of this one are no plain ifs"
    workers = [worker(name, code) for name, code in programs(bug, rounds).items()]
    start = time.perf_counter()
    try:
        result = frontrun.explore(
            setup=lambda: Threads(bug, rounds),
            workers=workers,
            invariant=Threads.right,
            preemption_bound=bound,
            stop_on_first=False,
            reproduce_on_failure=0,
            max_executions=FRONTRUN_EXECUTIONS,
            deadlock_timeout=1.0,
            detect_io=False,
        )
    except RuntimeError as error:
        return f"frontrun, bound {bound}: it gives up with {type(error).__name__}: {str(error)[:80]}"
    seconds = time.perf_counter() - start
    deadlock = "deadlock" in (result.explanation or "").lower()
    spent = "" if result.num_explored < FRONTRUN_EXECUTIONS else ", no more were allowed"
    work = f"{result.num_explored:,} executions{spent}"
    broken = result.property_holds is False and not deadlock
    return Verdict(f"frontrun, bound {bound}", broken, deadlock, None, None, work, seconds)


def with_frontrun() -> str | None:
    """Why it cannot be asked; None: it can."""
    if frontrun is None:
        return "frontrun is not installed: pip install frontrun"
    if "FRONTRUN_ACTIVE" not in os.environ:
        return "frontrun must start the program: frontrun python bench/bench_spin.py"
    return None


def tell(verdict: Verdict | str) -> None:
    if isinstance(verdict, str):
        print(f"  {verdict}")
        return
    says = " and ".join(["wrong ends"] * verdict.broken + ["deadlocks"] * verdict.deadlock) or "right"
    states = "" if verdict.states is None else f", {verdict.states:,} states, {verdict.stuck} of them stuck"
    print(f"  {verdict.tool:18} {says:10} {verdict.seconds:9.4f} s: {verdict.work}{states}")


def compare(bug: str, rounds: int, budget: int, no_spin: str | None, no_frontrun: str | None) -> list[str]:
    """Print what each says of one program; where they differ, and must not."""
    print(f"{bug or 'no bug'}, {rounds} round{'s' * (rounds > 1)}:")
    first = stepper(bug, rounds)
    verdicts = [first, ours(bug, rounds, budget)]
    if no_spin is None:
        verdicts.append(spin(bug, rounds))
    wrong = []
    for verdict in verdicts:
        tell(verdict)
        if (verdict.broken, verdict.deadlock) != (first.broken, first.deadlock):
            wrong.append(f"{bug}, {rounds}: {verdict.tool} and the stepper disagree")
        if verdict.states is not None and (verdict.states, verdict.stuck) != (first.states, first.stuck):
            wrong.append(f"{bug}, {rounds}: {verdict.tool} and the stepper count differently")
    if no_frontrun is None and rounds == 1:
        for bound in (2, None):
            tell(frontrun_says(bug, rounds, bound))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, metavar="N", help="only so many rounds")
    parser.add_argument("--budget", type=int, default=20_000, help="executions of our explorer, at most")
    options = parser.parse_args()
    missing = [name for name in ("spin", "cc") if shutil.which(name) is None]
    no_spin = f"passed over: {' and '.join(missing)} not found" if missing else None
    no_frontrun = with_frontrun()
    for why in (no_spin, no_frontrun):
        if why is not None:
            print(why)
    wrong = []
    for rounds in (options.rounds,) if options.rounds else (1, 2):
        for bug in BUGS:
            wrong += compare(bug, rounds, options.budget, no_spin, no_frontrun)
    print("\n".join(wrong) or "they agree, on verdicts and on numbers of states")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
