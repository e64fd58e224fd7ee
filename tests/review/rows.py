"""A row for each remark R of the review that a run can show: the posting's way in place of ours."""

from __future__ import annotations

import re
from dataclasses import replace

from hwpoison.failure.profiles import NEWEST, PROFILES, PROPOSED
from hwpoison.mm.lockorder import CHAINS, lock_classes
from hwpoison.mm.pte import Pte
from hwpoison.mm.truncate import give_up_clean_folio
from hwpoison.scenario.model import Model

from ..undone import Undone
from . import ways

HANDLER = "hwpoison.failure.handler"
KILL = "hwpoison.failure.kill"
USERS = "hwpoison.failure.user_mappings"
TRUNCATE = "hwpoison.mm.truncate"
SWAP = "hwpoison.mm.swap"
LOST = "hwpoison.mm.lost"

FILE = """
    task app
    file f fs=ext4
    open fd file=f
    map m task=app file=fd shared=yes
"""
COPY = """
    task app
    file f fs=ext4 pages=2
    open fd file=f
    map m task=app file=fd pages=2
    load m:1
    store m:0 data=copy
"""
LOCKS = "hwpoison.mm.locks:LOCK_CLASSES"
TASKLIST = ("hwpoison.mm.machine:Machine.__init__", ways.with_tasklist)
BORDERS = ("hwpoison.mm.rmap:unlink_anon_vmas", ways.unlinks_under_the_files_list)

CONSEQUENCES = re.compile(
    "recovery action for|Sending SIGBUS|forcibly killing|dropped without side effects|keeping poisoned page"
    "|still referenced|failed to unmap|already hardware poisoned|memory outside kernel control"
)
"""A line of the handler names one of these, or nobody can do anything about it."""


def idle_words(model: Model) -> list[str]:
    """Lines of the log that name neither who is hurt nor what follows."""
    lines = [line for line in model.vm.log if line.startswith("Memory failure:")]
    return [line for line in lines if not CONSEQUENCES.search(line)]


def survivors(model: Model) -> list[str]:
    """Tasks that live and map a bad page that could not be taken away."""
    pages = [model.vm.zone.page(census.pfn) for census in model.censuses]
    tables = [
        (task, table) for task in model.vm.tasks.values() if task.mm for table in task.mm.tables.values()
    ]
    return [
        f"{task} goes on, and maps the bad {page}"
        for page in pages
        for task, table in tables
        if any(isinstance(entry, Pte) and entry.page is page for entry in table.entries.values())
    ]


def unheard(model: Model) -> list[str]:
    """The database asked after a page was lost, and was not told."""
    lost = any(c.mapping and c.mapping.host.blocks[c.index] != c.content for c in model.censuses)
    told = any(seen.who == "db" and seen.value.get("errno") == "EIO" for seen in model.seen)
    return ["the fsync(2) of the database says all is well"] if lost and not told else []


