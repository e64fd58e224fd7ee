"""What the promises mean for soft offline and unpoison: nothing is lost, nobody is hurt, the answer is true.

Judged when the call returns, against a census taken before it: later steps may change all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import MfResult
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.check import page_users
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.pte import PoisonPte, Pte, SwapPte

from .census import GONE_BEFORE, Census, User, broke, last_event


def after_soft_offline(
    vm: Machine, failure: MemoryFailure, census: Census, returned: int
) -> Iterator[Broken]:
    """Everything that this one call did not keep."""
    page = vm.zone.page(census.pfn)
    yield from _contents(vm, census)
    for task in (thread for leader in vm.tasks.values() for thread in leader.threads):
        for info in census.signals_since(task):
            yield Broken(3, f"{task} got {info.text()} though {page} was only taken out of use")
    if census.already:
        return
    bad = bool(page.flags & pg.HWPOISON)
    if returned == 0:
        yield from out_of_use(vm, failure, page)
    elif bad:
        yield Broken(4, f"soft offline of {page} failed, and yet it is marked as bad")
    else:
        yield from _stays(census, page)


def after_unpoison(failure: MemoryFailure, pfn: int, references: int, returned: int) -> Iterator[Broken]:
    """5. A page that is made good again had no owner; ``references``: how many it had before."""
    event = last_event(failure, pfn)
    ignored = event is not None and event.result is MfResult.IGNORED and event.type not in GONE_BEFORE
    if returned == 0 and ignored and references and pfn not in failure.out_of_use:
        yield broke("unpoison-under-owner", f"page {pfn:#x} was freed under its owner")


def _contents(vm: Machine, census: Census) -> Iterator[Broken]:
    """2. Who used the page finds the same contents, and so does who reads the file."""
    for user in census.users:
        found = None if user.gone else _finds(vm, user, census)
        if found in (None, census.content):
            continue
        text = f"{user.name()} would see {found!r} instead of {census.content!r}"
        if _marked_before(user):
            yield broke("whole-huge-page", text)
        else:
            yield broke("unwritten-clean", text) if census.unwritten else Broken(2, text)
    if census.mapping is not None and census.index < census.mapping.host.size:
        shown = census.file_shows()
        if shown != census.content and not census.already:
            name = census.mapping.host.name
            text = f"read(2) of {name} gives {shown!r} instead of {census.content!r}"
            yield broke("unwritten-clean", text) if census.unwritten else Broken(2, text)


def _marked_before(user: User) -> bool:
    """Had another frame of its huge page a mark, so that nobody got the new one?"""
    vma = user.mm.find_vma(user.vpn)
    return vma is not None and vma.hstate is not None and isinstance(user.mm.entry(user.vpn), PoisonPte)


def _finds(vm: Machine, user: User, census: Census) -> str | None:
    """What a load there gives; None: it is stopped, as it was before."""
    entry = user.mm.entry(user.vpn)
    if isinstance(entry, Pte):
        return entry.page.content
    if isinstance(entry, SwapPte):
        cached = vm.swap.cache.get(entry.entry)
        return vm.swap.contents.get(entry.entry) if cached is None else cached.content
    if entry is None:
        return ZEROS if census.mapping is None else census.file_shows()
    return None if census.already else repr(entry)


def out_of_use(vm: Machine, failure: MemoryFailure, page: Page) -> Iterator[Broken]:
    """4. Success: nothing can reach the frame, and it is marked."""
    called = f"soft offline of {page} succeeded, but"
    if not page.flags & pg.HWPOISON:
        yield Broken(4, f"{called} it is not marked")
    if page.mapped:
        yield Broken(4, f"{called} it is mapped at {page_users(vm, page)}")
    mapping = page.mapping
    if isinstance(mapping, AddressSpace) and mapping.pages.get(page.index) is page:
        yield Broken(4, f"{called} it is still page {page.index} of the {mapping.host}")
    if page in vm.swap.cache.values():
        yield Broken(4, f"{called} it is still in the swap cache")
    if page.pfn in set(vm.zone.free_pfns()):
        yield Broken(1, f"{called} it is in the free lists")
    if page.maybe_dma_pinned or page.pfn in vm.held:
        yield Broken(4, f"{called} somebody holds a reference to it")


def _stays(census: Census, page: Page) -> Iterator[Broken]:
    """4. Failure: whoever had the page has it still."""
    for user in census.users:
        entry = user.mm.entry(user.vpn)
        if user.mapped and not (isinstance(entry, Pte) and entry.page is page):
            yield Broken(4, f"soft offline of {page} failed, but it was taken away from {user.name()}")
    mapping = None if census.in_swap_cache else census.mapping
    if mapping is not None and mapping.frame(census.index) is not page:
        yield Broken(4, f"soft offline of {page} failed, but it was removed from the {mapping.host}")
