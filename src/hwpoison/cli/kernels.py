"""``hwpoison kernels``: the real kernels of the lab, and how to get them."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from hwpoison.abi.problems import WrongUse, unknown_name
from hwpoison.lab import tools
from hwpoison.lab.kernels import KNOWN, cache_directory, present
from hwpoison.lab.packages import fetch
from hwpoison.report.live import Live
from hwpoison.report.terminal import Console

from .ending import ended_by_sigterm


def kernels(
    action: Annotated[str | None, typer.Argument(metavar="[fetch]", help="fetch: get kernels.")] = None,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[KERNEL]...", help="Which ones, for example 6.12.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list for programs.")] = False,
) -> None:
    """List the real kernels that scenarios can be verified on, or get them.

    They are the distribution's own packages, unpacked into a cache ($HWPOISON_KERNELS); the machine's package
    state is not touched. Only kernels with a memory error handler are taken.

    \b
    hwpoison kernels
    hwpoison kernels fetch 6.1 6.12 7.2 7.3
    """
    if action is not None:
        if action != "fetch":
            raise unknown_name("action", action, ["fetch"])
        if not names:
            raise WrongUse(f"which kernels? For example: hwpoison kernels fetch {' '.join(KNOWN)}")
        _fetch(names)
    if as_json:
        json.dump(_entries(), sys.stdout, indent=2)
        print()
    else:
        _print()


def _fetch(names: list[str]) -> None:
    with ended_by_sigterm(), Live() as live:
        fetch(names, lambda name, doing, percent: live(name, percent, 100, doing, stage=doing))


def _entries() -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for known in KNOWN.values():
        kernel = present(known.name)
        entries.append(
            {
                "name": known.name,
                "from": known.suite or "the machine's own suites",
                "release": kernel.release if kernel else None,
                "image": str(kernel.image) if kernel else None,
            }
        )
    return entries


def _print() -> None:
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kernel", "from", "release"):
        table.add_column(column)
    for entry in _entries():
        release = str(entry["release"]) if entry["release"] else "[dim]not here[/]"
        table.add_row(f"[cyan]{entry['name']}[/]", str(entry["from"]), release)
    out.print(table)
    out.print(f"Kept in {cache_directory()}", style="dim", soft_wrap=True)
    if lack := tools.missing(tools.FOR_BOOTING):
        out.print(f"To boot them: {lack}", style="yellow", soft_wrap=True)
