"""memory_failure() as a whole: ways to return, counting, filter, races at its heart, machine checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode, SigInfo, Signal
from hwpoison.failure.flags import MF_ACTION_REQUIRED, MF_COUNT_INCREASED, MF_SW_SIMULATED
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import deferred, hard_offline_page, madvise, running
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Lock, LockOrderError, Op, Path
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, get_page
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import truncate
from hwpoison.mm.vmscan import reclaim_folio

POISONED = PageType.ALREADY_POISONED


def mapped(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def anonymous(vm: Machine) -> tuple[Task, Vma, Page]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "precious")
    return task, vma, mapped(task, vma.start)


def of_file(vm: Machine, fs: str = "ext4") -> tuple[File, Task, Vma, Page]:
    file = File(vm.create("data", fs, 2), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2, file=file, shared=True)
    load(task, vma.start)
    return file, task, vma, mapped(task, vma.start)


def verdicts(failure: MemoryFailure) -> list[tuple[PageType, MfResult]]:
    return [(event.type, event.result) for event in failure.events]


# Ways to return.


def test_a_frame_without_struct_page(failure: MemoryFailure) -> None:
    """Facts 2.2 step 3, 2.3b; not counted in any case."""
    vm = failure.vm
    returned = failure.memory_failure(9999, MF_SW_SIMULATED)
    if failure.profile.name in ("7.3", "7.2"):
        assert returned == -Errno.EBUSY
        assert verdicts(failure) == [(PageType.PFN_MAP, MfResult.IGNORED)]
        assert vm.log == ["Memory failure: 0x270f: recovery action for non struct page pfn: Ignored"]
    else:
        assert returned == -Errno.ENXIO
        assert vm.log == ["Memory failure: 0x270f: memory outside kernel control"]
        assert not failure.events
    assert vm.counters.poisoned == 0
    assert set(vm.counters.results.values()) == {0}


def test_recovery_switched_off_is_a_panic_before_anything_is_touched(failure: MemoryFailure) -> None:
    """vm.memory_failure_recovery=0; R21."""
    failure.vm.sysctls.memory_failure_recovery = False
    with pytest.raises(Panic, match="Memory failure on page c8"):
        failure.memory_failure(200)
    assert not failure.vm.zone.page(200).flags
    assert failure.mf_mutex.owner is None


@pytest.mark.parametrize("kind", ["slab", "reserved", "vmalloc"])
def test_a_kernel_page_panics_only_where_and_when_that_is_asked_for(
    failure: MemoryFailure, kind: str
) -> None:
    """vm.panic_on_unrecoverable_memory_failure, 7.3: only for pages positively known to be the kernel's."""
    vm = failure.vm
    vm.sysctls.panic_on_unrecoverable_memory_failure = True
    page = kernel_page(vm, kind)
    if failure.profile.name == "7.3" and kind != "vmalloc":
        with pytest.raises(Panic, match=f"Memory failure: {page.pfn:#x}: unrecoverable page"):
            hard_offline_page(failure, page.pfn)
        assert vm.log[-1].endswith("recovery action for reserved kernel page: Ignored"), (
            "said before it stops"
        )
    else:
        assert hard_offline_page(failure, page.pfn) == -Errno.EBUSY


@pytest.mark.parametrize("kind", ["slab", "reserved", "vmalloc", "page of zeros"])
def test_with_a_reference_old_kernels_take_any_page_to_the_table(failure: MemoryFailure, kind: str) -> None:
    """Facts 2.3b: 6.1 and 6.12 do not look what a counted page is; newer ones do, and give it back."""
    page = failure.vm.zero_page if kind == "page of zeros" else kernel_page(failure.vm, kind)
    get_page(page)
    before = page.refcount
    returned = failure.memory_failure(page.pfn, MF_COUNT_INCREASED | MF_SW_SIMULATED)
    kernel, get, unknown = PageType.KERNEL, PageType.GET_HWPOISON, PageType.UNKNOWN
    expected = {
        "7.3": {"vmalloc": get}.get(kind, kernel),
        "7.2": get,
        "6.12": {"slab": unknown, "vmalloc": unknown}.get(kind, kernel),
        "6.1": {"slab": PageType.SLAB, "vmalloc": unknown}.get(kind, kernel),
    }[failure.profile.name]
    failed = failure.profile.name == "6.1" and expected is unknown
    assert verdicts(failure) == [(expected, MfResult.FAILED if failed else MfResult.IGNORED)]
    assert returned == -Errno.EBUSY
    refused = failure.profile.name in ("7.3", "7.2")
    assert page.refcount == before - refused


