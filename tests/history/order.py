"""Bugs of locks, and of what is looked at without one."""

from __future__ import annotations

from typing import Any

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import PageType
from hwpoison.abi.signals import Errno
from hwpoison.failure import handler
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.kill import collect_procs, kill_procs
from hwpoison.mm.hugetlb import Hugetlb
from hwpoison.mm.inode import AddressSpace, Inode
from hwpoison.mm.lockorder import CHAINS, lock_classes
from hwpoison.mm.locks import KernelBug, RwSem
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import Page, folio_trylock, folio_unlock, put_page
from hwpoison.mm.rmap import AnonVma, rmap_sem, try_to_unmap
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import evict_inode
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import Step

from .bug import SMALL_HUGE_PAGES, Bug

_init, _fork, _mapping = MemoryFailure.__init__, Task.fork, AddressSpace.__init__
_dissolve, _page_handle_poison = Hugetlb.dissolve_free_huge_page, Hugetlb.page_handle_poison

CLASSES = lock_classes(
    (
        *CHAINS,
        ("anon_vma", "tasklist_lock", "ptl"),
        ("tasklist_lock", "siglock"),
        ("mf_mutex", "cpu_hotplug_lock", "pcp_batch_high_lock"),
    )
)
"""With two locks that the model does without: of the list of tasks, and of processors coming and going."""


def with_more_locks(failure: MemoryFailure, vm: Machine, *arguments: Any) -> None:
    _init(failure, vm, *arguments)
    vars(vm).update(
        tasklist_lock=RwSem(vm.paths, "tasklist_lock"), cpu_hotplug_lock=RwSem(vm.paths, "cpu_hotplug_lock")
    )


MORE_LOCKS = (
    ("hwpoison.mm.locks:LOCK_CLASSES", CLASSES),
    ("hwpoison.mm.page:Page.lock_class", CLASSES["folio_lock"]),
    ("hwpoison.failure.handler:MemoryFailure.__init__", with_more_locks),
)


class Together:
    """Semaphores that are read together, the first one first."""

    def __init__(self, *semaphores: RwSem) -> None:
        self.semaphores = semaphores

    def read(self) -> Together:
        return self

    def __enter__(self) -> None:
        for sem in self.semaphores:
            sem.down_read()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for sem in reversed(self.semaphores if kind is None else ()):
            sem.up_read()


def tasklist_of(mapping: AddressSpace | AnonVma) -> RwSem:
    vm = mapping.vmas[0].mm.vm if isinstance(mapping, AnonVma) else mapping.vm
    lock: RwSem = vars(vm)["tasklist_lock"]
    return lock


def tasklist_inside(mapping: AddressSpace | AnonVma) -> Together:
    return Together(rmap_sem(mapping), tasklist_of(mapping))


def tasklist_outside(mapping: AddressSpace | AnonVma) -> Together:
    return Together(tasklist_of(mapping), rmap_sem(mapping))


FORKED = """
    task app policy=early
    map m task=app
    store m:0 data=x
    fork app as=other
    prctl other policy=late
"""
B52 = Bug(
    "B52",
    "a lock for which one sleeps is taken under the lock of the list of tasks",
    f"""{FORKED}
    inject m:0 via=sysfs
    """,
    (("hwpoison.failure.kill:rmap_sem", tasklist_outside),),
    "promise 6: LockOrderError: .* takes anon_vma while it holds tasklist_lock",
    setting=(*MORE_LOCKS, ("hwpoison.failure.kill:rmap_sem", tasklist_inside)),
    fix="~9b679320a5fb (3.1)",
)


def fork_on_list(task: Task, comm: str | None = None) -> Task:
    """fork(2) ends with the child in the list of tasks."""
    child = _fork(task, comm)
    lock: RwSem = vars(task.vm)["tasklist_lock"]
    if not lock.down_write_trylock():
        task.vm.printk(f"{task} spins: somebody reads the list of tasks")
        lock.down_write()
    lock.up_write()
    return child


B53 = Bug(
    "B53",
    "fork spins until the handler has been through all tasks",
    f"""{FORKED}
    together
      fork: fork other as=third
      mce:  inject m:0 via=sysfs
    end
    """,
    (("hwpoison.failure.kill:rmap_sem", tasklist_inside),),
    "remark: .* spins",
    setting=(*MORE_LOCKS, ("hwpoison.mm.task:Task.fork", fork_on_list)),
    also=lambda model: [line for line in model.vm.log if "spins" in line],
    fix="~d256d1cd8da1 (6.6)",
    note="that it waits at all; how long, a model without time cannot say",
)


def dissolve_with_key(pools: Hugetlb, page: Page) -> int:
    """A huge page less may switch a static key, for which no processor may come or go."""
    with vars(pools.vm)["cpu_hotplug_lock"].read():
        return _dissolve(pools, page)


def handle_after_drain(pools: Hugetlb, page: Page) -> bool:
    """The lists of free pages are drained, not switched off."""
    if pools.dissolve_free_huge_page(page):
        return False
    pools.vm.zone.drain_all_pages()
    return pools.vm.zone.take_page_off_buddy(page)


