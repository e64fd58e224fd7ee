"""Many scenarios on one kernel, in as few boots as it takes.

The agent inside the guest works through a list of scenarios and writes a line for each; the host reads them
as they come, and boots again with what is left: when a guest panics, or says nothing for too long, or when
a scenario asks for a boot of its own. A panic is an observation. One that the model does not expect, and a
hang, may be the doing of an earlier scenario: it is tried once more in a guest of its own, and that answer
counts.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from hwpoison.abi.problems import NotPossible
from hwpoison.scenario.load import Scenario

from . import boot, initramfs, tools, wire
from .answers import Answer, Following
from .kernels import Kernel

AGENT = (sys.executable, "-S", "-s", "-m", "hwpoison.lab.agent")
SILENCE_SECONDS = 75.0  # of silence between two lines; a kernel reports a hung task after 60
BOOT_SECONDS = 300.0  # of the agent in all, and for each scenario ...
SCENARIO_SECONDS = 15.0  # ... so much more
LAST_WORDS = 5  # lines of the console that are passed on when a guest does not get going


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a kernel is: scenarios done and in all, which boot this is, and what is going on."""

    kernel: str
    done: int
    total: int
    boots: int
    doing: str


class Stopped(Exception):
    """Somebody asked for the end of all guests."""


@dataclass(slots=True)
class Batch:
    """The run of some scenarios on one kernel. ``expected`` are those that should panic: they come last.

    ``told`` is called on every change; ``stop``, set by another thread, ends it with Stopped.
    """

    kernel: Kernel
    kvm: bool
    expected: Collection[str]
    told: Callable[[Progress], None]
    stop: threading.Event
    agent: Sequence[str] = AGENT
    silence_seconds: float = SILENCE_SECONDS

    def run(self, scenarios: Sequence[Scenario]) -> dict[str, Answer]:
        """The kernel's answers by scenario. NotPossible if a guest does not get as far as the first."""
        ordered = sorted(scenarios, key=lambda scenario: scenario.name in self.expected)
        kinds = (needs(scenario) for scenario in ordered)
        waiting = deque([s for s in ordered if needs(s) is memory] for memory in dict.fromkeys(kinds))
        answers: dict[str, Answer] = {}
        suspects: dict[str, str] = {}  # what is tried again alone, and what had happened
        boots = 0
        while waiting:
            batch = waiting.popleft()
            boots += 1
            results, ended = self._boot(batch, boots, len(answers), len(scenarios))
            boots += len(ended.before)
            if not (results.answers or results.again or results.begun):
                answers |= self._without(batch, ended, keep=bool(answers))
            answers |= results.answers
            if (begun := results.begun) is not None:
                if len(batch) == 1 or begun in self.expected:
                    answers[begun] = results.broken_off(begun, ended)
                else:
                    suspects[begun] = ended.why()
                    waiting.append([scenario for scenario in batch if scenario.name == begun])
            elif not results.answers:
                answers |= {
                    name: Answer(failed=f"first in a boot, and yet: {why}")
                    for name, why in results.again.items()
                }
            left = [s for s in batch if s.name not in answers and s.name not in suspects]
            if left:
                waiting.appendleft(left)
        for name, text in suspects.items():
            answers[name] = _noted(answers[name], f"in the same guest after others: {text}")
        return answers

    def _boot(
        self, batch: Sequence[Scenario], number: int, done: int, total: int
    ) -> tuple[Following, boot.Boot]:
        """One guest, until it has answered all of ``batch``, or has ended."""
        with tools.scratch("hwpoison-lab-") as shared:
            (shared / "scenarios.json").write_text(wire.to_json(batch), encoding="utf-8")
            results = Following(shared / "results.jsonl", self.kernel)

            heard = 0.0

            def watch(clock: float) -> str | None:
                nonlocal heard
                if results.look():
                    heard = clock
                    self._tell(done + len(results.answers), total, number, results.begun or "finishing")
                return self._reason_to_end(clock - heard)

            self._tell(done, total, number, "booting")
            ended = boot.run(
                self.kernel,
                [*in_guest(self.agent), str(shared / "scenarios.json"), str(results.path)],
                shared,
                kvm=self.kvm,
                seconds=BOOT_SECONDS + SCENARIO_SECONDS * len(batch),
                watch=watch,
                mark=results.path,
                memory=needs(batch[0]),
            )
            results.look()
        for name in list(results.answers)[:1] if ended.before else ():
            reasons = "; ".join(each.why() for each in ended.before)
            results.answers[name] = _noted(
                results.answers[name], f"booted again, as a guest did not get going: {reasons}"
            )
        return results, ended

    def _without(self, batch: Sequence[Scenario], ended: boot.Boot, *, keep: bool) -> dict[str, Answer]:
        """The answers of a kernel that does not get to the first of ``batch`` any more, or never did."""
        last = " | ".join(ended.last_lines[-LAST_WORDS:])
        tries = f" ({len(ended.before) + 1} boots)" if ended.before else ""
        text = f"kernel {self.kernel.name} runs no scenario: {ended.why()}{tries}; its last words: {last}"
        if not keep:
            raise NotPossible(text)
        return {scenario.name: Answer(failed=text) for scenario in batch}

    def _reason_to_end(self, silent: float) -> str | None:
        if self.stop.is_set():
            raise Stopped(f"the run on kernel {self.kernel.name} was stopped")
        limit = self.silence_seconds
        return f"it was silent for {limit:.0f} s" if silent > limit else None

    def _tell(self, done: int, total: int, boots: int, doing: str) -> None:
        self.told(Progress(self.kernel.name, done, total, boots, doing))


def needs(scenario: Scenario) -> boot.Memory:
    """What guest a scenario can run in."""
    words = {word for step in scenario.steps for word in (step.subject, step.get("hugetlb"), step.get("fs"))}
    gigantic = not words.isdisjoint({"1G", "hugetlbfs-1G"})
    return boot.GIGANTIC if gigantic else boot.USUAL


def _noted(answer: Answer, note: str) -> Answer:
    return replace(answer, note="; ".join(part for part in (answer.note, note) if part))


def in_guest(command: Sequence[str]) -> list[str]:
    """The command with what Python needs inside to find the agent, and nothing of the user's."""
    path = f"PATH={tools.search_path()}"
    return ["/usr/bin/env", path, f"PYTHONPATH=/{initramfs.PYTHON}", "PYTHONDONTWRITEBYTECODE=1", *command]