def test_software_injection_does_not_forbid_unpoisoning_and_hardware_does(newest: MemoryFailure) -> None:
    hard_offline_page(newest, 200)
    assert not newest.seen_hardware
    deferred(newest, 201)
    assert newest.seen_hardware


# Already known.


def poison(failure: MemoryFailure, page: Page) -> None:
    hard_offline_page(failure, page.pfn)
    failure.vm.log.clear()
    failure.events.clear()


def test_a_known_page_gives_the_callers_reference_back(failure: MemoryFailure) -> None:
    page = failure.vm.zone.page(200)
    poison(failure, page)
    get_page(page)
    assert failure.memory_failure(200, MF_COUNT_INCREASED | MF_SW_SIMULATED) == -Errno.EHWPOISON
    assert page.refcount == 1


@pytest.mark.parametrize("where", ["poison entry", "still mapped", "nowhere", "no memory", "no task"])
def test_a_task_that_meets_a_known_page_again_is_told_where(failure: MemoryFailure, where: str) -> None:
    """Facts 2.2 step 5, 2.8, B26: -EHWPOISON with a forced signal, 0 if it does not map it, -EFAULT."""
    vm = failure.vm
    task, vma, page = anonymous(vm)
    task.sigbus = "handler"
    thread = task.clone_thread("worker")
    if where == "still mapped":
        page.flags |= pg.HWPOISON
    else:
        poison(failure, page)
    if where == "nowhere":
        munmap(task.alive_mm(), vma)
    if where == "no memory":
        task.exit()
    with running(vm, None if where == "no task" else thread):
        returned = failure.memory_failure(page.pfn, MF_ACTION_REQUIRED)
    told = where in ("poison entry", "still mapped")
    info = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, vma.start << PAGE_SHIFT, PAGE_SHIFT, forced=True)
    assert thread.pending == ([info] if told else [])
    assert returned == (-Errno.EHWPOISON if told else 0 if where == "nowhere" else -Errno.EFAULT)
    page.flags &= ~pg.HWPOISON if where == "still mapped" else ~0


def test_of_several_addresses_the_first_is_told(newest: MemoryFailure) -> None:
    vm = newest.vm
    _, task, vma, page = of_file(vm, "tmpfs")
    store(task, vma.start, "x")
    again = do_mmap(task.alive_mm(), 1, file=vm.inodes[0].files[0], shared=True)
    load(task, again.start)
    task.sigbus = "handler"
    poison(newest, page)
    with running(vm, task):
        newest.memory_failure(page.pfn, MF_ACTION_REQUIRED)
    assert [info.address for info in task.pending] == [vma.start << PAGE_SHIFT]


# Injection filter.


def filtered(failure: MemoryFailure, mask: int, value: int) -> None:
    failure.filter.enabled, failure.filter.flags_mask, failure.filter.flags_value = True, mask, value


def test_a_filtered_page_is_left_as_it_was(failure: MemoryFailure) -> None:
    """Facts 2.2 step 12: no mark, no reference, no line, no counter; B28: a code of its own."""
    vm = failure.vm
    task, vma, page = anonymous(vm)
    vm.lru.add_drain_all()
    before = page.flags, page.refcount
    filtered(failure, pg.ANON, 0)
    assert failure.memory_failure(page.pfn, MF_SW_SIMULATED) == -Errno.EOPNOTSUPP
    assert (page.flags, page.refcount) == before
    assert not failure.events
    assert not vm.log
    assert vm.counters.poisoned == 0
    assert load(task, vma.start) == "precious"


