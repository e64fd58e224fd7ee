"""Who is told of a bad page, how, and who is not: collecting and signalling (facts 2.5, 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode, SigInfo, Signal
from hwpoison.failure.flags import MF_ACTION_REQUIRED, MF_MUST_KILL, MF_SW_SIMULATED
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import hard_offline_page, madvise, running
from hwpoison.failure.kill import ToKill, collect_procs, find_early_kill_thread, kill_procs
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.mm.inode import File
from hwpoison.mm.ksm import madvise_mergeable
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, locked
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Signalled, Task

SIMULATED = MF_SW_SIMULATED


def anonymous(vm: Machine, comm: str = "app") -> tuple[Task, Vma]:
    task = vm.new_task(comm)
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "precious")
    return task, vma


def mapped(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def collected(failure: MemoryFailure, page: Page, flags: int = 0) -> list[tuple[Task, int | None]]:
    failure.vm.lru.add_drain_all()
    with locked(page):
        return [(victim.task, victim.vpn) for victim in collect_procs(failure, page, flags)]


# Who is early: the policy of each thread, then the sysctl.

POLICIES = [
    # process bit, early bit, sysctl: early?
    (None, False, False),
    (None, True, True),
    (McePolicy.LATE, False, False),
    (McePolicy.LATE, True, False),
    (McePolicy.EARLY, False, True),
    (McePolicy.EARLY, True, True),
]


@pytest.mark.parametrize(("policy", "sysctl", "early"), POLICIES)
def test_the_threads_own_policy_goes_before_the_sysctl(
    newest: MemoryFailure, policy: McePolicy | None, sysctl: bool, early: bool
) -> None:
    task = newest.vm.new_task("app")
    task.prctl_mce_kill(policy)
    assert find_early_kill_thread(task, early_kill=sysctl) is (task if early else None)


@pytest.mark.parametrize("sysctl", [True, False])
def test_an_early_bit_that_was_cleared_means_nothing(newest: MemoryFailure, sysctl: bool) -> None:
    """PR_MCE_KILL_CLEAR leaves it; without the process bit the sysctl decides."""
    task = newest.vm.new_task("app")
    task.prctl_mce_kill(McePolicy.EARLY)
    task.prctl_mce_kill(None)
    assert find_early_kill_thread(task, early_kill=sysctl) is (task if sysctl else None)


def test_the_first_thread_that_wants_to_be_told_is_told(newest: MemoryFailure) -> None:
    leader = newest.vm.new_task("app")
    late, early, other = (leader.clone_thread(comm) for comm in ("late", "early", "other"))
    leader.prctl_mce_kill(McePolicy.LATE)
    late.prctl_mce_kill(McePolicy.LATE)
    early.prctl_mce_kill(McePolicy.EARLY)
    other.prctl_mce_kill(McePolicy.EARLY)
    assert find_early_kill_thread(leader, early_kill=False) is early
    late.prctl_mce_kill(McePolicy.DEFAULT)
    assert find_early_kill_thread(leader, early_kill=True) is late


# Who is collected.


def test_anonymous_users_are_those_whose_entry_maps_the_page(newest: MemoryFailure) -> None:
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    child, stranger = task.fork("child"), task.fork("stranger")
    store(stranger, vma.start, "its own")
    anonymous(vm, "unrelated")
    assert collected(newest, mapped(task, vma.start)) == [(task, vma.start), (child, vma.start)]


def test_users_of_a_file_are_all_whose_area_covers_the_page(newest: MemoryFailure) -> None:
    """Mapped or not: whoever asked to hear early wants to hear of any loss."""
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    file = File(vm.create("data", "ext4", 4), "fd")
    users = []
    for comm, pgoff in (("maps", 0), ("covers", 1), ("beside", 2)):
        task = vm.new_task(comm)
        users.append((task, do_mmap(task.alive_mm(), 2, file=file, pgoff=pgoff, shared=True)))
    (maps, first), (covers, second), _ = users
    load(maps, first.start + 1)
    page = file.inode.mapping.pages[1]
    assert collected(newest, page) == [(maps, first.start + 1), (covers, second.start)]


def test_nobody_late_is_collected(newest: MemoryFailure) -> None:
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    child = task.fork()
    child.prctl_mce_kill(McePolicy.LATE)
    assert collected(newest, mapped(task, vma.start)) == [(task, vma.start)]


def test_the_oldest_process_comes_first_whatever_the_order_of_the_areas(newest: MemoryFailure) -> None:
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    file = File(vm.create("data", "ext4", 1), "fd")
    tasks = [vm.new_task(f"task {number}") for number in range(4)]
    for task in (tasks[2], tasks[0], tasks[3], tasks[1]):
        load(task, do_mmap(task.alive_mm(), 1, file=file, shared=True).start)
    assert [task for task, _ in collected(newest, file.inode.mapping.pages[0])] == tasks


def test_a_process_that_maps_a_page_twice_is_told_of_both_places(newest: MemoryFailure) -> None:
    """One entry per task and area; the second signal is lost while the first is pending."""
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    file = File(vm.create("data", "tmpfs", 1), "fd")
    task = vm.new_task("app")
    first, second = (do_mmap(task.alive_mm(), 1, file=file, shared=True) for _ in range(2))
    store(task, first.start, "x")
    load(task, second.start)
    assert collected(newest, mapped(task, first.start)) == [(task, first.start), (task, second.start)]
    hard_offline_page(newest, mapped(task, first.start).pfn)
    assert [info.address for info in task.pending] == [first.start << PAGE_SHIFT]


def test_processes_that_share_memory_are_each_told(newest: MemoryFailure) -> None:
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    other = task.clone_vm("other")
    assert collected(newest, mapped(task, vma.start)) == [(task, vma.start), (other, vma.start)]


def test_the_thread_that_consumed_the_error_is_told_and_not_the_leader(newest: MemoryFailure) -> None:
    vm = newest.vm
    task, vma = anonymous(vm)
    thread = task.clone_thread("worker")
    with running(vm, thread):
        assert collected(newest, mapped(task, vma.start), MF_ACTION_REQUIRED) == [(thread, vma.start)]
        assert collected(newest, mapped(task, vma.start), 0) == [], "it is late otherwise"


def test_a_process_that_has_ended_is_not_collected(newest: MemoryFailure) -> None:
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    child = task.fork()
    task.exit()
    assert collected(newest, mapped(child, vma.start)) == [(child, vma.start)]


def test_nothing_but_the_reverse_map_is_held_while_collecting(newest: MemoryFailure) -> None:
    """R1, R7: the page's own lock, its list of areas, and one page table at a time."""
    vm = newest.vm
    task, vma = anonymous(vm)
    task.prctl_mce_kill(McePolicy.EARLY)
    page = mapped(task, vma.start)
    vm.lru.add_drain_all()
    held: set[tuple[str, ...]] = set()

    class Listen:
        def choose(self, ready: object, running: object, op: object, on: object) -> object:
            held.add(tuple(lock.lock_class.name for lock in vm.paths.main.held))
            return running

    with locked(page):
        vm.paths.chooser = Listen()  # type: ignore[assignment]
        collect_procs(newest, page, 0)
        vm.paths.chooser = None
    assert held == {("folio_lock",), ("folio_lock", "anon_vma"), ("folio_lock", "anon_vma", "ptl")}


