"""Making the bad page of a large folio one of its own, before anything else is done (mm/memory-failure.c)."""

from __future__ import annotations

from hwpoison.abi.signals import errno_name
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.page import Page, folio_lock, folio_unlock
from hwpoison.mm.split import split_folio

SOURCE = "mm/memory-failure.c try_to_split_thp_page()"


def try_to_split_thp_page(page: Page) -> str | None:
    """Split the folio of this page, as far as its file allows; None, or why the page is still part of one.

    The caller holds a reference and the page keeps it.
    """
    mapping = page.head.mapping
    order = mapping.fs.min_order if isinstance(mapping, AddressSpace) else 0
    size = page.head.nr_pages
    folio_lock(page)
    error = split_folio(page, order)
    folio_unlock(page)
    if error:
        return f"{size} pages cannot be split: {errno_name(error)}"
    return f"its file wants folios of {page.head.nr_pages} pages" if page.head.order else None