def test_a_page_that_passes_the_filter_is_handled(failure: MemoryFailure) -> None:
    _, _, page = anonymous(failure.vm)
    filtered(failure, pg.ANON, pg.ANON)
    assert failure.memory_failure(page.pfn, MF_SW_SIMULATED) == 0


def test_a_filter_without_a_mask_lets_everything_pass(failure: MemoryFailure) -> None:
    """hwpoison_filter_flags(): the value is looked at only if there is a mask."""
    _, _, page = anonymous(failure.vm)
    filtered(failure, 0, pg.ANON)
    assert failure.memory_failure(page.pfn, MF_SW_SIMULATED) == 0


# At the heart.


def test_errors_are_handled_one_at_a_time(newest: MemoryFailure, interrupted: Callable[..., object]) -> None:
    """B1: two reporters of one page."""
    vm = newest.vm
    _, _, page = anonymous(vm)
    codes: list[int] = []

    def second() -> None:
        codes.append(newest.memory_failure(page.pfn, MF_SW_SIMULATED))

    def in_the_middle(running: Path, op: Op, on: object) -> bool:
        return op is Op.ACQUIRE and on is page

    first = interrupted(vm, lambda: newest.memory_failure(page.pfn, MF_SW_SIMULATED), second, in_the_middle)
    assert (first, codes) == (0, [-Errno.EHWPOISON])
    assert verdicts(newest) == [(PageType.DIRTY_LRU, MfResult.RECOVERED), (POISONED, MfResult.FAILED)]


