"""Does an outcome show what its scenario says? Used for the model and for recorded kernels alike.

From the first error on, the expectations are complete: every verdict, signal, death, return code and
result of a call must be written down. Other kinds are compared where they are written. A scenario that
expects nothing at all, or nothing of a kernel that does not exist, only has to keep the promises.
"""

from __future__ import annotations

from hwpoison.abi.records import Observation, Outcome
from hwpoison.failure.profiles import PROFILES

from .load import Scenario
from .steps import Expectation, Step

COMPLETE = ("verdict", "signal", "died", "return", "call", "panic")
ERRORS = ("inject", "break", "soft-offline", "unpoison", "migrate", "compact")


def differences(scenario: Scenario, outcome: Outcome) -> list[str]:
    """One sentence for each expectation that was not met and each observation that was not expected."""
    first_error = next((n for n, s in enumerate(scenario.steps, 1) if s.verb in ERRORS), len(scenario.steps))
    found: list[str] = []
    expected = [expect for step in scenario.steps for expect in step.expects]
    if outcome.kernel not in PROFILES and not any(outcome.kernel in (e.kernels or ()) for e in expected):
        return _unexpected_breaks(scenario, outcome)  # written for real kernels only
    written = bool(expected)
    for number, step in enumerate(scenario.steps, 1):
        seen = [o for o in outcome.observations if o.step == number]
        strict = written and (number >= first_error or bool(step.expects))
        found += _compare(step, seen, outcome.kernel, scenario.origin, strict=strict)
    for stray in outcome.observations:
        if not 1 <= stray.step <= len(scenario.steps):
            where = f"{scenario.name}: seen at step {stray.step}, which the scenario does not have"
            found.append(f"{where}: {stray.text()}")
    return found + _unexpected_breaks(scenario, outcome)


def _compare(step: Step, seen: list[Observation], kernel: str, origin: str, *, strict: bool) -> list[str]:
    left = list(seen)
    wrong = []
    for expected in step.expects:
        if not expected.applies_to(kernel):
            continue
        match = next((o for o in left if _matches(expected, o)), None)
        if match is None:
            wrong.append(f"{origin}:{expected.line}: not seen on {kernel}: {expected.text()}")
        else:
            left.remove(match)
    if strict:
        for o in left:
            if o.kind in COMPLETE and not _trivial(o):
                wrong.append(f"{origin}:{step.line}: not expected on {kernel}: {o.text()}")
    if wrong:
        wrong.append(f"    seen at {step.text()!r}: " + ("; ".join(o.text() for o in seen) or "nothing"))
    return wrong


def _trivial(seen: Observation) -> bool:
    """A call that just worked and gave nothing to look at."""
    return seen.kind == "call" and seen.value == {"data": "ok"}


def _matches(expected: Expectation, seen: Observation) -> bool:
    if expected.kind != seen.kind or expected.who not in (None, seen.who):
        return False
    return all(str(seen.value.get(key)) == value for key, value in expected.values.items())


def _unexpected_breaks(scenario: Scenario, outcome: Outcome) -> list[str]:
    expected = scenario.expected_breaks(outcome.kernel)
    shown = {broken.deviation for broken in outcome.broken if broken.deviation is not None}
    wrong = [
        f"{scenario.name}: promise {b.promise} broken on {outcome.kernel}: {b.text}"
        for b in outcome.broken
        if b.deviation not in expected
    ]
    wrong += [
        f"{scenario.name}: the deviation {name!r} no longer shows on {outcome.kernel}; strike it from breaks"
        for name in sorted(expected - shown)
        if outcome.witness == "model"
    ]
    return wrong
