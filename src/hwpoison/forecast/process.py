"""One process: all pages that it maps, and what it would itself suffer from an error in one of them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hwpoison.abi.forecast import Answer, Consequence, ProcessForecast, Setting
from hwpoison.host.frames import frame_words
from hwpoison.host.owners import process_frames
from hwpoison.host.proc import Host

from .kinds import Kind, kind_of
from .oracle import Oracle
from .rollup import lines_of


def forecast_process(host: Host, oracle: Oracle, setting: Setting, pid: int) -> ProcessForecast:
    """What an error would do, for each page the process has. Raises Problem if it cannot be looked at."""
    frames = process_frames(host, pid)
    flags, counts = frame_words(host, np.unique(frames.pfn))
    pages: Counter[Kind] = Counter()
    # One page can be mapped at several addresses; it is one page, and can fail once.
    words, numbers = np.unique(np.stack([flags.view(np.int64), counts]), axis=1, return_counts=True)
    for flag, count, number in zip(*words.tolist(), numbers.tolist(), strict=True):
        pages[kind_of(flag, count)] += number
    lines = lines_of(pages, oracle)
    suffers: Counter[str] = Counter()
    for line in lines:
        suffers[suffering(line.answer)] += line.pages
    return ProcessForecast(
        setting,
        pid,
        frames.comm,
        lines,
        tuple(suffers.most_common()),
        swapped=frames.swapped,
        not_present=frames.not_present,
    )


def suffering(answer: Answer) -> str:
    """What a process that maps such a page meets. All users of a page meet the same in the usual case."""
    verdict = answer.verdict
    if verdict is None:
        return Consequence.UNKNOWN.label
    if answer.consequence is Consequence.MACHINE:
        return Consequence.MACHINE.label
    if verdict.victims:
        first = verdict.victims[0]
        return f"{first.signal.name} {first.code.name} {first.when}"
    if verdict.loss is not None:
        return "nothing itself, but its file loses data"
    return "nothing"