ROWS = (
    Undone(
        "R1",
        "victims are marked in their tasks, under the lock of all tasks, until they are signalled",
        f"{FILE}load m:0\ninject m:0 via=sysfs",
        ((f"{USERS}:hwpoison_user_mappings", ways.unmaps_with_all_tasks_stopped),),
        breaks="promise 6: LockOrderError: .* takes i_mmap_rwsem.f. while it holds tasklist_lock",
        setting=((LOCKS, lock_classes((*CHAINS, ways.WRITTEN))), TASKLIST),
    ),
    Undone(
        "R2",
        "a victim for which there is no memory is forgotten",
        """
        task app sigbus=handler policy=early
        map m task=app
        store m:0 data=x
        nomemory handler times=1
        inject m:0 via=sysfs
        """,
        ((f"{KILL}:_forgets", ways.forgets),),
        breaks="promise 2: app:101 .* asked to be told early and was not",
        kernel=replace(NEWEST, forgets_victim_without_memory=False),
    ),
    Undone(
        "R3",
        "a line in the log for each area in which the page has no address",
        """
        task app
        map m task=app pages=2
        store m:0 data=x
        fork app as=child
        unmap m task=child
        file f fs=ext4 pages=8
        open fd file=f
        read fd:7
        map low task=child file=fd first=0 pages=2 shared=yes
        map high task=app file=fd first=6 pages=2 shared=yes
        load high:1
        inject high:1 via=sysfs
        """,
        ((f"{KILL}:collect_procs", ways.tells_of_each_area),),
        breaks="remark: Memory failure: no address",
        also=idle_words,
    ),
    Undone(
        "R6",
        "when the page could not be unmapped, the victim's handler is reset, and then it gets SIGBUS",
        """
        task app sigbus=handler policy=early
        map m task=app
        store m:0 data=x
        together
          app: sigbus app action=handler
          mce: inject m:0 via=sysfs
        end
        """,
        ((f"{KILL}:kill_procs", ways.resets_the_handler),),
        breaks="remark: app:101 goes on, and maps the bad page",
        kernel=PROFILES["6.1"],
        setting=((f"{USERS}:try_to_unmap", ways.leaves_it_mapped),),
        also=survivors,
    ),
    Undone(
        "R7",
        "the lock of all tasks outside the list of areas for files, and inside it for anonymous pages",
        f"{COPY}together\n anon: inject m:0 via=sysfs\n file: inject m:1 via=sysfs\n cut: unmap m\nend",
        (
            (f"{HANDLER}:Lock", ways.Unserialised),
            (f"{KILL}:collect_procs", ways.collects_file_users_under_tasklist),
            (f"{KILL}:task_early_kill", ways.asks_task_under_tasklist),
        ),
        breaks="deadlock: .* waits for tasklist_lock; .* waits for i_mmap_rwsem.f.; .* waits for anon_vma",
        strategy="random",
        setting=((LOCKS, ways.UNWRITTEN), TASKLIST, BORDERS),
    ),
    Undone(
        "R8",
        "a dirty page that stays in the swap cache as a trap is called Recovered",
        """
        task app
        map m task=app
        store m:0 data=x
        swapout m:0
        load m:0
        store m:0 data=y
        inject m:0 via=sysfs
        """,
        ((f"{SWAP}:give_up_dirty_swapcache", ways.claims_recovered),),
        breaks="promise 4: .* is called Recovered, but it is still in the swap cache",
    ),
    Undone(
        "R9",
        "nobody looks who still holds the page",
        f"{FILE}load m:0\nhold m:0 as=reader\ninject m:0 via=sysfs",
        ((f"{TRUNCATE}:give_up_clean_folio", ways.asks_nobody_who_holds_it),),
        breaks="promise 4: .* is called Recovered, but somebody holds a reference",
    ),
    Undone(
        "R10",
        "the page leaves the cache by the raw primitive, if it is not mapped",
        f"{FILE}load m:0\ntogether\n fault: load m:0\n mce: inject m:0 via=sysfs\nend",
        ((f"{TRUNCATE}:give_up_clean_folio", ways.removes_raw_unlocked),),
        breaks="promise 3: .* exists elsewhere",
    ),
    Undone(
        "R11",
        "the handler does not wait for writeback once it has the lock",
        """
        file f fs=ext4
        open fd file=f
        write fd:0 data=x
        together
          fsync: fsync fd
          mce:   inject f:0 via=sysfs
        end
        """,
        ((f"{HANDLER}:folio_wait_writeback", ways.goes_on),),
        breaks="assertion: KernelBug: .* is removed from .* under writeback",
        known=("stale-read", "device-reads-on"),
    ),
    Undone(
        "R12",
        "its own removal from the page cache, something like truncate",
        f"""{FILE}store m:0 data=x
        inject m:0 via=sysfs
          => return m code=0
          => verdict type="dirty LRU page" result=Recovered
        """,
        ((f"{TRUNCATE}:generic_error_remove_folio", ways.open_codes_truncation),),
        breaks="not expected on 7.3: .* result=Failed",
        known=("stale-read",),
    ),
    Undone(
        "R13",
        "a dirty page is dropped as a clean one",
        f"{FILE}store m:0 data=x\ninject m:0 via=sysfs",
        ((f"{TRUNCATE}:give_up_dirty_folio", give_up_clean_folio),),
        breaks="promise 2: fd of f will not hear that 'x' was lost",
        known=("stale-read",),
    ),
    Undone(
        "R14",
        "lost contents are reported as a failed device",
        """
        file f fs=ext4
        open fd file=f
        write fd:0 data=x
        inject f:0 via=sysfs
          => [proposed] return f code=0
          => [proposed] verdict type="dirty LRU page" result=Recovered
        fsync fd
          => [proposed] errno=EHWPOISON
        """,
        ((f"{LOST}:lost_error", ways.says_eio),),
        breaks="not seen on proposed: .*EHWPOISON",
        kernel=PROPOSED,
    ),
    Undone(
        "R15",
        "the first who asks clears the error for all",
        """
        file f fs=ext4
        open db file=f
        open other file=f
        write db:0 data=x
        together
          other: fsync other
          mce:   inject f:0 via=sysfs
        end
        fsync db
        """,
        (("hwpoison.mm.filemap:file_check_and_advance_wb_err", ways.tells_the_first_who_asks),),
        breaks="remark: the fsync.2. of the database says all is well",
        known=("stale-read", "device-reads-on"),
        also=unheard,
    ),
    Undone(
        "R16",
        "nobody can ask what was lost, nor say that he knows",
        """
        file f fs=ext4
        open fd file=f
        write fd:0 data=x
        inject f:0 via=sysfs
          => [proposed] return f code=0
          => [proposed] verdict type="dirty LRU page" result=Recovered
        lost fd
          => [proposed] call fd data=0
        acknowledge fd:0
          => [proposed] call fd data=ok
        read fd:0
          => [proposed] call fd data=f:0:old
        """,
        ((f"{LOST}:_known", ways.no_such_call),),
        breaks="not expected on proposed: .*EINVAL",
        kernel=PROPOSED,
    ),
    Undone(
        "R17",
        "a page leaves the swap cache while it is written there",
        """
        task app
        map m task=app
        store m:0 data=x
        together
          reclaim: swapout m:0
          mce:     inject m:0 via=sysfs
        end
        """,
        (
            (f"{HANDLER}:folio_wait_writeback", ways.goes_on),
            (f"{SWAP}:give_up_dirty_swapcache", ways.deletes_dirty),
        ),
        breaks="assertion: KernelBug: .* leaves the swap cache under writeback",
        known=("device-reads-on",),
    ),
    Undone(
        "R20",
        "a weakness is mended, and still listed",
        """
        task app
        map m task=app
        store m:0 data=x
        pin m:0 as=device
        inject m:0 via=sysfs
        """,
        ((f"{TRUNCATE}:give_up_clean_folio", ways.counts_pins),),
        breaks="the deviation 'pinned-anonymous' no longer shows on 7.3",
        known=("pinned-anonymous",),
    ),
    Undone(
        "R21",
        "the kernel goes on after it has read bad memory",
        """
        file f fs=ext4
        open fd file=f
        read fd:0
        break f:0
        read fd:0
          => panic
        """,
        (("hwpoison.mm.machine:Machine.kernel_reads", ways.reads_on),),
        breaks="promise 1: the kernel read the bad page .*, without a machine check",
    ),
    Undone(
        "R22",
        "a bad free page is marked, and left to the allocator",
        """
        task app
        map m task=app
        frame spare kind=free
        together
          app: store m:0 data=x
          mce: inject spare via=sysfs
        end
        """,
        (("hwpoison.mm.page_alloc:Zone.take_page_off_buddy", ways.left_to_the_allocator),),
        breaks="promise 1: the bad page",
        known=("bad-page-allocated",),
    ),
    Undone(
        "R23",
        "users of a clean page are signalled, too",
        f"{FILE}prctl app policy=early\nload m:0\ninject m:0 via=sysfs",
        ((f"{USERS}:hwpoison_user_mappings", ways.tells_everybody),),
        breaks="promise 3: .* exists elsewhere",
    ),
)
