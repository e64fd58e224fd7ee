"""What the third posting did, put back into our handler one piece at a time: a row for each remark R."""

from __future__ import annotations

from hwpoison.failure.flags import MF_MUST_KILL
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.user_mappings import hwpoison_user_mappings
from hwpoison.mm.page import Page

from ..undone import Undone


def no_wait(page: Page) -> None:
    """R11: whoever meets writeback here goes on all the same."""


def tells_everybody(failure: MemoryFailure, page: Page, flags: int) -> bool:
    """R23: a clean page counts as lost, too."""
    return hwpoison_user_mappings(failure, page, flags | MF_MUST_KILL)


R11 = Undone(
    "R11",
    "the handler does not wait for writeback once it has the lock",
    """
    task app
    file f fs=ext4
    open fd file=f
    map m task=app file=fd shared=yes
    store m:0 data=x
    together
      fsync: fsync fd
      mce:   inject m:0 via=sysfs
    end
    """,
    (("hwpoison.failure.handler:folio_wait_writeback", no_wait),),
    breaks="assertion: KernelBug: .* is removed from .* under writeback",
    known=("stale-read", "device-reads-on"),
)

R23 = Undone(
    "R23",
    "users of a clean page are signalled, too",
    """
    task app policy=early
    file f fs=ext4
    open fd file=f
    map m task=app file=fd shared=yes
    load m:0
    inject m:0 via=sysfs
    """,
    (("hwpoison.failure.user_mappings:hwpoison_user_mappings", tells_everybody),),
    breaks="promise 3: .* exists elsewhere",
)

ROWS = (R11, R23)
