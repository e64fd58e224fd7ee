"""Forecasts for programs: one JSON object, described by hwpoison/forecast/schema.json."""

from __future__ import annotations

from collections import Counter

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import (
    Answer,
    Consequence,
    HostForecast,
    KindLine,
    PageLine,
    PagesForecast,
    ProcessForecast,
    Setting,
)
from hwpoison.abi.signals import PAGE_SIZE

Json = dict[str, object]


def as_json(forecast: HostForecast | PagesForecast | ProcessForecast) -> Json:
    """The object for one forecast; ``kinds`` and ``totals`` only if it is not of single pages."""
    answer: Json = {"host": _host(forecast.setting)}
    if isinstance(forecast, PagesForecast):
        return answer | {"pages": [_page(page) for page in forecast.pages]}
    if isinstance(forecast, ProcessForecast):
        entries = sum(line.pages for line in forecast.kinds)
        answer["process"] = _process(forecast)
    else:
        entries = forecast.entries
        answer["notes"] = list(forecast.notes)
    return answer | {
        "pages": [],
        "kinds": [_kind(line) for line in forecast.kinds],
        "totals": _totals(forecast.kinds, entries),
    }


def _process(forecast: ProcessForecast) -> Json:
    return {
        "pid": forecast.pid,
        "comm": forecast.comm,
        "suffers": [{"what": what, "pages": pages} for what, pages in forecast.suffers],
        "swapped": forecast.swapped,
        "not_present": forecast.not_present,
    }


def _host(setting: Setting) -> Json:
    return {"release": setting.release, "handler": setting.handler, "profile": setting.profile}


def _page(page: PageLine) -> Json:
    verdict = page.answer.verdict
    return {
        "pfn": page.pfn,
        "flags": pg.names(page.flags),
        **_answer(page.answer),
        "victims": [victim.as_dict() for victim in verdict.victims] if verdict else [],
    }


def _kind(line: KindLine) -> Json:
    verdict = line.answer.verdict
    signals = Counter((v.signal.name, v.code.name, v.when) for v in verdict.victims) if verdict else Counter()
    return {
        "flags": pg.names(line.flags),
        "mappers": line.mappers,
        "pages": line.pages,
        "bytes": line.pages * PAGE_SIZE,
        **_answer(line.answer),
        "signals": [
            {"signal": signal, "code": code, "when": when, "processes": count}
            for (signal, code, when), count in signals.items()
        ],
    }


def _answer(answer: Answer) -> Json:
    """What pages and kinds have in common; nothing is claimed where it cannot be told."""
    verdict = answer.verdict
    told = verdict is not None and verdict.page_type is not None and verdict.result is not None
    return {
        "page_type": verdict.page_type.log if told and verdict and verdict.page_type else None,
        "result": verdict.result.text if told and verdict and verdict.result is not None else None,
        "conditions": list(answer.conditions),
        "consequence": answer.consequence.label,
        "loss": _loss(answer),
    }


def _loss(answer: Answer) -> str | None:
    verdict = answer.verdict
    if verdict is None or verdict.loss is None:
        return None
    return f"{verdict.loss}; " + ("told by: " + "; ".join(verdict.told) if verdict.told else "nobody is told")


def _totals(kinds: tuple[KindLine, ...], entries: int) -> Json:
    """Every page once: the sums of ``consequences`` are ``pages``."""
    pages: Counter[Consequence] = Counter()
    for line in kinds:
        pages[line.answer.consequence] += line.pages
    return {
        "pages": entries,
        "bytes": entries * PAGE_SIZE,
        "consequences": {
            consequence.label: {"pages": pages[consequence], "bytes": pages[consequence] * PAGE_SIZE}
            for consequence in Consequence
        },
    }
