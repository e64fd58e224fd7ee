"""Pages that the kernel keeps for itself (mm/slub.c, mm/vmalloc.c): nobody maps them, nobody can be told.

Slab pages carry their page type; those of vmalloc, stacks and per-CPU data carry no mark at all, which
is why neither the handler nor /proc can tell them from a page on its way to somewhere.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult

from .machine import Machine
from .page import Page, clear_flags, put_page, set_flags
from .response import Response


def alloc_slab(vm: Machine) -> Page:
    """A page of kernel objects."""
    page = vm.zone.alloc_zeroed()
    set_flags(page, pg.SLAB)
    return page


def free_slab(page: Page) -> None:
    clear_flags(page, pg.SLAB)
    put_page(page)


def vmalloc_page(vm: Machine) -> Page:
    """A page of vmalloc memory, a kernel stack or per-CPU data: no flag says whose it is."""
    return vm.zone.alloc_zeroed()


def reserve(page: Page) -> None:
    """Mark an allocated page as a driver or the boot code does (SetPageReserved())."""
    set_flags(page, pg.RESERVED)


def balloon_inflate(vm: Machine) -> Page:
    """A page given to the hypervisor: logically offline (PageOffline)."""
    page = vm.zone.alloc_zeroed()
    set_flags(page, pg.OFFLINE)
    return page


def give_up_kernel_page(page: Page) -> Response:
    """me_kernel(): nobody can be told, and the kernel cannot do without it."""
    source = "mm/memory-failure.c me_kernel()"
    return Response(MfResult.IGNORED, None, "the kernel itself uses the page", source)
