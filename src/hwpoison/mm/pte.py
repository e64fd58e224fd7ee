"""What a page table entry can be (include/linux/swapops.h): nothing, a page, or a note about one.

An entry is protected by the lock of its page table (ptl). A poison note and a swap entry look alike
from outside: both are "not present" with a type and an offset.
"""

from __future__ import annotations

from dataclasses import dataclass

from .page import Page


class Pte:
    """A present entry. The processor sets ``dirty`` and ``young`` behind the kernel's back."""

    __slots__ = ("dirty", "page", "writable", "young")

    def __init__(self, page: Page, *, writable: bool, dirty: bool = False) -> None:
        self.page = page
        self.writable = writable
        self.dirty = dirty
        self.young = True


@dataclass(frozen=True, slots=True)
class SwapPte:
    """The page is in swap, or on its way there. ``entry`` names the slot, which may be this entry's alone."""

    entry: int
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class PoisonPte:
    """make_hwpoison_entry(): the page was bad memory; whoever touches this address is told."""

    pfn: int
    file: bool = False


@dataclass(frozen=True, slots=True)
class MigrationPte:
    """make_migration_entry(): the page is on its way to another frame; whoever comes waits for its lock."""

    page: Page
    writable: bool
    exclusive: bool
    dirty: bool


@dataclass(frozen=True, slots=True)
class SwapErrorPte:
    """make_swapin_error_entry() of 6.1: the contents could not be brought back from swap; plain SIGBUS."""


Entry = Pte | SwapPte | MigrationPte | PoisonPte | SwapErrorPte