def test_a_page_truncated_before_it_is_locked(
    failure: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """Facts 2.2 step 16: its file has let go of it; the handler's reference keeps it from being freed."""
    vm = failure.vm
    file, _, _, page = of_file(vm)
    vm.lru.add_drain_all()

    def at_the_lock(running: Path, op: Op, on: object) -> bool:
        return op is Op.ACQUIRE and on is page

    result = interrupted(
        vm, lambda: hard_offline_page(failure, page.pfn), lambda: truncate(file.inode, 0), at_the_lock
    )
    assert result == -Errno.EBUSY
    assert verdicts(failure) == [(PageType.TRUNCATED_LRU, MfResult.IGNORED)]
    assert page.refcount == 1


def test_a_fault_cannot_bring_the_page_back_while_it_is_removed(
    newest: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """R10: it waits for the folio lock, sees that the page has left, and reads the file again.

    Its reference, though it will be given back at once, is one that nobody explains: Failed (R9).
    """
    vm = newest.vm
    _, task, vma, page = of_file(vm)
    vm.lru.add_drain_all()
    seen: list[str] = []

    def after_unmapping(running: Path, op: Op, on: object) -> bool:
        return op is Op.ACQUIRE and on is vm.lru.lock and not page.mapped

    interrupted(
        vm,
        lambda: hard_offline_page(newest, page.pfn),
        lambda: seen.append(load(task, vma.start)),
        after_unmapping,
    )
    assert seen == ["data:0:old"]
    assert mapped(task, vma.start) is not page
    assert verdicts(newest) == [(PageType.CLEAN_LRU, MfResult.FAILED)]
    assert page.refcount == 1


def test_a_reader_in_the_middle_of_its_copy_makes_it_a_failure(newest: MemoryFailure) -> None:
    """R9: a page that somebody still holds is not called Recovered."""
    _, _, _, page = of_file(newest.vm)
    get_page(page)
    newest.vm.held.add(page.pfn)
    assert hard_offline_page(newest, page.pfn) == -Errno.EBUSY
    assert verdicts(newest) == [(PageType.CLEAN_LRU, MfResult.FAILED)]


class Stop:
    """One path runs to a chosen moment, then the other to its end."""

    def __init__(self, first: Path, until: Callable[[Op, object], bool]) -> None:
        self.first, self.until, self.stopped = first, until, False

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        if running is self.first and self.until(op, on):
            self.stopped = True
        others = [path for path in ready if path is not self.first]
        if self.first in ready and not self.stopped:
            return self.first
        return running if running in others else (others or list(ready))[0]


def test_a_locked_page_off_its_list_passes_for_recovered(failure: MemoryFailure) -> None:
    """Deviation isolated-mlocked: mlock's batch has the page off its list just when the handler looks.

    It is neither on a list nor under writeback, so nobody is asked to unmap it; by its mark the table
    knows it as an mlocked page, and an anonymous one is Recovered without looking who still has it.
    """
    vm = failure.vm
    task, vma, page = anonymous(vm)
    mlock(task.alive_mm(), vma)
    task.prctl_mce_kill(McePolicy.EARLY)
    vm.lru.mlock_folio(page)
    handler = vm.paths.spawn("handler", hard_offline_page, failure, page.pfn)
    locks: list[object] = []

    def second_lock(op: Op, on: object) -> bool:
        locks.extend([on] if op is Op.ACQUIRE and on is page else [])
        return len(locks) == 2

    vm.paths.chooser = Stop(handler, second_lock)
    vm.paths.point(Op.START, page)
    vm.paths.chooser = None
    assert vm.lru.isolate(page), "as mlock_folio() and compaction do"
    vm.paths.finish()
    assert verdicts(failure) == [(PageType.CLEAN_MLOCKED_LRU, MfResult.RECOVERED)]
    assert mapped(task, vma.start) is page
    assert load(task, vma.start) == "precious"
    assert not task.received, "nobody is told"
    vm.lru.putback(page)
    vm.lru.add_drain_all()


def test_the_handler_takes_no_lock_under_a_spinlock_of_the_vm(newest: MemoryFailure) -> None:
    """R7: its mutex comes first, and the table says so."""
    with (
        Lock(newest.vm.paths, "ptl"),
        pytest.raises(LockOrderError, match="takes mf_mutex while it holds ptl"),
    ):
        newest.memory_failure(200)


# Counters and events.


def test_counters_add_up(failure: MemoryFailure) -> None:
    """Facts 4.4: the node's figures are those of the counted verdicts; 6.1 has none."""
    vm = failure.vm
    _, _, page = anonymous(vm)
    _, _, _, clean = of_file(vm)
    codes = [hard_offline_page(failure, pfn) for pfn in (page.pfn, clean.pfn, 200, 1, page.pfn)]
    assert codes == [0, 0, 0, -Errno.EBUSY, -Errno.EHWPOISON]
    assert vm.counters.poisoned == 4
    expected = {MfResult.RECOVERED: 3, MfResult.IGNORED: 1, MfResult.FAILED: 0, MfResult.DELAYED: 0}
    none = dict.fromkeys(MfResult, 0)
    assert vm.counters.results == (expected if failure.profile.node_counters else none)
    assert sum(vm.counters.results.values()) in (0, vm.counters.poisoned)


def test_an_event_names_the_row_that_decided(newest: MemoryFailure) -> None:
    _, _, page = anonymous(newest.vm)
    hard_offline_page(newest, page.pfn)
    hard_offline_page(newest, 200)
    table, free = newest.events
    assert newest.profile.states[(table.row or 0) - 1].type is table.type is PageType.DIRTY_LRU
    assert free.row is None
    assert all(event.reason for event in newest.events)


@pytest.mark.parametrize("result", MfResult)
def test_recovered_and_delayed_are_success_and_the_others_busy(
    newest: MemoryFailure, result: MfResult
) -> None:
    """B24: Delayed is no error."""
    code = newest.action_result(9, PageType.CLEAN_LRU, result)
    assert code == (0 if result in (MfResult.RECOVERED, MfResult.DELAYED) else -Errno.EBUSY)


# Consumed errors.


def test_a_consumed_error_in_anonymous_memory_is_a_signal_with_its_address(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure.vm)
    child = task.fork("child")
    failure.vm.strike(page.pfn, hardware=True)
    with pytest.raises(Signalled) as hit:
        load(child, vma.start)
    assert hit.value.info == SigInfo(
        Signal.SIGBUS, SiCode.BUS_MCEERR_AR, vma.start << PAGE_SHIFT, PAGE_SHIFT, forced=True
    )
    assert verdicts(failure) == [(PageType.DIRTY_LRU, MfResult.RECOVERED)]
    assert task.alive_mm().entry(vma.start) == PoisonPte(page.pfn)
    assert not task.pending
    assert not failure.vm.exposures
    assert failure.vm.paths.current.task is None


def test_a_consumed_error_in_a_clean_page_is_not_noticed(failure: MemoryFailure) -> None:
    """R23: the load is simply done again, from a new page."""
    _, task, vma, page = of_file(failure.vm)
    failure.vm.strike(page.pfn, hardware=True)
    assert load(task, vma.start) == "data:0:old"
    assert not task.received
    assert mapped(task, vma.start) is not page


def test_a_consumed_error_in_a_swapped_page_is_not_noticed(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure.vm)
    reclaim_folio(page, drop=False)
    load(task, vma.start)
    failure.vm.strike(page.pfn, hardware=True)
    assert load(task, vma.start) == "precious"
    assert verdicts(failure) == [(PageType.CLEAN_SWAPCACHE, MfResult.RECOVERED)]


def test_a_consumed_error_that_cannot_be_handled_is_a_plain_sigbus(failure: MemoryFailure) -> None:
    """Facts 2.1: "Memory error not recovered"."""
    vm = failure.vm
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    load(task, vma.start)
    vm.strike(vm.zero_page.pfn, hardware=True)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    assert hit.value.info == SigInfo(Signal.SIGBUS, forced=True)
    assert vm.log[-1] == "Memory error not recovered"


def test_a_second_thread_that_consumes_the_same_error_is_told_as_well(newest: MemoryFailure) -> None:
    """It finds the page known, and a poison entry where it was."""
    vm = newest.vm
    task, vma, page = anonymous(vm)
    task.sigbus = "handler"
    thread = task.clone_thread()
    vm.strike(page.pfn, hardware=True)
    for who in (task, thread):
        with pytest.raises(Signalled) as hit:
            load(who, vma.start)
        assert hit.value.info.code is SiCode.BUS_MCEERR_AR
    assert "Memory error not recovered" not in vm.log


def test_errors_that_the_kernel_met_itself_wait_in_a_queue(newest: MemoryFailure) -> None:
    """memory_failure_queue(): a copy on write that met bad memory."""
    vm = newest.vm
    task, vma, page = anonymous(vm)
    child = task.fork("child")
    vm.strike(page.pfn, hardware=True)
    with pytest.raises(Signalled):
        store(child, vma.start, "mine")
    assert newest.queued == [page.pfn]
    assert not newest.events
    newest.run_queue()
    assert verdicts(newest) == [(PageType.DIRTY_LRU, MfResult.RECOVERED)]
    assert newest.queued == []
    with pytest.raises(Signalled):
        load(task, vma.start)


def test_a_full_queue_loses_the_error_and_says_so(newest: MemoryFailure) -> None:
    """Facts 2.1."""
    for pfn in range(100, 117):
        newest.queue(pfn)
    assert newest.queued == list(range(100, 116))
    assert newest.vm.log[-1].endswith("buffer overflow when queuing memory failure at 0x74")


def test_madvise_consumes_in_new_kernels_and_only_marks_in_old_ones(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure.vm)
    assert madvise(failure, task, vma.start) == 0
    codes = [info.code for info in task.pending]
    assert codes == ([] if failure.profile.name == "6.1" else [SiCode.BUS_MCEERR_AR])
    assert page.refcount == 1, "the pin of madvise is the handler's reference now"
