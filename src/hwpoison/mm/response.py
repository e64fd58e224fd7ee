"""What a subsystem answers when the handler tells it that one of its pages is bad.

Each subsystem knows what its pages mean and owns the function that gives one up (R18): page cache
and anonymous pages in truncate.py, the swap cache in swap.py. All have one form: the page, locked,
known to be bad and no longer mapped, comes in; a Response goes out. The handler unlocks, counts the
references that are left, and reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult

from .page import Page, clear_flags, put_page


@dataclass(frozen=True, slots=True)
class Response:
    """``kept`` references remain beside the handler's own when all is well; None: nobody counts them.

    ``reason`` says in a few words what was done; ``source`` where the kernel does it.
    ``unlocked``: the folio lock was given up on the way.
    """

    result: MfResult
    kept: int | None
    reason: str
    source: str
    unlocked: bool = False


Respond = Callable[[Page], Response]


def delete_from_lru_cache(page: Page) -> bool:
    """Off the reclaim lists, so that reclaim never meets the page; whether it was on one."""
    if not page.vm.lru.isolate(page):
        return False
    clear_flags(page, pg.ACTIVE | pg.UNEVICTABLE)
    put_page(page)
    return True
