"""Bugs of the verdict, and of whom is told what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, SiCode
from hwpoison.failure import kill
from hwpoison.failure.grab import handlable
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.states import PageState, identify
from hwpoison.failure.thp import try_to_split_thp_page
from hwpoison.mm import split
from hwpoison.mm.fault import Fault
from hwpoison.mm.huge import map_huge_file
from hwpoison.mm.inode import FILE_SYSTEMS
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.mmap import Vma
from hwpoison.mm.page import Page, locked
from hwpoison.mm.split import split_folio
from hwpoison.mm.task import Task
from hwpoison.scenario.model import Model

from .bug import SMALL_HUGE_PAGES, Bug

_mapped_at, _split_parts, _action_result = kill._mapped_at, split._split, MemoryFailure.action_result
States = tuple[PageState, ...]


def identify_now(states: States, now: int, saved: int) -> tuple[int, PageState, bool]:
    """One pass: the flags as they are after the page was unmapped."""
    number, row, _second = identify(states, now, now & ~pg.DIRTY)
    return number, row, False


def identify_as_saved(states: States, now: int, saved: int) -> tuple[int, PageState, bool]:
    """The second pass knows nothing of a page that turned dirty when it was unmapped."""
    if identify(states, now, saved)[2]:
        return identify(states, now & ~pg.DIRTY, saved)
    return identify(states, now, saved)


def verdicts(model: Model, *types: PageType) -> list[Page]:
    return [model.vm.zone.page(event.pfn) for event in model.failure.events if event.type in types]


def unknown(model: Model) -> list[str]:
    return [f"{page} is of no known state" for page in verdicts(model, PageType.UNKNOWN)]


def clean_though_dirty(model: Model) -> list[str]:
    found = verdicts(model, PageType.CLEAN_MLOCKED_LRU, PageType.CLEAN_UNEVICTABLE_LRU)
    return [f"{page} is dirty, and called clean" for page in found if page.flags & pg.DIRTY]


MLOCKED = """
    task app
    map m task=app
    lock m
    store m:0 data=x
    file x
    drop x
    together
      reclaim: swapout m:0
      mce:     inject m:0 via=sysfs
    end
"""
B22 = Bug(
    "B22",
    "the mark of a page that was locked in memory went with its last mapping: no rule knows the page",
    MLOCKED,
    (("hwpoison.failure.states:identify", identify_now),),
    "remark: .* no known state",
    known=("isolated-mlocked",),
    also=unknown,
    fix="3.9: fix misjudgement of page_action() for errors on mlocked pages",
)
B22B = Bug(
    "B22b",
    "and the rule that knows it takes what was lost for clean",
    MLOCKED,
    (("hwpoison.failure.states:identify", identify_as_saved),),
    "remark: .* called clean",
    known=("isolated-mlocked",),
    also=clean_though_dirty,
    fix="3.9, the second half",
)


def only_recovered_is_zero(
    failure: MemoryFailure, pfn: int, page_type: PageType, result: MfResult, **more: Any
) -> int:
    returned = _action_result(failure, pfn, page_type, result, **more)
    return -Errno.EBUSY if result is MfResult.DELAYED else returned


B24 = Bug(
    "B24",
    "Delayed, the right end for a dirty page of the swap cache, is returned as a failure",
    """
    task app
    map m task=app
    store m:0 data=x
    swapout m:0 keep=yes
    disk hold
    load m:0
    store m:0 data=y
    inject m:0 via=sysfs
      => verdict type="dirty swapcache page" result=Delayed
      => return m code=0
    """,
    (("hwpoison.failure.handler:MemoryFailure.action_result", only_recovered_is_zero),),
    "not seen on 7.3: return m code=0",
    fix="~2.6.33; 2.6.32 returns -EBUSY",
)

HELD = """
    task app sigbus=handler
    file f fs=xfs pages=4
    open fd file=f
    write fd:0 data=x pages=4
    map m task=app file=fd pages=4
    load m:1
    hold f:0 as=h
    break m:1
