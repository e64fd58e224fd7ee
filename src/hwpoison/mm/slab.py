"""Pages that the kernel keeps for itself (mm/slub.c, mm/vmalloc.c): nobody maps them, nobody can be told.

Slab pages carry their page type; those of vmalloc, stacks and per-CPU data carry no mark at all, which
is why neither the handler nor /proc can tell them from a page on its way to somewhere.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult

from .machine import Machine
from .page import Page, set_flags
from .response import Response

MARKS = {"slab": pg.SLAB, "reserved": pg.RESERVED, "balloon": pg.OFFLINE, "vmalloc": 0, "driver": 0}
"""What marks a page of the kernel's as such. vmalloc memory, kernel stacks, per-CPU data and what a
driver took for itself carry no mark."""


def kernel_page(vm: Machine, kind: str) -> Page:
    """A page that the kernel allocated for itself, of one of the kinds in MARKS."""
    page = vm.zone.alloc_zeroed()
    set_flags(page, MARKS[kind])
    if kind == "vmalloc":
        vm.vmalloc.add(page.pfn)
    return page


def give_up_kernel_page(page: Page) -> Response:
    """me_kernel(): nobody can be told, and the kernel cannot do without it."""
    source = "mm/memory-failure.c me_kernel()"
    return Response(MfResult.IGNORED, None, "the kernel itself uses the page", source)
