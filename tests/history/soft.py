"""Bugs of soft offline and of unpoison."""

from __future__ import annotations

from collections.abc import Iterator

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import PageType
from hwpoison.abi.signals import Errno
from hwpoison.failure import soft_offline, unpoison
from hwpoison.failure.grab import Grab
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.check import page_users
from hwpoison.mm.hugetlb import Hstate, Hugetlb, is_huge, state_of
from hwpoison.mm.locks import test_and_clear
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import Page, folio_try_get, put_page, set_flags
from hwpoison.mm.page_alloc import MAGIC_HWPOISON, Zone
from hwpoison.scenario.model import Model

from .bug import SMALL_HUGE_PAGES, Bug

_give_back, _refusal, _mapped = unpoison._give_back, unpoison._refusal, Page.mapped
_page_handle_poison = soft_offline.page_handle_poison


def unpoison_at_once(failure: MemoryFailure, pfn: int) -> int:
    """The mark is there, so whoever made it is done: nobody waits for mf_mutex."""
    page = failure.vm.zone.page(pfn)
    refusal = _refusal(failure, page)
    returned = _give_back(page) if refusal is None else refusal[0]
    if returned == 0:
        page.bad = False
        failure.out_of_use.discard(pfn)
        failure.vm.counters.poisoned -= 1
        failure.unpoisoned += 1
    return returned


B14 = Bug(
    "B14",
    "unpoison gives back the reference that soft offline is about to give back",
    """
    task app
    map m task=app
    store m:0 data=x
    note m:0 as=n
    together
      soft: soft-offline n via=sysfs
      back: unpoison n
    end
    """,
    (("hwpoison.scenario.verbs_errors:unpoison_memory", unpoison_at_once),),
    "assertion: KernelBug: refcount of .* goes to -1",
    setting=(("hwpoison.scenario.promises_soft:out_of_use", lambda *_: ()),),  # it was made good since
    fix="~da1b13ccfbeb (4.3)",
)


def mark_what_was_freed(
    failure: MemoryFailure, page: Page, *, free: bool = False, release: bool = False
) -> bool:
    """A page that was moved is given back like any other, and then it is marked."""
    if not release:
        return _page_handle_poison(failure, page, free=free)
    put_page(page)
    set_flags(page, pg.HWPOISON)
    failure.vm.counters.poisoned += 1
    failure.out_of_use.add(page.pfn)
    failure.soft_offlined += 1
    return True


def only_mapped(vm: Machine, page: Page) -> Iterator[Broken]:
    if page.mapped:
        yield Broken(1, f"{page}, taken out of use, is mapped at {page_users(vm, page)}")


def no_list(zone: Zone, page: Page, order: int) -> bool:
    """The lists of single processors are off: whoever allocates next gets the page."""
    return False


MOVED = """
    task app
    map m task=app
    store m:0 data=x
    task other
    map z task=other pages=3
    store z:0 data=w
    store z:2 data=w
    note m:0 as=n
"""
B17 = Bug(
    "B17",
    "a page that was moved is marked after it was given to another process",
    f"""{MOVED}
    together
      soft:  soft-offline n via=sysfs
      other: store z:1 data=z
    end
    """,
    (("hwpoison.failure.soft_offline:page_handle_poison", mark_what_was_freed),),
    "promise 1: .* is mapped at",
    setting=(
        ("hwpoison.mm.machine:Traits.checks_new_pages", True),
        ("hwpoison.mm.page_alloc:Zone._free_to_pcp", no_list),
        ("hwpoison.scenario.promises_soft:out_of_use", lambda vm, _failure, page: only_mapped(vm, page)),
        ("hwpoison.scenario.promises:_stays_out_of_use", lambda vm, page, _free: only_mapped(vm, page)),
    ),
    fix="~d4ae9916ea29 (4.19)",
    note="on a kernel whose allocator refuses marked pages, so that only the race is left",
)

B19 = Bug(
    "B19",
    "a page is marked while it is on a processor's list of free pages, and handed out from there",
    f"""{MOVED}
    soft-offline n via=sysfs
      => return n code=0
    """,
    (("hwpoison.failure.soft_offline:page_handle_poison", mark_what_was_freed),),
    "promise 1: .* is in the free lists",
    fix="~add05cecef80 (4.2)",
)


def dequeue_any(pools: Hugetlb, h: Hstate, *, reserved: bool, new: bool = False) -> Page | None:
    """The next free huge page, bad or not."""
    with pools.lock:
        if not h.free_list or (not reserved and not new and h.available <= 0):
            return None
        page = h.free_list.pop(0)
        h.reserved -= reserved
        state_of(page).freed = False
        page.refcount = 1
        return page


def free_and_mapped(model: Model) -> list[str]:
    return [
        f"the huge page of {e.pfn:#x} was free when it was marked, and is mapped now"
        for e in model.failure.events
        if e.type is PageType.FREE_HUGE and model.vm.zone.page(e.pfn).head.mapped
    ]


