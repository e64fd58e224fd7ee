"""Where two witnesses of one scenario differ, observation by observation.

Compared is all that both can see: signals (code, page, size), deaths, results and data of calls, return
codes of injections, verdicts, counters, page table entries, the page cache, the disk, and whether the
machine stopped.

* Not compared: further lines of the log ("log"), the words of a panic, and calls that just worked.
* The order counts among observations of one kind about one thing in one step; between two tasks, or between a
  signal and a verdict, it does not: who of them is first is up to the scheduler.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hwpoison.abi.records import Observation, Outcome

NOT_COMPARED = ("log",)


@dataclass(frozen=True, slots=True)
class Difference:
    """What the model and the kernel saw of one thing in one step; an empty tuple: nothing."""

    step: int
    kind: str
    who: str
    model: tuple[str, ...]
    kernel: tuple[str, ...]

    def text(self) -> str:
        about = f"step {self.step}, {' '.join(word for word in (self.kind, self.who) if word)}"
        return (
            f"{about}: model {' then '.join(self.model) or '-'}, kernel {' then '.join(self.kernel) or '-'}"
        )


def compared(seen: Observation) -> bool:
    """Whether an observation counts."""
    return seen.kind not in NOT_COMPARED and not (seen.kind == "call" and seen.value == {"data": "ok"})


def differences(model: Outcome, kernel: Outcome) -> tuple[Difference, ...]:
    """All differences, in the order of the steps."""
    ours, theirs = _by_thing(model), _by_thing(kernel)
    return tuple(
        Difference(*thing, tuple(ours.get(thing, ())), tuple(theirs.get(thing, ())))
        for thing in sorted(ours.keys() | theirs.keys())
        if ours.get(thing) != theirs.get(thing)
    )


def _by_thing(outcome: Outcome) -> dict[tuple[int, str, str], list[str]]:
    things: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for seen in outcome.observations:
        if compared(seen):
            value = {} if seen.kind == "panic" else seen.value
            words = " ".join(f"{key}={value[key]}" for key in sorted(value)) or "yes"
            things[seen.step, seen.kind, seen.who].append(words)
    return dict(things)
