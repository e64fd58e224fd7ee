"""Each consequence is a test of the verdict, and the worst that holds is the one."""

from __future__ import annotations

import pytest

from hwpoison.abi.forecast import Consequence
from hwpoison.abi.records import Verdict, Victim
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import SiCode, Signal
from hwpoison.forecast.consequence import DEFINITIONS, consequence


def victims(*pids: int) -> tuple[Victim, ...]:
    return tuple(Victim(pid, "x", None, Signal.SIGBUS, SiCode.BUS_MCEERR_AR, "on access") for pid in pids)


def verdict(result: MfResult | None = MfResult.RECOVERED, **rest: object) -> Verdict:
    return Verdict(1, PageType.DIRTY_LRU, result, 0, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Consequence.UNKNOWN),
        (verdict(), Consequence.NOTHING),
        (verdict(None), Consequence.NOTHING),  # known before: nothing new happens
        (verdict(victims=victims(5)), Consequence.ONE_PROCESS),
        (verdict(victims=victims(5, 5)), Consequence.ONE_PROCESS),  # at two addresses
        (verdict(victims=victims(5, 6)), Consequence.SEVERAL_PROCESSES),
        (verdict(victims=victims(5), loss="x"), Consequence.ONE_PROCESS),
        (verdict(victims=victims(5), loss="x", durable=True), Consequence.DATA_LOST),
        (verdict(loss="x"), Consequence.DATA_LOST),  # nobody was even hit
        (verdict(MfResult.FAILED, victims=victims(5)), Consequence.ONE_PROCESS),
        (verdict(MfResult.IGNORED), Consequence.MACHINE),
        (verdict(MfResult.IGNORED, victims=victims(5, 6)), Consequence.MACHINE),
        (verdict(stops="the kernel read it", durable=True, loss="x"), Consequence.MACHINE),
    ],
)
def test_the_worst_that_holds_is_the_consequence(given: Verdict | None, expected: Consequence) -> None:
    assert consequence(given) is expected


def test_each_consequence_is_defined_once() -> None:
    defined = [name for name, _test in DEFINITIONS]
    assert sorted(c.name for c in [*defined, Consequence.UNKNOWN]) == sorted(c.name for c in Consequence)