B18 = Bug(
    "B18",
    "a free huge page is marked, and given to a process before it is dissolved",
    """
    task app sigbus=handler
    hugepages 2M pages=1
    frame h kind=hugepage
    together
      app: map m task=app hugetlb=2M pages=4
      app: store m:0 data=x
      mce: inject h:1 via=sysfs
    end
    """,
    (("hwpoison.mm.hugetlb:Hugetlb._dequeue", dequeue_any),),
    "remark: .* is mapped now",
    known=("whole-huge-page",),
    setting=SMALL_HUGE_PAGES,
    also=free_and_mapped,
    fix="~6bc9b56433b7 (4.19)",
    note="by an error: soft offline of huge pages is not modelled; the allocator's half of the fix is undone",
)


def offline_says_zero(failure: MemoryFailure, page: Page, counted: bool) -> int:
    """When the free page was taken before us a second time, nothing is left that says so."""
    for _try in range(2):
        grab = soft_offline.get_hwpoison_page(failure, page, counted=counted)
        if grab is Grab.TAKEN:
            return soft_offline.soft_offline_in_use_page(failure, page)
        if grab is not Grab.FREE:
            return -soft_offline.REFUSALS[grab]
        if _page_handle_poison(failure, page, free=True):
            break
        counted = False
    return 0


B21 = Bug(
    "B21",
    "soft offline says 0 though the free page was taken before it, twice",
    """
    hugepages 2M pages=1
    frame h kind=hugepage
    hugepages 2M pages=0
    together
      soft: soft-offline h via=sysfs
      pool: hugepages 2M pages=1
      pool: hugepages 2M pages=0
      pool: hugepages 2M pages=1
    end
    """,
    (("hwpoison.failure.soft_offline:_offline", offline_says_zero),),
    "promise 4: .* is not marked",
    frames=8,
    setting=SMALL_HUGE_PAGES,
    fix="~e2c1ab070fdc (6.6)",
)


def only_lists(failure: MemoryFailure, page: Page) -> bool:
    """Pages on the reclaim lists; a free one is on none."""
    return bool(page.head.flags & pg.LRU)


B29 = Bug(
    "B29",
    "a free page cannot be taken out of use",
    """
    frame f kind=free
    soft-offline f via=sysfs
      => return f code=0
    """,
    (("hwpoison.failure.grab:handlable", only_lists),),
    "not seen on 7.3: return f code=0",
    fix="~ecebe53fe993 (5.16)",
)


def slab_counts(page: Page) -> bool:
    """The word of the count of mappings has something else in a slab page."""
    return bool(page.head.flags & pg.SLAB) or bool(_mapped.fget and _mapped.fget(page))


def refuse_mapped_first(failure: MemoryFailure, page: Page) -> tuple[int, str] | None:
    if page.flags & pg.HWPOISON and page.head.refcount <= 1 and page.mapped:
        return -Errno.EBUSY, "someone maps the hwpoison page"
    return _refusal(failure, page)


B37 = Bug(
    "B37",
    "unpoison says of a slab page that somebody maps it",
    """
    frame s kind=slab
    inject s via=sysfs
    unpoison s
    """,
    (("hwpoison.failure.unpoison:_refusal", refuse_mapped_first),),
    "remark: .* someone maps",
    setting=(("hwpoison.mm.page:Page.mapped", property(slab_counts)),),
    also=lambda model: [line for line in model.vm.log if "someone maps" in line],
    fix="~faeb2ff2c1c5 (6.6)",
)

B38 = Bug(
    "B38",
    "unpoison of a good page succeeds because the first page of its folio is marked",
    """
    task app sigbus=handler
    hugepages 2M pages=1
    map m task=app hugetlb=2M pages=4
    store m:0 data=x
    note m:1 as=n
    pin m:0 as=p
    inject m:0 via=sysfs
      => return m code=-EBUSY
      => verdict type="huge page" result=Failed
    unmap m
    release p
    unpoison n
      => return n code=-EBUSY
    """,
    (("hwpoison.failure.profiles:Profile.unpoison_takes_any_part", True),),
    "not seen on 7.3: return n code=-EBUSY",
    setting=SMALL_HUGE_PAGES,
    fix="~6c54312f9689 (6.5)",
)


def give_back_raw(page: Page) -> int:
    """What taking the page gave, one reference, is returned where the mark has gone meanwhile."""
    if is_huge(page) or page.private == MAGIC_HWPOISON:
        return _give_back(page)
    returned = int(folio_try_get(page.head))
    if not returned:
        return 0 if test_and_clear(page, pg.HWPOISON) else -Errno.EBUSY
    put_page(page)
    if test_and_clear(page, pg.HWPOISON):
        put_page(page)
        returned = 0
    return returned


B38B = Bug(
    "B38b",
    "unpoison that comes too late returns 1",
    """
    task app sigbus=handler
    hugepages 2M pages=1
    map m task=app hugetlb=2M pages=4
    store m:0 data=x
    note m:0 as=n
    pin m:0 as=p
    inject m:1 via=sysfs
    unmap m
    release p
    frame a kind=vmalloc
    frame b kind=vmalloc
    together
      back: unpoison n
      pool: hugepages 2M pages=0
      pool: frame s kind=vmalloc
    end
    """,
    (("hwpoison.failure.unpoison:_give_back", give_back_raw),),
    "remark: unpoison returns 1",
    frames=8,
    setting=SMALL_HUGE_PAGES,
    also=lambda model: ["unpoison returns 1" for seen in model.seen if seen.value.get("code") == "1"],
    fix="~f29623e4a599 (6.6)",
)

ROWS = (B14, B17, B18, B19, B21, B29, B37, B38, B38B)