# How they are told.


def infos(task: Task) -> list[SigInfo]:
    return task.pending


def test_the_one_who_consumed_the_error_is_forced_and_others_are_asked(failure: MemoryFailure) -> None:
    task, vma = anonymous(failure.vm)
    other = task.fork("other")
    address = vma.start << PAGE_SHIFT
    with running(failure.vm, task):
        kill_procs(
            failure,
            [ToKill(task, vma.start), ToKill(other, vma.start)],
            9,
            MF_ACTION_REQUIRED,
            unmapped=True,
        )
    assert infos(task) == [SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, address, PAGE_SHIFT, forced=True)]
    assert infos(other) == [SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, address, PAGE_SHIFT)]
    assert failure.vm.log == [
        f"Memory failure: 0x9: Sending SIGBUS to {who} due to hardware memory corruption"
        for who in (task, other)
    ]


def test_without_having_consumed_it_the_current_task_is_asked_like_others(failure: MemoryFailure) -> None:
    task, vma = anonymous(failure.vm)
    with running(failure.vm, task):
        kill_procs(failure, [ToKill(task, vma.start)], 9, 0, unmapped=True)
    assert [info.code for info in infos(task)] == [SiCode.BUS_MCEERR_AO]


def test_if_unmapping_failed_6_1_kills_and_later_kernels_say_where(failure: MemoryFailure) -> None:
    """R6: whoever can still reach the page does not get the chance to, on the old kernel."""
    task, vma = anonymous(failure.vm)
    kill_procs(failure, [ToKill(task, vma.start)], 9, 0, unmapped=False)
    if failure.profile.name == "6.1":
        assert infos(task) == [SigInfo(Signal.SIGKILL)]
        assert failure.vm.log == [
            f"Memory failure: 0x9: forcibly killing {task} because of failure to unmap corrupted page"
        ]
    else:
        assert [info.code for info in infos(task)] == [SiCode.BUS_MCEERR_AO]