"""


def nobody_found(failure: MemoryFailure, pfn: int, flags: int) -> bool:
    return False


B25 = Bug(
    "B25",
    "who meets an error again that is known is not told, and meets it for ever",
    f"""{HELD}
    load m:1
    together
      load: load m:1
      idle: counters all
    end
    """,
    (("hwpoison.failure.kill:kill_accessing_process", nobody_found),),
    "endless",
    known=("unsplit-untold",),
    fix="5.14: already poisoned, and action required",
    note="its number is one of the gaps; B26 names it",
)


def not_in_drivers_memory(task: Task, pfn: int) -> int | None:
    mm = task.alive_mm()
    vmas, mm.vmas = mm.vmas, [vma for vma in mm.vmas if vma.driver is None]
    try:
        return _mapped_at(task, pfn)
    finally:
        mm.vmas = vmas


B26 = Bug(
    "B26",
    "memory that a driver has mapped is passed over: its user is not told, and meets the error for ever",
    """
    task app sigbus=handler
    frame d kind=driver
    map m task=app frame=d
    break d
    load m:0
    together
      load: load m:0
      idle: counters all
    end
    """,
    (("hwpoison.failure.kill:_mapped_at", not_in_drivers_memory),),
    "endless",
    fix="2e6053fea379 (6.17)",
)


def handled_as_found(failure: MemoryFailure, task: Task, pfn: int) -> None:
    """Nothing says that the task has consumed it, nor what comes of it."""
    failure.memory_failure(pfn, 0)


B61 = Bug(
    "B61",
    "an error that a task consumed is handled as one that was found: it goes on, and meets it for ever",
    f"""{HELD}
    together
      load: load m:1
      idle: counters all
    end
    """,
    (("hwpoison.failure.handler:MemoryFailure.machine_check", handled_as_found),),
    "endless",
    known=("unsplit-untold",),
    fix="~6.8: GHES asks for action",
    note="by a machine check; the firmware's reports, where this was, are not modelled",
)


def wrong_address(model: Model) -> list[str]:
    told = [i for t in model.vm.tasks.values() for i in t.received if i.code is SiCode.BUS_MCEERR_AR]
    pages = [model.page_name(info.address >> 12) for info in told if info.address is not None]
    return [f"told of {page}, and it was at m:3" for page in pages if page != "m:3"]


B35 = Bug(
    "B35",
    "a second error in a bad huge page is told with the address of its first frame",
    """
    task app sigbus=handler
    file f fs=hugetlbfs pages=4
    open fd file=f
    hugepages 2M pages=1
    map m task=app file=fd pages=4 shared=yes
    store m:1 data=x
    break m:3
    together
      load: load m:3
      mce:  inject m:1 via=sysfs
    end
    """,
    (("hwpoison.failure.profiles:Profile.tells_bad_frame_again", False),),
    "remark: told of m:0",
    known=("whole-huge-page",),
    setting=SMALL_HUGE_PAGES,
    also=wrong_address,
    fix="~057a6f2632c9 (6.19)",
)


def handlable_or_zeros(failure: MemoryFailure, page: Page) -> bool:
    return handlable(failure, page) or page.head is page.vm.huge_zero_folio


def split_but_zeros(page: Page, order: int = 0, *, at: Page | None = None) -> int:
    if page.head is page.vm.huge_zero_folio:
        raise KernelBug(f"VM_BUG_ON: {page.head} is the huge page of zeros")
    return split_folio(page, order, at=at)


B36 = Bug(
    "B36",
    "the huge page of zeros is taken for one that can be split, and the kernel stops",
    """
    task app
    map m task=app pages=512 huge=yes
    load m:0
    inject m:3 via=sysfs
    """,
    (("hwpoison.failure.grab:handlable", handlable_or_zeros),),
    "promise 6: KernelBug: VM_BUG_ON",
    frames=2048,
    setting=(("hwpoison.mm.split:split_folio", split_but_zeros),),
    fix="~d173d5417fb6 (5.18)",
)


def split_anonymous(page: Page) -> str | None:
    return try_to_split_thp_page(page) if page.anon else "non anonymous thp"


B39 = Bug(
    "B39",
    "an error in a large folio of a file is refused",
    """
    file f fs=xfs pages=4
    open fd file=f
    write fd:0 data=x pages=4
    fsync fd
    inject f:2 via=sysfs
      => return f code=0
      => verdict type="clean LRU page" result=Recovered
    """,
    (("hwpoison.failure.thp:try_to_split_thp_page", split_anonymous),),
    "not seen on 7.3: return f code=0",
    fix="~4966455d9100 (5.16)",
)


def map_any_huge(vma: Vma, vpn: int, folio: Page, write: bool) -> Fault | None:
    bad, folio.has_hwpoisoned = folio.has_hwpoisoned, False
    try:
        return map_huge_file(vma, vpn, folio, write)
    finally:
        folio.has_hwpoisoned = bad


B40 = Bug(
    "B40",
    "a huge page of a file is mapped whole though a page of it is bad: a load gets its bytes",
    """
    task app
    task other sigbus=handler
    file f fs=tmpfs pages=512
    open fd file=f
    map m task=app file=fd pages=512 shared=yes huge=yes
    map n task=other file=fd pages=512 shared=yes huge=yes
    store m:0 data=x
    pin m:0 as=p
    unmap m
    inject f:3 via=sysfs
      => return f code=-EBUSY
      => verdict type="unsplit thp" result=Ignored
    load n:0
      => call other data=x
    load n:3
      => signal other code=BUS_MCEERR_AR page=n:3 lsb=12
    """,
    (("hwpoison.mm.huge:map_huge_file", map_any_huge),),
    "not seen on 6.1: signal",
    kernel=PROFILES["6.1"],
    frames=2048,
    fix="5.15: check if THP has hwpoisoned subpage for PMD page fault",
    note="its number is one of the gaps; B41 names it",
)


def split_forgetful(folio: Page, shape: list[tuple[int, int]]) -> list[Page]:
    parts = _split_parts(folio, shape)
    for part in parts:
        part.has_hwpoisoned = False
    return parts


B41 = Bug(
    "B41",
    "the parts of a folio have forgotten that a page of theirs is bad: it is written to as if it were not",
    """
    task app
    file f fs=tmpfs pages=512
    open fd file=f
    map m task=app file=fd pages=512 shared=yes huge=yes
    store m:0 data=x
    pin m:0 as=p
    inject m:3 via=sysfs
      => return m code=-EHWPOISON
      => verdict type="unsplit thp" result=Failed
    release p
    split f:0 order=3
    write fd:0 data=y
      => call fd errno=EIO
    """,
    (("hwpoison.mm.split:_split", split_forgetful),),
    "not seen on 7.3: call fd errno=EIO",
    frames=2048,
    fix="fa5a06170036 (6.18)",
)


B66 = Bug(
    "B66",
    "an error in a page merged by KSM is ignored, and it stays mapped by all",
    """
    task app policy=early sigbus=handler
    task other policy=early sigbus=handler
    map m task=app
    map n task=other
    store m:0 data=x
    store n:0 data=x
    merge m:0 with=n:0
    inject m:0 via=sysfs
    """,
    (("hwpoison.failure.profiles:Profile.handles_merged_pages", False),),
    "promise 2: .* asked to be told early and was not",
    fix="between 6.1 and 6.6",
)

B67 = Bug(
    "B67",
    "a huge page that a device has pinned cannot be split, and nobody is told",
    """
    task app sigbus=handler policy=early
    map m task=app pages=512 huge=yes
    store m:0 data=x
    store m:5 data=y
    pin m:0 as=p
    inject m:5 via=sysfs
      => return m code=-EHWPOISON
      => verdict type="unsplit thp" result=Failed
      => signal app code=BUS_MCEERR_AO page=m:5 lsb=21
    """,
    (("hwpoison.failure.profiles:Profile.unsplit_thp", MfResult.IGNORED),),
    "not seen on 7.3: signal app",
    frames=2048,
    fix="between 6.6 and 6.12",
)


def split_to_pages(page: Page) -> str | None:
    """To single pages, whatever the file system wants."""
    with locked(page):
        error = split_folio(page, 0)
    return f"cannot be split: {error}" if error else None


B68 = Bug(
    "B68",
    "on a file system of large blocks a folio is split to single pages, or stays as it is",
    """
    file f fs=xfs pages=16
    open fd file=f
    write fd:0 data=x pages=16
    fsync fd
    inject f:1 via=sysfs
      => return f code=-EHWPOISON
      => verdict type="unsplit thp" result=Failed
    look f:9
      => page f:9 cached=yes order=2
    """,
    (("hwpoison.failure.thp:try_to_split_thp_page", split_to_pages),),
    "not seen on 7.3: page f:9",
    setting=(
        (
            "hwpoison.mm.machine:FILE_SYSTEMS",
            {**FILE_SYSTEMS, "xfs": replace(FILE_SYSTEMS["xfs"], min_order=2)},
        ),
    ),
    fix="between 6.12 and 7.2",
)

ROWS = (B22, B22B, B24, B25, B26, B35, B36, B39, B40, B41, B61, B66, B67, B68)
