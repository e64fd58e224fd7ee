"""The contract for programs, checked with its schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files

import jsonschema
import pytest

from hwpoison.abi.forecast import Consequence, HostForecast, PagesForecast, ProcessForecast
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import SiCode, Signal
from hwpoison.report.as_json import Json, as_json

from .conftest import HOST, PAGES, PROCESS

SCHEMA = json.loads((files("hwpoison") / "forecast" / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("forecast", [HOST, PAGES, PROCESS], ids=["host", "pages", "process"])
def test_every_forecast_fits_the_schema(forecast: HostForecast | PagesForecast | ProcessForecast) -> None:
    VALIDATOR.validate(json.loads(json.dumps(as_json(forecast))))


def test_pages_are_as_the_contract_says() -> None:
    assert as_json(PAGES) == {
        "host": {"release": "6.12.3", "handler": True, "profile": "6.12"},
        "pages": [
            {
                "pfn": 9,
                "flags": ["UPTODATE", "DIRTY", "LRU", "MMAP"],
                "page_type": "dirty LRU page",
                "result": "Recovered",
                "conditions": ["Failed instead of Recovered if pinned"],
                "consequence": "data lost",
                "victims": [
                    {
                        "pid": 42,
                        "comm": "da[ta]base",
                        "address": 0x7F00001000,
                        "signal": "SIGBUS",
                        "code": "BUS_MCEERR_AR",
                        "when": "on access",
                    }
                ],
                "loss": "what was new; told by: EIO from fsync(2)",
            },
            {
                "pfn": 10,
                "flags": [],
                "page_type": None,
                "result": None,
                "conditions": ["large folios are not in the model yet"],
                "consequence": "cannot be told",
                "victims": [],
                "loss": None,
            },
        ],
    }


def test_a_whole_host_adds_kinds_and_totals_that_agree() -> None:
    answer = json.loads(json.dumps(as_json(HOST)))
    assert answer["pages"] == []
    assert [kind["pages"] for kind in answer["kinds"]] == [700, 200, 99, 1]
    assert answer["totals"]["pages"] == 1000
    assert sum(row["pages"] for row in answer["totals"]["consequences"].values()) == 1000
    assert set(answer["totals"]["consequences"]) == {consequence.label for consequence in Consequence}
    assert answer["kinds"][2]["signals"] == [
        {"signal": "SIGBUS", "code": "BUS_MCEERR_AR", "when": "on access", "processes": 1}
    ]


def test_the_schema_knows_every_word_that_can_be_said() -> None:
    words = SCHEMA["$defs"]
    assert words["result"]["enum"] == [*(result.text for result in MfResult), None]
    assert words["consequence"]["enum"] == [consequence.label for consequence in Consequence]
    assert words["signal"]["enum"] == [signal.name for signal in Signal]
    assert sorted(words["code"]["enum"]) == sorted(code.name for code in SiCode)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer.pop("host"),
        lambda answer: answer["pages"][0].pop("loss"),
        lambda answer: answer["pages"][0].update(result="Fixed"),
        lambda answer: answer["pages"][0]["victims"][0].update(when="later"),
        lambda answer: answer["pages"][0].update(extra=1),
        lambda answer: answer.update(kinds=[]),  # without totals
    ],
)
def test_the_schema_refuses_what_breaks_the_contract(spoil: Callable[[Json], object]) -> None:
    answer = json.loads(json.dumps(as_json(PAGES)))
    spoil(answer)
    assert not VALIDATOR.is_valid(answer)
