"""A bug of the past: what a fix of Linux mended, undone in the model."""

from __future__ import annotations

from dataclasses import dataclass

from hwpoison.mm.machine import Machine

from ..undone import Patches, Undone


@dataclass(frozen=True, repr=False, kw_only=True)
class Bug(Undone):
    """``fix``: the commit or the release that mended it; ``~``: by memory, nobody has looked it up.

    ``note``: where the model stands for something else.
    """

    fix: str
    note: str = ""


SMALL = {**(Machine.__init__.__kwdefaults__ or {}), "huge_order": 2, "gigantic_order": 4}
SMALL_HUGE_PAGES: Patches = (("hwpoison.mm.machine:Machine.__init__.__kwdefaults__", SMALL),)
"""Huge pages of four frames, so that a run costs less."""