# Without memory for a note (R2).


def test_every_real_kernel_forgets_a_victim_it_cannot_note_down(failure: MemoryFailure) -> None:
    vm = failure.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    child = task.fork("child")
    failure.failing_allocations = 1
    hard_offline_page(failure, mapped(task, vma.start).pfn)
    assert infos(task) == []
    assert [info.code for info in infos(child)] == [SiCode.BUS_MCEERR_AO]
    assert "Memory failure: Out of memory while machine check handling" in vm.log
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    assert hit.value.info.code is SiCode.BUS_MCEERR_AR, "the page itself still stops it"


def test_what_we_owe_is_a_stronger_signal_not_silence(handlers: Callable[..., MemoryFailure]) -> None:
    """R2."""
    failure = handlers(replace(PROFILES["7.3"], forgets_victim_without_memory=False))
    failure.vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(failure.vm)
    child = task.fork("child")
    failure.failing_allocations = 1
    hard_offline_page(failure, mapped(task, vma.start).pfn)
    assert infos(task) == [SigInfo(Signal.SIGKILL)]
    assert [info.code for info in infos(child)] == [SiCode.BUS_MCEERR_AO]


@pytest.mark.parametrize("forgets", [True, False])
def test_even_without_memory_nobody_dies_for_a_clean_page(
    handlers: Callable[..., MemoryFailure], forgets: bool
) -> None:
    """R23."""
    failure = handlers(replace(PROFILES["7.3"], forgets_victim_without_memory=forgets))
    vm = failure.vm
    vm.sysctls.memory_failure_early_kill = True
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    load(task, vma.start)
    failure.failing_allocations = 1
    assert hard_offline_page(failure, mapped(task, vma.start).pfn) == 0
    assert infos(task) == []


# When.


@pytest.mark.parametrize("must_kill", [True, False])
def test_a_clean_page_hurts_nobody_unless_the_task_cannot_go_on(
    failure: MemoryFailure, must_kill: bool
) -> None:
    """R23; MF_MUST_KILL: the instruction cannot be restarted."""
    vm = failure.vm
    file = File(vm.create("data", "ext4", 1), "fd")
    task, other = vm.new_task("app"), vm.new_task("other")
    for who in (task, other):
        load(who, do_mmap(who.alive_mm(), 1, file=file, shared=True).start)
    page = mapped(task, task.alive_mm().vmas[0].start)
    with running(vm, task):
        flags = MF_ACTION_REQUIRED | (MF_MUST_KILL if must_kill else 0)
        assert failure.memory_failure(page.pfn, flags) == 0
    assert [info.code for info in infos(task)] == ([SiCode.BUS_MCEERR_AR] if must_kill else [])
    assert infos(other) == [], "it is late, and has not consumed anything"


def test_one_task_hurt_others_late(failure: MemoryFailure) -> None:
    """MADV_HWPOISON: from 6.12 on the caller has consumed the error; before, he is late like everybody."""
    task, vma = anonymous(failure.vm)
    child = task.fork("child")
    assert madvise(failure, task, vma.start) == 0
    consumed = failure.profile.name != "6.1"
    assert [info.code for info in infos(task)] == ([SiCode.BUS_MCEERR_AR] if consumed else [])
    assert infos(child) == []


