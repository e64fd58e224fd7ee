"""Memory that is mapped by frame numbers, without pages (remap_pfn_range(), VM_PFNMAP, drivers/char/mem.c).

Such an entry holds no reference and is in no reverse map; get_user_pages() refuses it, and /proc/PID/pagemap
shows nothing. A driver may tell the handler of memory that it maps so (register_pfn_address_space(), 7.x).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .page import ZEROS
from .pte import SpecialPte

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import Mm, Vma


def remap_pfn(vma: Vma, pfn: int) -> None:
    """remap_pfn_range() of one frame, when the area is made; a child gets the entry at fork(2)."""
    vma.pfnmap, vma.shared = pfn, True
    table = vma.mm.pte_alloc(vma.start)
    with table.lock:
        table.entries[vma.start] = SpecialPte(pfn)


def use(vm: Machine, entry: SpecialPte, data: str | None) -> str:
    """A load or a store of a whole page. What is no memory reads as zeros, whatever is written there."""
    if not vm.zone.online(entry.pfn):
        return ZEROS
    page = vm.zone.page(entry.pfn)
    if data is not None:
        page.content = data
    return page.content


def areas_of(vm: Machine, pfn: int) -> Iterator[Vma]:
    """All areas that map this frame by its number, oldest memory first."""
    memories: dict[int, Mm] = {id(task.mm): task.mm for task in vm.tasks.values() if task.mm is not None}
    for mm in memories.values():
        yield from (vma for vma in mm.vmas if vma.pfnmap == pfn)
