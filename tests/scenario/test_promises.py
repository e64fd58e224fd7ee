"""A promise that cannot be broken is worth nothing: each is broken on purpose, and the checker must notice.

Every case puts one small mistake into the handler or into the VM, runs a scenario in which it matters,
and names the promise that must be reported. The same scenario without the mistake keeps all promises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Broken
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, SiCode, SigInfo, Signal
from hwpoison.failure import handler, kill, soft_offline, unpoison, user_mappings
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.mm import filemap, inode, memory, migrate, migrate_folio, rmap, shmem
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import ZEROS, Page, folio_lock, set_flags
from hwpoison.mm.page_alloc import Zone
from hwpoison.mm.response import Respond, Response
from hwpoison.mm.swap import give_up_clean_swapcache
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import give_up_clean_folio
from hwpoison.scenario.load import load_text
from hwpoison.scenario.model import run

Patch = pytest.MonkeyPatch
Mistake = Callable[[Patch], Profile | None]


@dataclass(frozen=True)
class Case:
    """A mistake, the scenario that shows it, and the promise it breaks (``known``: of this deviation)."""

    promise: int
    steps: str
    mistake: Mistake
    known: str | None = None


CASES: dict[str, Case] = {}


def breaks(promise: int, steps: str, *, known: str | None = None) -> Callable[[Mistake], Mistake]:
    """Enter a mistake into CASES under the name of its function."""

    def enter(mistake: Mistake) -> Mistake:
        CASES[mistake.__name__.replace("_", "-")] = Case(promise, steps, mistake, known)
        return mistake

    return enter


def broken(steps: str, profile: Profile = NEWEST) -> tuple[Broken, ...]:
    (scenario,) = load_text(f"name = 'x'\nswap = 8\nsteps = '''\n{steps}\n'''\n", "x.toml")
    return run(scenario, profile).outcome.broken


def with_response(page_type: PageType, respond: Respond) -> Profile:
    """The newest kernel with another response in one row of its state table."""
    rows = (replace(row, respond=respond) if row.type is page_type else row for row in NEWEST.states)
    return replace(NEWEST, states=tuple(rows))


def wrap(patch: Patch, owner: object, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by ``around(the original, *its arguments)``."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


MAPPED = "task A sigbus=handler\nmap m task=A\nstore m:0 data=precious\n"
ANON = MAPPED + "inject m:0 via=debugfs"
ANON_EARLY = "sysctl memory_failure_early_kill value=1\n" + MAPPED + "fork A as=B\ninject m:0 via=debugfs"
STRANGER = MAPPED + "task X sigbus=handler\nmap x task=X\nstore x:0 data=other\ninject m:0 via=debugfs"
FREE = "frame f kind=free\ninject f via=debugfs"
SLAB = "frame f kind=slab\ninject f via=debugfs"
FILE = "task A sigbus=handler\nfile db\nopen fd file=db\nmap m task=A file=fd shared=yes\nload m:0\n"
CLEAN_FILE = FILE + "inject m:0 via=debugfs"
CLEAN_FILE_EARLY = "sysctl memory_failure_early_kill value=1\n" + CLEAN_FILE
DIRTY_FILE = "file db\nopen fd file=db\nwrite fd:0 data=new\ninject db:0 via=debugfs"
DIRTY_VFAT = "file db fs=vfat\nopen fd file=db\nwrite fd:0 data=new\ninject db:0 via=debugfs"
TMPFS = "file t fs=tmpfs\nopen fd file=t\nwrite fd:0 data=new\ninject t:0 via=debugfs"
SWAP_DIRTY = MAPPED + "disk fail\nswapout m:0 keep=yes\ndisk mend\ninject m:0 via=debugfs"
SWAP_CLEAN = MAPPED + "swapout m:0 keep=yes\ninject m:0 via=debugfs"


# 1. No bad frame is handed out again, mapped, or read without a machine check.


@breaks(1, ANON)
def the_page_is_not_unmapped(patch: Patch) -> None:
    patch.setattr(handler, "hwpoison_user_mappings", lambda *_args: True)


@breaks(1, FREE)
def a_free_page_stays_in_the_free_lists(patch: Patch) -> None:
    patch.setattr(Zone, "take_page_off_buddy", lambda _zone, _page: True)


@breaks(1, FREE + "\n" + MAPPED)
def the_allocator_hands_out_bad_pages(patch: Patch) -> None:
    a_free_page_stays_in_the_free_lists(patch)
    wrap(patch, Zone, "alloc_pages", lambda _original, zone, order=0: first_free(zone))


def first_free(zone: Zone) -> Page:
    """The first free page, whatever its state."""
    page = zone.page(next(zone.free_pfns()))
    start, order = zone.free_block_of(page.pfn) or (page.pfn, 0)
    del zone.free_area[order][start]
    zone._break_down(start, order, page.pfn)
    page.refcount = 1
    return page


@breaks(1, MAPPED + "break m:0\nload m:0")
def a_load_of_bad_memory_gives_bytes(patch: Patch) -> None:
    def access(task: Task, vpn: int, data: str | None) -> str:
        entry = memory._translate(task.alive_mm(), vpn, False)
        return "" if entry is None else memory._use(entry, data)

    patch.setattr(memory, "load", lambda task, vpn: access(task, vpn, None))


@breaks(1, "file db\nopen fd file=db\nread fd:0\nbreak db:0\nread fd:0")
def the_kernel_reads_bad_memory_and_goes_on(patch: Patch) -> None:
    def reads(vm: Machine, page: Page) -> str:
        if page.bad:
            vm.expose(page, "the kernel")
        return page.content

    patch.setattr(Machine, "kernel_reads", reads)


# 2. Data is lost only with its last copy, and then everyone who could rely on it is told.


@breaks(2, ANON)
def no_poison_entry_is_left_behind(patch: Patch) -> None:
    def zaps(_original: Callable[..., None], page: Page, _flags: int) -> None:
        rmap.unmap_mapping_folio(page)

    wrap(patch, user_mappings, "try_to_unmap", zaps)


@breaks(2, ANON_EARLY, known="forgotten-victim")
def a_victim_is_not_collected(patch: Patch) -> None:
    wrap(patch, user_mappings, "collect_procs", lambda original, *args: original(*args)[1:])


@breaks(2, ANON_EARLY, known="forgotten-victim")
def nobody_is_signalled(patch: Patch) -> None:
    patch.setattr(user_mappings, "kill_procs", lambda *_args, **_kwargs: None)


@breaks(2, DIRTY_FILE)
def no_error_is_recorded_for_the_file(patch: Patch) -> None:
    patch.setattr(AddressSpace, "set_error", lambda _mapping, _error: None)


@breaks(2, DIRTY_FILE)
def a_dirty_page_is_taken_for_clean(_patch: Patch) -> Profile:
    return with_response(PageType.DIRTY_LRU, give_up_clean_folio)


@breaks(2, SWAP_DIRTY)
def the_slot_of_a_dirty_page_is_trusted(_patch: Patch) -> Profile:
    return with_response(PageType.DIRTY_SWAPCACHE, give_up_clean_swapcache)


@breaks(2, TMPFS)
def a_bad_page_of_tmpfs_is_dropped(patch: Patch) -> None:
    row = replace(inode.FILE_SYSTEMS["tmpfs"], error_remove="truncate")
    patch.setitem(inode.FILE_SYSTEMS, "tmpfs", row)


@breaks(2, SWAP_CLEAN)
def a_page_safe_in_swap_takes_its_slot_along(_patch: Patch) -> Profile:
    def respond(page: Page) -> Response:
        page.vm.swap.contents.pop(page.private if isinstance(page.private, int) else 0, None)
        return give_up_clean_swapcache(page)

    return with_response(PageType.CLEAN_SWAPCACHE, respond)


@breaks(2, CLEAN_FILE)
def losing_a_clean_page_loses_its_block(_patch: Patch) -> Profile:
    def respond(page: Page) -> Response:
        if isinstance(page.mapping, AddressSpace):
            page.mapping.host.blocks.clear()
        return give_up_clean_folio(page)

    return with_response(PageType.CLEAN_LRU, respond)


# 3. Nobody is signalled who did not use the page; nobody at all when its contents exist elsewhere.


@breaks(3, CLEAN_FILE_EARLY)
def users_of_a_clean_page_are_signalled(patch: Patch) -> None:
    patch.setattr(user_mappings, "folio_mkclean", lambda _page: True)


@breaks(3, STRANGER)
def a_stranger_is_signalled(patch: Patch) -> None:
    def everybody(failure: MemoryFailure, page: Page, _flags: int) -> list[kill.ToKill]:
        return [kill.ToKill(task, page.index) for task in failure.vm.tasks.values()]

    patch.setattr(user_mappings, "collect_procs", everybody)


@breaks(3, STRANGER)
def a_stranger_is_killed(patch: Patch) -> None:
    def everybody(failure: MemoryFailure, _page: Page, _flags: int) -> list[kill.ToKill]:
        return [kill.ToKill(task, None) for task in failure.vm.tasks.values()]

    patch.setattr(user_mappings, "collect_procs", everybody)


@breaks(3, "task A sigbus=handler\n" + DIRTY_FILE)
def somebody_is_signalled_for_a_page_without_users(patch: Patch) -> None:
    def signals(original: Callable[..., int], failure: MemoryFailure, *args: Any, **kwargs: Any) -> int:
        for task in failure.vm.tasks.values():
            task.send_signal(SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, 1 << PAGE_SHIFT, PAGE_SHIFT))
        return original(failure, *args, **kwargs)

    wrap(patch, MemoryFailure, "action_result", signals)


@breaks(3, "sysctl memory_failure_early_kill value=1\n" + MAPPED + "inject m:0 via=debugfs")
def the_signal_names_another_address(patch: Patch) -> None:
    def elsewhere(original: Any, task: Any, vpn: int | None, *shift: int) -> Any:
        return original(task, None if vpn is None else vpn + 3, *shift)

    wrap(patch, kill, "ToKill", elsewhere)


# 4. The verdict is true.


def always(verdict: MfResult) -> Mistake:
    """The handler says the same about every page."""

    def mistake(patch: Patch) -> None:
        wrap(
            patch,
            MemoryFailure,
            "action_result",
            lambda original, failure, pfn, page_type, _result, **rest: original(
                failure, pfn, page_type, verdict, **rest
            ),
        )

    return mistake


CASES["a-slab-page-is-called-recovered"] = Case(4, SLAB, always(MfResult.RECOVERED))
CASES["a-slab-page-is-called-delayed"] = Case(4, SLAB, always(MfResult.DELAYED))
CASES["a-page-still-in-its-file-is-called-recovered"] = Case(4, DIRTY_VFAT, always(MfResult.RECOVERED))
CASES["an-unmapped-page-is-called-ignored"] = Case(4, ANON, always(MfResult.IGNORED))
CASES["a-removed-page-is-called-ignored"] = Case(4, CLEAN_FILE, always(MfResult.IGNORED))
CASES["a-page-nobody-will-meet-is-called-delayed"] = Case(4, SWAP_CLEAN, always(MfResult.DELAYED))
CASES["a-page-of-the-swap-cache-is-called-recovered"] = Case(4, SWAP_DIRTY, always(MfResult.RECOVERED))


@breaks(4, CLEAN_FILE)
def nothing_is_done_and_success_reported(_patch: Patch) -> Profile:
    return with_response(
        PageType.CLEAN_LRU, lambda _page: Response(MfResult.RECOVERED, None, "trust me", "nowhere")
    )


@breaks(4, FILE + "hold m:0 as=reader\ninject m:0 via=debugfs")
def references_that_are_left_are_not_counted(_patch: Patch) -> Profile:
    def respond(page: Page) -> Response:
        return replace(give_up_clean_folio(page), kept=None)

    return with_response(PageType.CLEAN_LRU, respond)


# 5. References, map counts and lists balance; counters add up.


@breaks(5, "file db\nopen fd file=db\nread fd:0\nread fd:0")
def a_read_leaks_a_reference(patch: Patch) -> None:
    patch.setattr(filemap, "put_page", lambda _page: None)


@breaks(5, ANON)
def the_handler_takes_a_reference_too_many(patch: Patch) -> None:
    def takes(original: Callable[..., Any], failure: MemoryFailure, page: Page, **kwargs: Any) -> Any:
        page.refcount += 1
        return original(failure, page, **kwargs)

    wrap(patch, handler, "get_hwpoison_page", takes)


@breaks(5, CLEAN_FILE)
def mapping_a_page_is_counted_twice(patch: Patch) -> None:
    def twice(original: Callable[..., None], page: Page, vma: object) -> None:
        original(page, vma)
        page.mapcount += 1

    wrap(patch, memory, "page_add_rmap", twice)


@breaks(5, TMPFS)
def a_dirty_page_is_not_tagged_in_its_file(patch: Patch) -> None:
    patch.setattr(shmem, "folio_mark_dirty", lambda page: set_flags(page, pg.DIRTY))


@breaks(5, SLAB + "\ninject f via=sysfs")
def a_page_is_counted_twice(patch: Patch) -> None:
    patch.setattr(handler, "UNCOUNTED", set[PageType]())


@breaks(5, FREE)
def a_page_is_not_counted(patch: Patch) -> None:
    patch.setattr(handler, "UNCOUNTED", set(PageType))


# 6. Every lock is taken in order and given back; every run ends.


@breaks(6, ANON)
def the_page_stays_locked(patch: Patch) -> None:
    patch.setattr(handler, "folio_unlock", lambda _page: None)


@breaks(6, ANON)
def a_lock_is_taken_twice(patch: Patch) -> None:
    wrap(patch, handler, "folio_wait_writeback", lambda _original, page: folio_lock(page))


@breaks(6, ANON)
def the_reverse_map_is_left_locked(patch: Patch) -> None:
    def locks(original: Callable[..., Any], failure: MemoryFailure, page: Page, flags: int) -> Any:
        if page.mapping is not None:
            rmap.rmap_sem(page.mapping).down_read()
        return original(failure, page, flags)

    wrap(patch, user_mappings, "collect_procs", locks)


@breaks(6, ANON)
def locks_are_taken_in_the_wrong_order(patch: Patch) -> None:
    def inverted(original: Callable[..., Any], failure: MemoryFailure, page: Page, flags: int) -> Any:
        mm = next(iter(failure.vm.tasks.values())).alive_mm()
        with mm.pte_alloc(page.index).lock, mm.mmap_lock.read():
            return original(failure, page, flags)

    wrap(patch, user_mappings, "collect_procs", inverted)


# Soft offline and unpoison.

SOFT = MAPPED + "soft-offline m:0 via=sysfs"
SOFT_FILE = "file db\nopen fd file=db\nwrite fd:0 data=new\nsoft-offline db:0 via=sysfs"
SOFT_PINNED = MAPPED + "pin m:0 as=p\nsoft-offline m:0 via=sysfs"
SOFT_HELD = "file db\nopen fd file=db\nread fd:0\nhold db:0 as=p\nsoft-offline db:0 via=sysfs"
SOFT_FREE = "frame f kind=free\nsoft-offline f via=sysfs"
UNPOISONED = ANON + "\nunpoison m:0"


@breaks(1, SOFT_FREE)
def a_frame_out_of_use_stays_in_the_free_lists(patch: Patch) -> None:
    a_free_page_stays_in_the_free_lists(patch)


@breaks(2, SOFT)
def the_contents_do_not_move(patch: Patch) -> None:
    def empties(original: Callable[..., Any], new: Page, page: Page) -> Any:
        result = original(new, page)
        new.content = ZEROS
        return result

    wrap(patch, migrate, "move_to_new_folio", empties)


@breaks(2, SOFT_FILE)
def a_dirty_page_is_dropped_instead_of_moved(patch: Patch) -> None:
    def undirtied(original: Callable[..., Any], mapping: Any, page: Page) -> Any:
        filemap.folio_cancel_dirty(page)
        return original(mapping, page)

    wrap(patch, soft_offline, "mapping_evict_folio", undirtied)


@breaks(3, SOFT)
def the_user_of_a_page_that_moved_is_signalled(patch: Patch) -> None:
    def signals(original: Callable[..., Any], pages: list[Page], reason: Any) -> Any:
        for task in pages[0].vm.tasks.values():
            task.send_signal(SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, 0, 12))
        return original(pages, reason)

    wrap(patch, soft_offline, "migrate_pages", signals)


@breaks(4, SOFT_PINNED)
def a_page_that_could_not_be_moved_is_marked_all_the_same(patch: Patch) -> None:
    def marks(original: Callable[..., Any], pages: list[Page], reason: Any) -> Any:
        pages[0].flags |= pg.HWPOISON
        return original(pages, reason)

    wrap(patch, soft_offline, "migrate_pages", marks)


@breaks(4, SOFT_HELD)
def a_reference_in_flight_is_overlooked(patch: Patch) -> None:
    patch.setattr(soft_offline, "mapping_evict_folio", lambda _mapping, _page: False)
    patch.setattr(migrate_folio, "folio_expected_refs", lambda page: page.refcount)


@breaks(4, SOFT)
def success_is_reported_for_a_page_that_stayed(patch: Patch) -> None:
    patch.setattr(soft_offline, "migrate_pages", lambda _pages, _reason: 0)


@breaks(4, SOFT_PINNED)
def a_page_that_could_not_be_moved_is_not_given_back(patch: Patch) -> None:
    patch.setattr(Page, "maybe_dma_pinned", False)
    patch.setattr(migrate, "remove_migration_ptes", lambda _old, _new: None)


@breaks(5, SOFT)
def a_frame_out_of_use_is_not_counted(patch: Patch) -> None:
    def uncounted(original: Callable[..., Any], failure: MemoryFailure, page: Page, **how: bool) -> Any:
        result = original(failure, page, **how)
        failure.vm.counters.poisoned -= 1
        return result

    wrap(patch, soft_offline, "page_handle_poison", uncounted)


@breaks(5, UNPOISONED)
def a_frame_made_good_again_is_still_counted(patch: Patch) -> None:
    def counts(original: Callable[..., Any], page: Page) -> Any:
        page.vm.counters.poisoned += 1
        return original(page)

    wrap(patch, unpoison, "_give_back", counts)


@breaks(5, "frame f kind=vmalloc\ninject f via=debugfs\nunpoison f", known="unpoison-under-owner")
def an_owner_who_does_not_show_is_overlooked(patch: Patch) -> None:
    """No mistake of ours: real kernels do it."""


@breaks(6, SOFT)
def a_moved_page_stays_locked(patch: Patch) -> None:
    patch.setattr(migrate, "folio_unlock", lambda _page: None)


@pytest.mark.parametrize("name", CASES)
def test_the_checker_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    profile = case.mistake(monkeypatch) or NEWEST
    found = [b for b in broken(case.steps, profile) if b.deviation == case.known]
    assert case.promise in {b.promise for b in found}, f"promise {case.promise} not in {found}"


@pytest.mark.parametrize("name", CASES)
def test_without_the_mistake_no_promise_is_broken(name: str) -> None:
    assert [b for b in broken(CASES[name].steps) if b.deviation is None] == []


def test_every_promise_has_mistakes_that_break_it() -> None:
    assert {case.promise for case in CASES.values()} == {1, 2, 3, 4, 5, 6}
