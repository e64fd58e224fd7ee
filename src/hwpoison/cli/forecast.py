"""``hwpoison forecast``: what a memory error on a page of this host would do."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwpoison.abi.forecast import HostForecast, PagesForecast, ProcessForecast
from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.forecast.pages import forecast_pages
from hwpoison.forecast.process import forecast_process
from hwpoison.forecast.rollup import forecast_host
from hwpoison.forecast.setting import judge_of
from hwpoison.forecast.simulated import simulated_host
from hwpoison.host.frames import FLAGS_FILE
from hwpoison.host.probe import HostFacts, probe
from hwpoison.host.proc import Host
from hwpoison.report.as_json import as_json

from .waiting import Waiting


def forecast(
    pfn: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Only this page, by its frame number (0x: hexadecimal); repeatable."),
    ] = None,
    pid: Annotated[str | None, typer.Option(metavar="N", help="Only the pages of this process.")] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Judge by the handler of 7.3, 7.2, 6.12 or 6.1.")
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON for programs; - is stdout.")
    ] = None,
) -> None:
    """Forecast what a memory error would do to this host.

    Pages that look alike are of one kind; for each kind, the handler is run on a machine with such a page.
    Needs root. Without, a made-up host shows what it would look like.

    \b
    hwpoison forecast
    hwpoison forecast --kernel 6.12 --json forecast.json
    hwpoison forecast --pid 1234
    hwpoison forecast --pfn 0x1a2b3 --pfn 107188 --json -
    """
    if pfn and pid is not None:
        raise WrongUse("--pfn and --pid exclude each other: ask for pages, or for a process")
    pfns = [frame_number(text) for text in pfn or ()]
    process = None if pid is None else number(pid, "a process number: expected digits")
    found = _forecast(pfns, process, kernel, simulate=json_to is None)
    if json_to is None:
        from hwpoison.report.forecast import print_forecast

        print_forecast(found)
    else:
        _write(json_to, json.dumps(as_json(found), indent=2) + "\n")


def frame_number(text: str) -> int:
    """A page frame number as people write it. Raises WrongUse."""
    expected = "digits, or 0x and hexadecimal digits (the physical address divided by 4096)"
    return number(text, f"a page frame number: expected {expected}")


def number(text: str, what: str) -> int:
    """A number in decimal, or in hexadecimal with 0x. Raises WrongUse."""
    if not re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", text):
        raise WrongUse(f"{text!r} is not {what}")
    return int(text, 16 if "x" in text.lower() else 10)


def _forecast(
    pfns: list[int], pid: int | None, kernel: str | None, *, simulate: bool
) -> HostForecast | PagesForecast | ProcessForecast:
    """Of pages, of a process, or of the whole host; of a made-up one if that is all that can be had."""
    host = Host()
    facts = probe(host)
    oracle, setting = judge_of(facts, kernel)
    with Waiting("reading page frames") as waiting:
        if pfns:
            return forecast_pages(host, oracle, setting, pfns, waiting)
        if pid is not None:
            return forecast_process(host, oracle, setting, pid)
        why = facts.can_read[f"/{FLAGS_FILE}"]
        if why is None or not simulate:
            return forecast_host(host, oracle, setting, waiting)
    return _simulated(facts, why, kernel)


def _simulated(facts: HostFacts, why: str, kernel: str | None) -> HostForecast:
    handler = "has the handler" if facts.handler else "has no memory error handler"
    missing = (
        f"/{FLAGS_FILE} cannot be read ({why}). Of this host only so much can be seen: "
        f"Linux {facts.release}, which {handler} ({facts.handler_evidence})."
    )
    with simulated_host() as host:
        oracle, setting = judge_of(probe(host), kernel, simulated=missing)
        return forecast_host(host, oracle, setting)


def _write(target: str, text: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotPossible(f"{target} cannot be written: {error.strerror}") from None