def processor_comes(model: Model, _step: Step) -> None:
    """A processor comes up, and its lists of free pages are made (zone_pcp_update())."""
    with vars(model.vm)["cpu_hotplug_lock"].write(), model.vm.zone.pcp_batch_high_lock:
        pass


B54 = Bug(
    "B54",
    "a huge page is dissolved with the lists of free pages off, while a processor comes up",
    """
    hugepages 2M pages=1
    frame h kind=hugepage
    together
      cpu: counters all
      mce: inject h:1 via=sysfs
    end
    """,
    (("hwpoison.mm.hugetlb:Hugetlb.page_handle_poison", _page_handle_poison),),
    "lock order: .* takes cpu_hotplug_lock while it holds pcp_batch_high_lock",
    setting=(
        *SMALL_HUGE_PAGES,
        *MORE_LOCKS,
        ("hwpoison.mm.hugetlb:Hugetlb.dissolve_free_huge_page", dissolve_with_key),
        ("hwpoison.mm.hugetlb:Hugetlb.page_handle_poison", handle_after_drain),
        ("hwpoison.scenario.verbs_errors:ErrorVerbs.do_counters", processor_comes),
    ),
    fix="1983184c22dd (6.9)",
    note="with the lock of then; 7.3 switches the lists off again, and needs no key",
)


def unmap_small(page: Page, flags: int) -> None:
    if page.head.entire_mapcount:
        raise KernelBug(f"VM_BUG_ON: an entry maps all of {page.head}")
    try_to_unmap(page, flags)


def reclaim_any(page: Page, *, drop: bool = True, whole: bool = False) -> bool:
    """A bad page is unmapped by whoever meets it, however large its folio is."""
    folio, handler = page.head, page.vm.handler
    bad = any(part.flags & pg.HWPOISON for part in folio.pages())
    if not folio.order or not bad or handler is None or not folio_trylock(folio):
        return reclaim_folio(page, drop=drop, whole=whole)
    handler.unmap_poisoned(folio)
    folio_unlock(folio)
    return False


B49 = Bug(
    "B49",
    "reclaim meets a bad huge page that could not be split, and the kernel stops",
    """
    task app
    map m task=app pages=512 huge=yes
    store m:0 data=x
    fork app as=other
    hold m:0 as=h
    inject m:0 via=sysfs
      => return m code=-EHWPOISON
      => verdict type="unsplit thp" result=Failed
    swapout m:0
    """,
    (("hwpoison.mm.vmscan:reclaim_folio", reclaim_any),),
    "promise 6: KernelBug: VM_BUG_ON",
    frames=2048,
    setting=(("hwpoison.mm.rmap:try_to_unmap", unmap_small),),
    fix="~9f1e8cd0b7c4, d5f416c7c367 (6.17)",
    note="the model's own unmapping can do it; the kernel's assertion stands in its way",
)


def mapping_lives(mapping: AddressSpace, *arguments: Any) -> None:
    _mapping(mapping, *arguments)
    vars(mapping)["ended"] = set()


def evict_for_good(inode: Inode) -> None:
    evict_inode(inode)
    vars(inode.mapping)["ended"].add(True)


class Living(Together):
    """The semaphore of a file that must still be there when it is taken."""

    def __init__(self, mapping: AddressSpace | AnonVma) -> None:
        super().__init__(rmap_sem(mapping))
        self.mapping = mapping

    def __enter__(self) -> None:
        super().__enter__()
        if vars(self.mapping).get("ended"):
            raise KernelBug("use after free: the file of this mapping has ended")


def split_unlocked(failure: MemoryFailure, page: Page, flags: int) -> int | None:
    """When the folio was not split its lock is given back, and then its users are looked for."""
    page.head.has_hwpoisoned = True
    reason = handler.try_to_split_thp_page(page)
    if reason is None:
        return None
    kill_procs(failure, collect_procs(failure, page, flags), page.pfn, flags, unmapped=True)
    put_page(page)
    failure.action_result(page.pfn, PageType.UNSPLIT_THP, failure.profile.unsplit_thp, reason=reason)
    return -Errno.EHWPOISON


B69 = Bug(
    "B69",
    "the users of a folio that was not split are looked for in a file that may have ended",
    """
    task app
    map m task=app pages=512 huge=yes shared=yes
    store m:0 data=x
    hold m:0 as=h
    together
      exit: exit app
      mce:  inject m:5 via=sysfs
    end
    """,
    (("hwpoison.failure.handler:MemoryFailure._split", split_unlocked),),
    "assertion: KernelBug: use after free",
    frames=2048,
    setting=(
        ("hwpoison.mm.inode:AddressSpace.__init__", mapping_lives),
        ("hwpoison.mm.truncate:evict_inode", evict_for_good),
        ("hwpoison.failure.kill:rmap_sem", Living),
    ),
    fix="between 6.12 and 7.2",
    note="memory that is given back can be told from other memory here, by a mark on the mapping",
)

ROWS = (B49, B52, B53, B54, B69)
