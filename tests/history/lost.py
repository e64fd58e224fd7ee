"""Bugs by which data was lost, the kernel stopped, or the counters were wrong."""

from __future__ import annotations

from dataclasses import replace

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.hugetlb import Found, _known
from hwpoison.failure.profiles import PROPOSED
from hwpoison.mm.errseq import ERROR_MASK, Errseq
from hwpoison.mm.hugetlb import Hugetlb, give_up_huge_page, state_of
from hwpoison.mm.inode import FILE_SYSTEMS, AddressSpace
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.page import Page, put_page, set_flags
from hwpoison.mm.response import Response
from hwpoison.mm.truncate import give_up_clean_folio
from hwpoison.scenario.model import Model

from .bug import SMALL_HUGE_PAGES, Bug

_set = Errseq.set
_memory_failure = MemoryFailure.memory_failure


def free_without_account(pools: Hugetlb, page: Page) -> None:
    """The mark goes from the head, whether or not the bad frames can get theirs."""
    state = state_of(page)
    if page.flags & pg.HWPOISON:
        pools.clear_hwpoison(page)
        for frame in state.raw:
            set_flags(frame, pg.HWPOISON)
    page.flags &= pg.HWPOISON
    pools.vm.zone.free_pages(page, page.order)


def bad_and_free(model: Model) -> list[str]:
    free = set(model.vm.zone.free_pfns())
    pages = [page for page in model.vm.zone.pages.values() if page.bad and page.pfn in free]
    return [f"{page} is bad, and free without a mark" for page in pages if not page.flags & pg.HWPOISON]


B16 = Bug(
    "B16",
    "a huge page goes back to the allocator though its bad frames cannot be marked",
    """
    task app sigbus=handler
    hugepages 2M pages=0 surplus=1
    map m task=app hugetlb=2M pages=4
    store m:0 data=x
    pin m:0 as=p
    nomemory handler
    inject m:3 via=sysfs
      => return m code=-EBUSY
      => verdict type="huge page" result=Failed
    unmap m
    release p
    """,
    (("hwpoison.mm.hugetlb:Hugetlb._update_and_free", free_without_account),),
    "remark: .* is bad, and free",
    setting=SMALL_HUGE_PAGES,
    also=bad_and_free,
    fix="~92a025a790c2 (6.6)",
    note="for want of a note about the frame; that its struct page was given back is not modelled",
)

B42 = Bug(
    "B42",
    "a bad page of tmpfs is removed from its file, which then reads as zeros",
    """
    file f fs=tmpfs
    open fd file=f
    write fd:0 data=x
    inject f:0 via=sysfs
    read fd:0
    """,
    (
        (
            "hwpoison.mm.machine:FILE_SYSTEMS",
            {**FILE_SYSTEMS, "tmpfs": replace(FILE_SYSTEMS["tmpfs"], error_remove="truncate")},
        ),
    ),
    "promise 2: read.* gives 'zeros'",
    fix="a7605426666196 (5.17)",
)


def remove_huge_page(page: Page) -> Response:
    """A huge page of a file is taken out of it like any other."""
    head = page.head
    mapping = head.mapping
    if not isinstance(mapping, AddressSpace):
        return give_up_huge_page(page)
    with mapping.i_pages_lock:
        del mapping.pages[head.index]
        mapping.dirty.discard(head.index)
        head.mapping = None
    put_page(head)
    return Response(MfResult.RECOVERED, 0, "removed from the file", "fs/hugetlbfs/inode.c, up to 6.0")


HUGE_FILE = """
    task app sigbus=handler
    file f fs=hugetlbfs pages=4
    open fd file=f
    hugepages 2M pages=2
    map m task=app file=fd pages=4 shared=yes
    store m:1 data=x
"""
B43 = Bug(
    "B43",
    "a bad huge page is removed from its file: a hole, and zeros",
    f"""{HUGE_FILE}
    inject m:1 via=sysfs
    read fd:1
    """,
    (("hwpoison.mm.hugetlb:give_up_huge_page", remove_huge_page),),
    "promise 2: read.* gives 'zeros'",
    setting=SMALL_HUGE_PAGES,
    fix="~8625147cafaa (6.1)",
)

B44 = Bug(
    "B44",
    "a dirty page of a file is lost, and read(2) gives the old data of the disk",
    """
    file f fs=ext4
    open fd file=f
    write fd:0 data=x
    inject f:0 via=sysfs
    read fd:0
    """,
    (("hwpoison.mm.machine:Traits.remembers_lost_data", False),),
    "promise 2: read.* gives 'f:0:old'",
    kernel=PROPOSED,
    fix="none yet; docs/proposed.md",
    note="the newest kernel's way against the proposed one: its weakness stale-read",
)


def give_up_with_wrong_sign(page: Page) -> Response:
    if isinstance(page.mapping, AddressSpace):
        page.mapping.wb_err.set(-Errno.EIO)
    return give_up_clean_folio(page)


def set_valid(errseq: Errseq, error: int) -> None:
    """errseq_set() warns of what is no error number, and leaves it."""
    if 0 < error <= ERROR_MASK:
        _set(errseq, error)


