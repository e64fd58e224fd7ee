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


class Pmd:
    """A present entry one level up, which maps all of a large folio (pmd_trans_huge())."""

    __slots__ = ("_views", "dirty", "page", "writable", "young")

    def __init__(self, folio: Page, *, writable: bool, dirty: bool = False) -> None:
        self.page = folio
        self.writable = writable
        self.dirty = dirty
        self.young = True
        self._views: dict[int, HugePte] = {}

    def pte(self, number: int) -> HugePte:
        """One page of it, in the form of an entry: always the same object for the same page."""
        view = self._views.get(number)
        if view is None:
            view = self._views[number] = HugePte(self, self.page.vm.zone.page(self.page.pfn + number))
        return view


class HugePte(Pte):
    """A page seen through an entry that maps all of its folio: to be looked at, not to be replaced."""

    __slots__ = ("pmd",)

    def __init__(self, pmd: Pmd, page: Page) -> None:
        self.pmd = pmd
        super().__init__(page, writable=pmd.writable, dirty=pmd.dirty)

    @property
    def writable(self) -> bool:
        return self.pmd.writable

    @writable.setter
    def writable(self, on: bool) -> None:
        self.pmd.writable = on

    @property
    def dirty(self) -> bool:
        return self.pmd.dirty

    @dirty.setter
    def dirty(self, on: bool) -> None:
        self.pmd.dirty = on


@dataclass(frozen=True, slots=True)
class SpecialPte:
    """pte_special(): a frame that is mapped by its number alone; nobody looks for a struct page."""

    pfn: int


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
    """make_migration_entry(): the page is on its way to another frame; whoever comes waits for its lock.

    In place of an entry that maps a whole folio it stands for all of it.
    """

    page: Page
    writable: bool
    exclusive: bool
    dirty: bool


@dataclass(frozen=True, slots=True)
class SwapErrorPte:
    """make_swapin_error_entry() of 6.1: the contents could not be brought back from swap; plain SIGBUS."""


@dataclass(frozen=True, slots=True)
class MarkerPte:
    """PTE_MARKER_POISONED: user space says that this memory is to count as bad (UFFDIO_POISON, 6.6)."""


Entry = Pte | SpecialPte | SwapPte | MigrationPte | PoisonPte | SwapErrorPte | MarkerPte
