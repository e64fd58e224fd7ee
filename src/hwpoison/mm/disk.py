"""The disk: writes of pages that take time, may fail, and can be held back (block/blk-core.c, block/bio.c).

A write completes at once unless the disk is *held*: then it stays under way until it is released, or
until every path waits, when the disk answers by itself. With a chooser each completion is a path of
its own, an interrupt that may come at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .page import Page, folio_end_writeback, put_page

if TYPE_CHECKING:
    from .machine import Machine

Store = Callable[[list[str] | None], None]
"""Called when the write of a folio ends, with what was written of each page, or None when it failed."""


class Disk:
    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.held = False
        self.failing = False
        self.under_way: deque[tuple[Page, Store]] = deque()

    def submit_write(self, page: Page, store: Store) -> None:
        """Write a page that is under writeback; its reference is the caller's until the write ends."""
        if self.held:
            self.under_way.append((page, store))
        elif self.vm.paths.chooser is not None:
            self.vm.paths.spawn(f"disk:{page.pfn:#x}", self._complete, page, store)
        else:
            self._complete(page, store)

    def answer(self) -> bool:
        """Complete the oldest write under way; whether there was one."""
        if not self.under_way:
            return False
        self._complete(*self.under_way.popleft())
        return True

    def release(self) -> None:
        """Complete everything and hold back no more."""
        self.held = False
        while self.answer():
            pass

    def _complete(self, page: Page, store: Store) -> None:
        store(None if self.failing else [self.vm.device_reads(part) for part in page.pages()])
        folio_end_writeback(page)
        put_page(page)