B45 = Bug(
    "B45",
    "the error of a lost page has the wrong sign, and is not recorded",
    """
    file f fs=ext4
    open fd file=f
    write fd:0 data=x
    inject f:0 via=sysfs
    fsync fd
    """,
    (("hwpoison.mm.truncate:give_up_dirty_folio", give_up_with_wrong_sign),),
    "promise 2: fd of f will not hear",
    known=("stale-read",),
    setting=(("hwpoison.mm.errseq:Errseq.set", set_valid),),
    fix="4.13: fix mapping_set_error call in me_pagecache_dirty",
    note="as the way errors are recorded since 4.13 would have had it",
)

B47 = Bug(
    "B47",
    "the kernel copies a bad page for a store, and stops",
    """
    task app sigbus=handler
    map m task=app
    store m:0 data=x
    fork app as=other
    break m:0
    store m:0 data=y task=other
      => signal other code=BUS_MCEERR_AR page=m:0 lsb=12
      => verdict type="dirty LRU page" result=Recovered
    """,
    (("hwpoison.mm.machine:Machine.copy_mc", Machine.kernel_reads),),
    "not expected on 7.3: .* panic",
    fix="~a873dfe1032a, d302c2398ba2 (6.2)",
)

B57 = Bug(
    "B57",
    "an error that is known already is counted again",
    """
    task app
    map m task=app
    store m:0 data=x
    note m:0 as=n
    inject n via=sysfs
    inject n via=sysfs
    """,
    (("hwpoison.failure.handler:UNCOUNTED", {PageType.PFN_MAP}),),
    "promise 5: HardwareCorrupted is 2",
    fix="3be306cccdcc (6.17)",
)


def known_by_half(failure: MemoryFailure, page: Page, flags: int, found: Found) -> int:
    """One more bad frame: HardwareCorrupted knows, the node does not."""
    if found is not Found.NEW_FRAME:
        return _known(failure, page, flags, found)
    failure.vm.counters.poisoned += 1
    failure.printk(f"{page.pfn:#x}: already hardware poisoned")
    return -Errno.EHWPOISON


B58 = Bug(
    "B58",
    "one more bad frame of a bad huge page is counted for the machine and not for its node",
    f"""{HUGE_FILE}
    inject f:1 via=sysfs
      => return f code=0
      => verdict type="huge page" result=Recovered
    inject f:2 via=sysfs
      => return f code=-EHWPOISON
      => verdict type="huge page" result=Failed
    counters all
      => counter HardwareCorrupted=2 recovered=1 failed=1
    """,
    (("hwpoison.failure.hugetlb:_known", known_by_half),),
    "not seen on 7.3: counter",
    setting=SMALL_HUGE_PAGES,
    fix="a148a2040191 (7.0)",
)


# The kernel's own map of memory: a page that is bad is taken out of it (set_mce_nospec()).
UNMAPPED = "frames that are not in the kernel's own map"


def deferred(failure: MemoryFailure, pfn: int) -> int:
    """As the notifiers of machine checks have it: out of the map once the page is handled."""
    failure.vm.strike(pfn, hardware=True)
    returned = failure.memory_failure(pfn, 0)
    if returned == 0:
        vars(failure.vm).setdefault(UNMAPPED, set()).add(pfn)
    return returned


def deferred_whatever(failure: MemoryFailure, pfn: int) -> int:
    failure.vm.strike(pfn, hardware=True)
    vars(failure.vm).setdefault(UNMAPPED, set()).add(pfn)
    return failure.memory_failure(pfn, 0)


def write_by_map(vm: Machine, page: Page, data: str) -> None:
    if page.pfn in vars(vm).get(UNMAPPED, ()):
        raise Panic(f"the kernel writes to {page}, which is not in its own map of memory")
    page.content = data


OWN_MAP = (
    ("hwpoison.mm.machine:Machine.kernel_writes", write_by_map),
    ("hwpoison.failure.inject:deferred", deferred),
)


def filtered_is_handled(failure: MemoryFailure, pfn: int, flags: int = 0) -> int:
    returned = _memory_failure(failure, pfn, flags)
    return 0 if returned == -Errno.EOPNOTSUPP else returned


B28 = Bug(
    "B28",
    "a page that the injection filter passed over counts as handled, and leaves the kernel's map",
    """
    file f fs=ext4
    open fd file=f
    read fd:0
    filter on fs=xfs
    inject f:0 via=scrub
    write fd:0 data=x
      => call fd data=ok
    """,
    (("hwpoison.failure.handler:MemoryFailure.memory_failure", filtered_is_handled),),
    "not expected on 7.3: .* panic",
    setting=OWN_MAP,
    fix="~d1fe111fb62a (5.18)",
)

B62 = Bug(
    "B62",
    "a page leaves the kernel's map though it is still in its file, and the kernel stops at the next write",
    """
    file f fs=vfat
    open fd file=f
    write fd:0 data=x
    inject f:0 via=scrub
      => verdict type="dirty LRU page" result=Failed
    write fd:0 data=y
      => call fd data=ok
    """,
    (("hwpoison.failure.inject:deferred", deferred_whatever),),
    "not expected on 7.3: .* panic",
    setting=OWN_MAP,
    fix="~fd0e786d9d09 (4.16)",
)

ROWS = (B16, B28, B42, B43, B44, B45, B47, B57, B58, B62)
