"""``hwpoison explain``: one page state, or one real page, in plain words."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from hwpoison.forecast.explain import explain as explain_state
from hwpoison.forecast.kinds import kind_of
from hwpoison.forecast.pages import forecast_pages
from hwpoison.forecast.setting import judge_of
from hwpoison.host.probe import probe
from hwpoison.host.proc import Host
from hwpoison.report.explanation import print_explanation, print_notes
from hwpoison.report.forecast import new_console, print_forecast

from .forecast import frame_number
from .waiting import Waiting


def explain(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="STATE|PFN", help="A page type of the kernel's log, flags of a page, or a frame number."
        ),
    ],
    kernel: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="Judge by this kernel's handler; else a state by all."),
    ] = None,
) -> None:
    """Explain what becomes of a page that goes bad, and why.

    A state is a page type as the kernel's log names it, or what /proc shows of a page: names of flags, or
    letters of the page-types tool. All kernels that are known are shown side by side. A page of this host
    (needs root) is shown with its users and with those whom an error in it would hit.

    \b
    hwpoison explain dirty LRU page
    hwpoison explain UPTODATE,LRU,MMAP,ANON,SWAPBACKED
    hwpoison explain ___U_l_____Ma_b
    hwpoison explain 0x1a2b3
    """
    text = " ".join(what)
    if re.match(r"[+-]?\d", text):
        _explain_page(frame_number(text), kernel)
    else:
        print_explanation(explain_state(text, kernel))


def _explain_page(pfn: int, kernel: str | None) -> None:
    host = Host()
    oracle, setting = judge_of(probe(host), kernel)
    with Waiting("looking for the users of the page") as waiting:
        found = forecast_pages(host, oracle, setting, [pfn], waiting)
    out = new_console()
    print_forecast(found, out)
    (page,) = found.pages
    print_notes(out, tuple(oracle.notes(kind_of(page.flags, page.count))))