def test_the_second_of_two_bad_pages_is_not_told_while_the_first_is_pending(newest: MemoryFailure) -> None:
    """SIGBUS does not queue; the poison entry tells at the next touch."""
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, vma = anonymous(vm)
    task.sigbus = "handler"
    store(task, vma.start + 1, "too")
    for vpn in (vma.start, vma.start + 1):
        hard_offline_page(newest, mapped(task, vpn).pfn)
    assert [info.address for info in task.deliver()] == [vma.start << PAGE_SHIFT]
    with pytest.raises(Signalled) as hit:
        load(task, vma.start + 1)
    assert hit.value.info.address == (vma.start + 1) << PAGE_SHIFT


def test_a_task_that_lost_two_pages_is_told_the_address_of_the_one_it_met_again(
    newest: MemoryFailure,
) -> None:
    vm = newest.vm
    task = vm.new_task("app")
    task.sigbus = "handler"
    vma = do_mmap(task.alive_mm(), 2)
    frames = []
    for vpn in (vma.start, vma.start + 1):
        store(task, vpn, "x")
        entry = task.alive_mm().entry(vpn)
        assert isinstance(entry, Pte)
        frames.append(entry.page.pfn)
        assert newest.memory_failure(entry.page.pfn, MF_SW_SIMULATED) == 0
    with running(vm, task):
        assert newest.memory_failure(frames[1], MF_ACTION_REQUIRED) == -Errno.EHWPOISON
    assert [info.address for info in task.pending] == [(vma.start + 1) << PAGE_SHIFT]


# Merged pages: by the items of the stable node, each task once.


def merged(vm: Machine, *tasks: Task) -> list[Vma]:
    """An area of one page in each task, all merged into one page."""
    areas = []
    for task in tasks:
        vma = do_mmap(task.alive_mm(), 1)
        store(task, vma.start, "same")
        madvise_mergeable(vma, on=True)
        areas.append(vma)
    vm.ksm.run()
    return areas


def early(vm: Machine, comm: str) -> Task:
    task = vm.new_task(comm)
    task.prctl_mce_kill(McePolicy.EARLY)
    return task


def test_users_of_a_merged_page_are_found_through_the_stable_node(newest: MemoryFailure) -> None:
    tasks = [early(newest.vm, name) for name in "abc"]
    areas = merged(newest.vm, *tasks)
    found = collected(newest, mapped(tasks[0], areas[0].start))
    assert found == [(task, vma.start) for task, vma in zip(tasks, areas, strict=True)]


def test_a_task_is_noted_once_for_a_merged_page(newest: MemoryFailure) -> None:
    task = early(newest.vm, "app")
    areas = merged(newest.vm, task, task)
    assert collected(newest, mapped(task, areas[0].start)) == [(task, areas[1].start)]


def test_a_child_that_has_its_own_copy_is_noted_for_the_merged_page(newest: MemoryFailure) -> None:
    """The weakness merged-innocent: the list of areas is asked, the page table is not."""
    parent, other = early(newest.vm, "parent"), early(newest.vm, "other")
    areas = merged(newest.vm, parent, other)
    child = parent.fork("child")
    store(child, areas[0].start, "own")
    found = collected(newest, mapped(parent, areas[0].start))
    assert [task for task, _vpn in found] == [parent, other, child]


def test_a_merged_page_is_left_alone_up_to_6_3(failure: MemoryFailure, profile: Profile) -> None:
    tasks = [early(failure.vm, name) for name in "ab"]
    areas = merged(failure.vm, *tasks)
    page = mapped(tasks[0], areas[0].start)
    returned = hard_offline_page(failure, page.pfn)
    assert returned == (0 if profile.handles_merged_pages else -Errno.EBUSY)
    assert page.mapped is not profile.handles_merged_pages
    assert [bool(task.pending) for task in tasks] == [profile.handles_merged_pages] * 2


def test_without_memory_for_a_note_a_user_of_a_merged_page_is_forgotten_too(newest: MemoryFailure) -> None:
    tasks = [early(newest.vm, name) for name in "ab"]
    areas = merged(newest.vm, *tasks)
    newest.failing_allocations = 1
    found = collected(newest, mapped(tasks[0], areas[0].start))
    assert [task for task, _vpn in found] == [tasks[0]]
