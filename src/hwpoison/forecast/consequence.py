"""What a verdict means for the people on the host: each consequence defined once, as a test of verdicts."""

from __future__ import annotations

from collections.abc import Callable

from hwpoison.abi.forecast import Consequence
from hwpoison.abi.records import Verdict
from hwpoison.abi.results import MfResult


def _hit(verdict: Verdict) -> int:
    return len({victim.pid for victim in verdict.victims})


DEFINITIONS: tuple[tuple[Consequence, Callable[[Verdict], bool]], ...] = (
    (Consequence.MACHINE, lambda verdict: verdict.stops is not None or verdict.result is MfResult.IGNORED),
    (
        Consequence.DATA_LOST,
        lambda verdict: verdict.durable or (verdict.loss is not None and not verdict.victims),
    ),
    (Consequence.SEVERAL_PROCESSES, lambda verdict: _hit(verdict) > 1),
    (Consequence.ONE_PROCESS, lambda verdict: _hit(verdict) == 1),
    (Consequence.NOTHING, lambda verdict: True),
)
"""The worst first; the first that holds is the one."""


def consequence(verdict: Verdict | None) -> Consequence:
    """None: it cannot be told."""
    if verdict is None:
        return Consequence.UNKNOWN
    return next(name for name, holds in DEFINITIONS if holds(verdict))
