"""An error in memory without pages that a driver has told the handler of (memory_failure_pfn(), 7.x).

The driver knows which of its areas maps the frame. Nothing is unmapped: there is nothing else that could be
mapped there. No driver of the lab's kernels does so on x86; this follows the source of 7.2 and 7.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpoison.abi.results import MfResult, PageType
from hwpoison.mm.pfnmap import areas_of

from .flags import MF_ACTION_REQUIRED, MF_MUST_KILL
from .kill import ToKill, add_to_kill, kill_procs, oldest_first, users_to_tell

if TYPE_CHECKING:
    from .handler import MemoryFailure


def memory_failure_pfn(failure: MemoryFailure, pfn: int, flags: int) -> int:
    """0: whoever is to be told is told; -EBUSY: nobody knows whose it is."""
    if pfn not in failure.vm.registered:
        return failure.action_result(pfn, PageType.PFN_MAP, MfResult.IGNORED)
    flags |= MF_ACTION_REQUIRED | MF_MUST_KILL
    found: list[tuple[int, ToKill]] = []
    for vma in areas_of(failure.vm, pfn):
        for leader, thread in users_to_tell(failure, vma, flags):
            found.append((leader.pid, add_to_kill(failure, thread, vma.start)))
    kill_procs(failure, oldest_first(found), pfn, flags, unmapped=True)
    return failure.action_result(
        pfn, PageType.PFN_MAP, MfResult.RECOVERED, reason="its driver knows whose it is"
    )
