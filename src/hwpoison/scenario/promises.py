"""The six promises, checked after every run (docs/scope.md tells them in full).

Each frame that went bad has a census (census.py). Some promises are judged when the handler returns
(``at_once``), the others when the run is over and the machine quiet, by what everybody would see now.
"""

from __future__ import annotations

from collections.abc import Iterator

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, PF_MCE_EARLY, PF_MCE_PROCESS, SiCode, SigInfo, Signal
from hwpoison.failure.handler import Event, MemoryFailure
from hwpoison.mm.check import known_references, page_users
from hwpoison.mm.hugetlb_unmap import huge_start
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import ZEROS, Page, page_swap_entry
from hwpoison.mm.page_alloc import MAGIC_HWPOISON
from hwpoison.mm.pte import PoisonPte, Pte, SwapErrorPte, SwapPte
from hwpoison.mm.rmap import StableNode
from hwpoison.mm.task import Task

from .census import GONE_BEFORE, MCEERR, Census, User, broke, last_event, names

KERNELS_OWN = pg.SLAB | pg.PGTABLE | pg.RESERVED | pg.OFFLINE
MLOCKED = {
    PageType.CLEAN_MLOCKED_LRU,
    PageType.DIRTY_MLOCKED_LRU,
    PageType.CLEAN_UNEVICTABLE_LRU,
    PageType.DIRTY_UNEVICTABLE_LRU,
}
"""What a page is called that was off its list when it should have been unmapped."""


