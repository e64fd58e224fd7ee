"""What the handler says about a page: its type and the result, in the kernel's two spellings.

The log line is ``Memory failure: 0x<pfn>: recovery action for <type>: <result>``; the trace event
``memory_failure_event`` says the same with the spelling of include/trace/events/memory-failure.h,
which differs for one type. Numbers of the event are not listed: they differ between kernels and
are published by the running one (events/*/memory_failure_event/format).
"""

from __future__ import annotations

from enum import Enum, IntEnum


class MfResult(IntEnum):
    """enum mf_result (include/linux/mm.h); each is defined by what the user will see.

    * IGNORED: the handler could not, or would not, do anything: whoever reads the page meets the error.
    * FAILED: it tried, and something may still reach the page.
    * DELAYED: the page is still known to somebody, who will be stopped on the next use.
    * RECOVERED: nothing can reach the page any more. Processes may have been killed for that.
    """

    IGNORED = 0
    FAILED = 1
    DELAYED = 2
    RECOVERED = 3

    @property
    def text(self) -> str:
        """The word used by log and trace event alike."""
        return self.name.capitalize()


class PageType(Enum):
    """enum mf_action_page_type (include/linux/mm.h): the log's text, and the trace event's if it differs."""

    KERNEL = ("reserved kernel page",)
    KERNEL_HIGH_ORDER = ("high-order kernel page",)
    SLAB = ("kernel slab page",)
    DIFFERENT_COMPOUND = ("different compound page after locking",)
    HUGE = ("huge page",)
    FREE_HUGE = ("free huge page",)
    GET_HWPOISON = ("get hwpoison page",)
    UNMAP_FAILED = ("unmapping failed page",)
    DIRTY_SWAPCACHE = ("dirty swapcache page",)
    CLEAN_SWAPCACHE = ("clean swapcache page",)
    DIRTY_MLOCKED_LRU = ("dirty mlocked LRU page",)
    CLEAN_MLOCKED_LRU = ("clean mlocked LRU page",)
    DIRTY_UNEVICTABLE_LRU = ("dirty unevictable LRU page",)
    CLEAN_UNEVICTABLE_LRU = ("clean unevictable LRU page",)
    DIRTY_LRU = ("dirty LRU page",)
    CLEAN_LRU = ("clean LRU page",)
    TRUNCATED_LRU = ("already truncated LRU page",)
    BUDDY = ("free buddy page",)
    DAX = ("dax page",)
    UNSPLIT_THP = ("unsplit thp",)
    ALREADY_POISONED = ("already poisoned page", "already poisoned")
    PFN_MAP = ("non struct page pfn",)
    UNKNOWN = ("unknown page",)

    def __init__(self, log: str, trace: str | None = None) -> None:
        self.log = log
        self.trace = trace or log


def frame_text(pfn: int) -> str:
    """A frame number as the log has it: %#lx writes no prefix before a zero."""
    return f"{pfn:#x}" if pfn else "0"


def verdict_line(pfn: int, page_type: PageType, result: MfResult) -> str:
    """The kernel's log line for a verdict (action_result(), mm/memory-failure.c), without its prefix."""
    return f"{frame_text(pfn)}: recovery action for {page_type.log}: {result.text}"
