"""What a kernel answers to a scenario, and following the results of one boot while they are written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwpoison.abi.records import Observation, Outcome

from . import wire
from .boot import Boot
from .kernels import Kernel


@dataclass(frozen=True, slots=True)
class Answer:
    """One of ``outcome``, ``cannot`` (be set up on a real kernel, and why) and ``failed`` (the lab did).

    ``last_lines`` are the guest's, if it did not live to answer; ``note`` says what else is to be known.
    """

    outcome: Outcome | None = None
    cannot: str = ""
    failed: str = ""
    last_lines: tuple[str, ...] = ()
    note: str = ""


@dataclass(slots=True)
class Following:
    """The results file of one boot. ``again`` are scenarios that ask for a boot of their own, and why."""

    path: Path
    kernel: Kernel
    answers: dict[str, Answer] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)
    size: int = 0
    _results: wire.Results = field(default_factory=lambda: wire.Results({}))

    @property
    def begun(self) -> str | None:
        """The scenario that has been begun and not answered."""
        return self._results.stopped_in

    def look(self) -> bool:
        """Read the file if it has grown; whether it had."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return False
        if len(text) == self.size:
            return False
        self.size = len(text)
        whole = text[: text.rfind("\n") + 1]  # the rest of a line is still to come
        self._results = wire.read_results(whole)
        for name, item in self._results.answers.items():
            if "again" in item:
                self.again[name] = str(item["again"])
            elif name not in self.answers:
                self.answers[name] = self._answer(item)
        return True

    def _answer(self, item: dict[str, Any]) -> Answer:
        if "cannot" in item:
            return Answer(cannot=str(item["cannot"]))
        if "failed" in item:
            return Answer(failed=str(item["failed"]))
        outcome = replace(wire.outcome_from(item), kernel=self.kernel.name, witness=self.kernel.release)
        return Answer(outcome, note=f"ended early: {item['stopped']}" if item.get("stopped") else "")

    def broken_off(self, name: str, ended: Boot) -> Answer:
        """The answer to the scenario during which the guest ended: a panic is what the kernel did."""
        if ended.ending != "panic":
            return Answer(failed=f"no answer: {ended.why()}", last_lines=ended.last_lines)
        panic = Observation(self._results.step, "panic", "", {"text": ended.reason})
        outcome = Outcome(name, self.kernel.name, self.kernel.release, (*self._results.seen, panic))
        return Answer(outcome, last_lines=ended.last_lines)
