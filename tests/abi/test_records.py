"""The records that every witness answers with."""

from __future__ import annotations

import json

import pytest

from hwpoison.abi.records import Broken, Observation, Outcome, Verdict, Victim
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import SiCode, SigInfo, Signal

SEEN = Observation(3, "signal", "app", {"code": "BUS_MCEERR_AR", "lsb": 12})


def test_an_observation_reads_on_one_line() -> None:
    assert SEEN.text() == " 3 signal   app      code=BUS_MCEERR_AR lsb=12"
    assert Observation(12, "log", "").text() == "12 log"


def test_observations_are_equal_by_value_whatever_their_witness() -> None:
    assert Observation(3, "signal", "app", {"lsb": 12, "code": "BUS_MCEERR_AR"}) == SEEN
    assert Observation(3, "signal", "app", {"lsb": 21, "code": "BUS_MCEERR_AR"}) != SEEN


def test_a_victim_comes_from_the_signal_it_gets() -> None:
    info = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, 0x7000, 12)
    victim = Victim.of(7, "app", info, "at once")
    assert victim.as_dict() == {
        "pid": 7,
        "comm": "app",
        "address": 0x7000,
        "signal": "SIGBUS",
        "code": "BUS_MCEERR_AO",
        "when": "at once",
    }
    assert victim.lsb == 12


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(9, PageType.DIRTY_LRU, MfResult.RECOVERED, 0), "dirty LRU page: Recovered"),
        (Verdict(9, None, None, -6), "no verdict, returned -6"),
    ],
)
def test_a_verdict_reads_as_type_and_result(verdict: Verdict, text: str) -> None:
    assert verdict.text() == text


def test_an_outcome_can_be_written_as_json_and_says_everything() -> None:
    broken = Broken(2, "lost in silence", "stale-read")
    outcome = Outcome("name", "7.3", "model", (SEEN,), (broken,), ("contents of page 0",))
    assert json.loads(json.dumps(outcome.as_dict())) == {
        "scenario": "name",
        "kernel": "7.3",
        "witness": "model",
        "observations": [{"step": 3, "kind": "signal", "who": "app", "code": "BUS_MCEERR_AR", "lsb": 12}],
        "losses": ["contents of page 0"],
        "broken": [{"promise": 2, "text": "lost in silence", "deviation": "stale-read"}],
    }