def at_once(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """What must be true when the handler returns."""
    event = last_event(failure, census.pfn)
    if event is None or census.already:
        return
    if event.result is MfResult.IGNORED and event.type not in GONE_BEFORE:
        yield from _left_alone(vm, census)
    else:
        yield from _forgotten_victims(vm, failure, census)


def _left_alone(vm: Machine, census: Census) -> Iterator[Broken]:
    """4. Ignored: nothing was done."""
    page = vm.zone.page(census.pfn)
    for user in census.users:
        entry = user.mm.entry(user.vpn)
        if user.mapped and not (isinstance(entry, Pte) and entry.page.head is page.head):
            yield Broken(4, f"{page} is called Ignored, but was taken away from {user.name()}")
    mapping = None if census.in_swap_cache else census.mapping
    if mapping is not None and mapping.frame(census.index) is not page:
        yield Broken(4, f"{page} is called Ignored, but was removed from the {mapping.host}")


def _forgotten_victims(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """2. Who asked to be told early of a loss has been told."""
    if not (census.last_copy and census.dirty and any(user.mapped for user in census.users)):
        return
    for user in census.users:
        wanted = user.mapped or census.mapping is not None
        if wanted and _asked_early(vm, user) and not user.gone and not census.told(user):
            why = _why_forgotten(failure, census, user)
            yield broke(why, f"{user.name()} asked to be told early and was not")


def _why_forgotten(failure: MemoryFailure, census: Census, user: User) -> str:
    if census.mapping is not None and census.mapping.fs.dax and not user.mapped:
        return "device-not-touched"
    if census.merged:
        return "merged-told-once" if failure.profile.handles_merged_pages else "merged-not-told"
    if census.large and census.mapping is not None:
        return "split-unmaps-file"
    return "split-poisons-entry" if census.large and not user.whole else "forgotten-victim"


def _asked_early(vm: Machine, user: User) -> bool:
    for task in user.tasks:
        if task.leader.sigbus == "ignore" and not task.blocked:
            return False
        own = task.flags & PF_MCE_PROCESS
        if (task.flags & PF_MCE_EARLY) if own else vm.sysctls.memory_failure_early_kill:
            return True
    return False


def broken_promises(vm: Machine, failure: MemoryFailure, censuses: list[Census]) -> Iterator[Broken]:
    """Everything that this machine, now quiet, did not keep."""
    yield from _contained(vm, failure)
    blocked: set[tuple[int, int]] = set()  # uses of frames hit before, whose signals may have had to wait
    for number, census in enumerate(censuses):
        if not census.already:
            later = censuses[number + 1].signals if number + 1 < len(censuses) else None
            yield from _mapped_again(vm, failure, census)
            yield from _told(vm, failure, census)
            yield from _innocent(vm, failure, census, later, blocked)
            if all(
                after.pfn != census.pfn for after in censuses[number + 1 :]
            ):  # else another verdict counts
                yield from _truthful(vm, failure, census)
            blocked |= census.uses()
    for text in [*vm.check(), *_handler_books(vm, failure)]:
        yield Broken(5, text)


def _result(failure: MemoryFailure, pfn: int) -> MfResult | None:
    event = last_event(failure, pfn)
    return event.result if event is not None else None


def _contained(vm: Machine, failure: MemoryFailure) -> Iterator[Broken]:
    """1. No bad frame is handed out again, mapped anew, or read without a machine check."""
    free = set(vm.zone.free_pfns())
    for page in vm.zone.pages.values():
        event = last_event(failure, page.pfn)
        if not page.flags & pg.HWPOISON:
            continue
        if page.pfn in failure.out_of_use:
            yield from _stays_out_of_use(vm, page, free)
        if event is None:
            continue
        settled = event.result in (MfResult.RECOVERED, MfResult.DELAYED)
        if page.pfn in free and settled:
            yield Broken(1, f"the bad {page} is in the free lists")
        if page.head.mapped and settled:
            text = f"the bad {page} is mapped at {page_users(vm, page)}"
            if event.type is PageType.DAX:
                yield broke("device-still-mapped", text)
            elif event.type in MLOCKED:
                yield broke("isolated-mlocked", text)
            else:
                merged = isinstance(page.mapping, StableNode)
                yield broke("merged-again", text) if merged else Broken(1, text)
        if event.type is PageType.BUDDY and settled and page.private != MAGIC_HWPOISON:
            yield Broken(1, f"the bad {page} was given up by the allocator, and is in use again")
    for exposure in vm.exposures:
        if exposure.device:
            yield broke("device-reads-on", exposure.text)
        elif exposure.hardware:
            yield Broken(1, f"{exposure.text}, without a machine check")


def _mapped_again(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """1. Nobody gets a page from the swap cache that is known to be bad, whatever came of the error."""
    page = vm.zone.page(census.pfn)
    if (
        not census.in_swap_cache
        or not page.flags & pg.HWPOISON
        or _result(failure, census.pfn) is not MfResult.FAILED
    ):
        return
    for user in census.users:
        entry = None if user.mapped or user.gone else user.mm.entry(user.vpn)
        if isinstance(entry, Pte) and entry.page is page:
            yield broke("mapped-with-folio", f"the bad {page} has been mapped for {user.name()}")


def _stays_out_of_use(vm: Machine, page: Page, free: set[int]) -> Iterator[Broken]:
    """A frame that soft offline took out of use."""
    if page.pfn in free:
        yield Broken(1, f"{page}, taken out of use, is in the free lists")
    if page.mapped:
        yield Broken(1, f"{page}, taken out of use, is mapped at {page_users(vm, page)}")


def _told(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """2. Data is lost only with its last copy, and then everyone who could rely on it is told."""
    event = last_event(failure, census.pfn)
    if event is None or event.result is MfResult.IGNORED:
        return  # nothing was done, and nothing promised
    shown = census.file_shows()
    if census.unwritten:
        if shown not in (None, census.content) and not census.rewritten:
            yield broke("unwritten-clean", f"{census.content!r} was dropped as clean, {shown!r} is found now")
        return
    if census.neighbours and _result(failure, census.pfn) is not MfResult.FAILED:
        text = f"{census.neighbours[0]!r} was in a good frame, and is gone for its users"
        yield broke("whole-huge-page", text)
    for user in census.users:
        if user.gone or census.told(user) or (user.mm, user.vpn) in census.given_up:
            continue
        wrong = _what_it_meets(vm, user, census)
        if wrong is not None:
            yield wrong
    if event.type is PageType.UNSPLIT_THP:
        yield from _untold(census)
    elif census.mapping is not None and not census.rewritten and shown != census.content:
        yield from _file_told(census, census.mapping, shown)


def _what_it_meets(vm: Machine, user: User, census: Census) -> Broken | None:
    """What the next touch by this user would show him; None if that is right."""
    entry = user.mm.entry(user.vpn)
    if isinstance(entry, PoisonPte):
        return None
    if isinstance(entry, SwapErrorPte):
        return broke("swapin-error-unnamed", f"{user.name()} will get a SIGBUS that names no memory error")
    if isinstance(entry, SwapPte):
        return _what_swap_gives(vm, user, census, entry.entry)
    vma = user.mm.find_vma(user.vpn)
    of_file = vma is not None and vma.inode is not None and not vma.inode.fs.huge
    if isinstance(entry, Pte):
        if entry.page.pfn == census.pfn:
            return None  # still mapped: promise 4 judges that
        if entry.page.anon and (census.mapping is not None or (user.mm, user.vpn) in census.stored):
            return None  # he has made a page of his own since
        found: str | None = entry.page.content
    else:
        found = ZEROS if census.mapping is None else census.file_shows()
    if found in (None, census.content) or census.rewritten or _reported(census):
        return None
    if census.mapping is None and of_file:
        return None  # a private copy, which went with the truncation of its file
    text = f"{user.name()} would see {found!r} instead of {census.content!r} and was not told"
    if not user.mapped and not census.files and found in (census.block, ZEROS) and census.mapping is not None:
        return broke("stale-read", text)  # nobody has the file open who could be told
    taken = vma is not None and vma.hstate is not None and huge_start(vma, user.vpn) in vma.notes_taken
    return broke("note-taken", text) if taken else Broken(2, text)


def _what_swap_gives(vm: Machine, user: User, census: Census, slot: int) -> Broken | None:
    if census.mapping is not None or (user.mm, user.vpn) in census.stored:
        return None  # he has made a page of his own since, or other contents, and it is out
    cached = vm.swap.cache.get(slot)
    content = vm.swap.contents.get(slot) if cached is None else cached.content
    if content == census.content or (cached is not None and cached.flags & pg.HWPOISON):
        return None
    return Broken(2, f"{user.name()} will read {content!r} from swap instead of {census.content!r}")


def _reported(census: Census) -> bool:
    """Does every open file of a file on a disk get an error from fsync, or has it had one?"""
    mapping = census.mapping
    if mapping is None or not mapping.can_writeback or not census.files:
        return False
    return all(mapping.wb_err.check(cursor) for _file, cursor in census.files)


def _untold(census: Census) -> Iterator[Broken]:
    """A folio that could not be split stays in its file as it was, and its file says nothing."""
    mapping = census.mapping
    if mapping is None or not mapping.can_writeback or not census.last_copy or census.rewritten:
        return
    for file, cursor in census.files:
        if not mapping.wb_err.check(cursor):
            yield broke("unsplit-untold", f"{file} will not hear that {census.content!r} was in a bad frame")


def _file_told(census: Census, mapping: AddressSpace, shown: str | None) -> Iterator[Broken]:
    """Every open file gets an error: from fsync, or where there is no disk from read(2) itself."""
    name = mapping.host.name
    if mapping.host not in mapping.vm.inodes:
        return  # it went with its last mapping
    if not census.last_copy:
        if shown is not None:
            yield Broken(2, f"{name} has {shown!r} now, {census.content!r} existed elsewhere")
        return
    if not mapping.can_writeback:
        if shown is not None and census.index < mapping.host.size:
            yield Broken(2, f"read(2) of {name} gives {shown!r} instead of {census.content!r}")
        return
    written = mapping.host.blocks.get(census.index) == census.content and not mapping.vm.hardware
    for file, cursor in census.files:
        if not written and not mapping.wb_err.check(cursor):  # a write that was under way may have saved it
            yield Broken(2, f"{file} will not hear that {census.content!r} was lost")
    if census.files and shown == census.block and census.index < mapping.host.size:
        yield broke("stale-read", f"read(2) of {name} gives {shown!r} instead of {census.content!r}")


def _innocent(
    vm: Machine,
    failure: MemoryFailure,
    census: Census,
    later: dict[int, int] | None,
    before: set[tuple[int, int]],
) -> Iterator[Broken]:
    """3. Nobody is signalled who did not use the page; nobody at all when its contents exist elsewhere.

    ``later``: how many signals each task had received when the next error struck; later ones are not ours.
    ``before``: uses of frames that were hit earlier; their signals may have been blocked until now.
    """
    result = _result(failure, census.pfn)
    uses = census.uses()
    users = {pid for pid, _vpn in uses}
    for task in (thread for leader in vm.tasks.values() for thread in leader.threads):
        end = None if later is None else later.get(task.pid, 0)
        for info in task.received[census.signals.get(task.pid, 0) : end]:
            if info.signal is Signal.SIGKILL and task.pid not in users:
                yield Broken(3, f"{task} was killed but did not use {census.pfn:#x}")
            if info.code not in MCEERR or info.address is None or result is not MfResult.RECOVERED:
                continue
            if any(info is waiting for waiting in census.waiting):
                continue  # of an earlier error: it had been blocked
            used = _uses(uses, task, info)
            if used and not census.last_copy and not census.dirty:  # nobody can know that it says the same
                text = f"{task} got {info.text()} though {census.content!r} exists elsewhere"
                swapped = census.large and census.in_swap_cache
                why = "split-poisons-swapped" if swapped else "touched-too-early"
                yield broke(why, text) if info.code is SiCode.BUS_MCEERR_AR else Broken(3, text)
            if not used and not _uses(before, task, info) and info.code is SiCode.BUS_MCEERR_AO:
                text = f"{task} got {info.text()} but did not use {census.pfn:#x}"
                name = _why_innocent(task, info.address >> PAGE_SHIFT, census)
                yield Broken(3, text) if name is None else broke(name, text)


def _why_innocent(task: Task, vpn: int, census: Census) -> str | None:
    """The weakness by which a task is told that does not use the page."""
    if census.merged:
        return "merged-innocent"
    return "copy-holder-told" if (task.pid, vpn) in census.copies else None


def _uses(uses: set[tuple[int, int]], task: Task, info: SigInfo) -> bool:
    """Is the address in the signal one of these uses (pid, page number) of the task's?"""
    return any(pid == task.pid and names(info, vpn) for pid, vpn in uses)


def _truthful(vm: Machine, failure: MemoryFailure, census: Census) -> Iterator[Broken]:
    """4. The verdict is true."""
    result = _result(failure, census.pfn)
    page = vm.zone.page(census.pfn)
    if not (page.flags | page.head.flags) & pg.HWPOISON:
        return
    if result is MfResult.RECOVERED:
        yield from _recovered(vm, census, page)
    if result is MfResult.DELAYED and vm.swap.cache.get(page_swap_entry(page) or 0) is not page:
        waiting = [user for user in census.users if not user.gone]
        if not census.users or any(isinstance(user.mm.entry(user.vpn), SwapPte) for user in waiting):
            yield Broken(4, f"{page} is called Delayed, but nobody will be stopped at it")


def _recovered(vm: Machine, census: Census, page: Page) -> Iterator[Broken]:
    """Nothing can reach the page any more."""
    called = f"{page} is called Recovered, but"
    if page.head.maybe_dma_pinned or page.head.pfn in vm.held:
        text = f"{called} somebody holds a reference to it"
        if census.mapping is None:
            yield broke("pinned-anonymous", text)
        else:
            yield broke("device-still-mapped", text) if census.mapping.fs.dax else Broken(4, text)
    mapping = page.head.mapping
    cached = isinstance(mapping, AddressSpace) and mapping.frame(page.file_index) is page
    if isinstance(mapping, AddressSpace) and cached and mapping.fs.error_remove != "keep":
        yield Broken(4, f"{called} it is still page {page.index} of the {mapping.host}")
    if page.head.flags & pg.SWAPCACHE:
        yield Broken(4, f"{called} it is still in the swap cache")
    if page.flags & KERNELS_OWN:
        yield Broken(4, f"{called} the kernel itself uses it")


def _keeps_a_reference(event: Event) -> bool:
    """Is the handler's reference to the page there after this verdict, for ever?"""
    if event.type in (PageType.HUGE, PageType.FREE_HUGE) and event.result is MfResult.FAILED:
        return False  # it was given back, so that the huge page could be dissolved
    return event.row is not None or event.type in (PageType.BUDDY, PageType.FREE_HUGE, *GONE_BEFORE)


def _handler_books(vm: Machine, failure: MemoryFailure) -> Iterator[str]:
    """What the handler keeps: one reference to each page it took, for ever; and its counters."""
    known = known_references(vm)
    for page in vm.zone.pages.values():
        event = last_event(failure, page.pfn)
        taken = event is not None and _keeps_a_reference(event)
        folio = page.head
        others = folio.maybe_dma_pinned or folio.pfn in vm.held or page.flags & pg.RESERVED
        if taken and folio.flags & pg.HWPOISON and not others and folio.refcount != known[folio.pfn] + 1:
            yield f"{folio} has refcount {folio.refcount}; users hold {known[folio.pfn]}, the handler 1"
    said = [e for e in failure.events if e.type not in (PageType.ALREADY_POISONED, PageType.PFN_MAP)]
    expected = len(said) + failure.soft_offlined - failure.unpoisoned + failure.silent
    if vm.counters.poisoned != expected:
        yield (
            f"HardwareCorrupted is {vm.counters.poisoned} pages after {len(said)} new verdicts, "
            f"{failure.soft_offlined} soft offlines and {failure.unpoisoned} unpoisons"
        )
    counted = sum(vm.counters.results.values())
    if failure.profile.node_counters and counted != len(said):
        yield f"the node counts {counted} results after {len(said)} new verdicts"
