"""What the VM touches without the lock that its changes are made under, and how the kernel does that.

The explorer holds every access to it (explore/dataraces.py): what two paths touch in any order stands here,
or a lock of both orders them. An entry about a container is about its entries, too.
"""

from __future__ import annotations

ATOMIC = "atomic_t; who only looks takes what he sees for a guess (include/linux/page_ref.h, mm.h)"
RCU = "changed under its lock, looked through under RCU; what is found is checked again under a reference"
ENTRY = "ptep_get() reads it once, without ptl: a fault and GUP-fast check it again (mm/memory.c, mm/gup.c)"
BATCH = "each CPU has its own, and only a worker on it empties it for others (mm/swap.c lru_add_drain_all())"
GUESS = "PageBuddy() without zone->lock is a guess, checked under it (mm/page_alloc.c is_free_buddy_page())"
TASKS = "the handler goes through all tasks under RCU, and reads what they are as it is (collect_procs())"
TOUCHED = "the processor sets it when it uses the entry, and ptl does not stop it"
HARDWARE = "memory goes bad, and the processor notices, whatever software does"
LOCKLESS: dict[str, str] = {
    "Page.refcount": ATOMIC,
    "Page.mapcount": ATOMIC,
    "Page.large_mapcount": ATOMIC,
    "Page.entire_mapcount": ATOMIC,
    "Page.pincount": ATOMIC,
    "Page.content": "what processes do to memory that they share is theirs to order",
    "Page.bad": HARDWARE,
    "Page.head": "READ_ONCE() in compound_head(), WRITE_ONCE() in set_compound_head() (page-flags.h)",
    "Page.order": "a guess while nobody holds the folio, which is asked again then (folio_try_get())",
    "Page.mapping": "READ_ONCE() in folio_mapping() (mm/util.c); it is checked again under the folio lock",
    "Page.exclusive": "cleared before GUP-fast reads the entry again; it has barriers for that (rmap.h)",
    "Page.written_back": "who waits for PG_writeback looks at the flag again (mm/filemap.c folio_wait_bit())",
    "Machine.hardware": HARDWARE,
    "PageTable.entries": ENTRY,
    "Pte.page": ENTRY,
    "Pte.writable": ENTRY,
    "PageTable.huge": ENTRY,
    "PageTable.deposited": "pmd_none() reads once; asked again under the lock (mm/memory.c __pte_alloc())",
    "Pte.dirty": TOUCHED,
    "Pte.young": TOUCHED,
    "Pmd.dirty": TOUCHED,
    "Pmd.young": TOUCHED,
    "Pmd.writable": ENTRY,
    "Mm.hugetlb": ENTRY,
    "Mm.vmas": "looked up under RCU (mm/mmap_lock.c lock_vma_under_rcu()), and again under mmap_lock",
    "Hstate.nr": "read as it is for /sys (mm/hugetlb_sysfs.c nr_hugepages_show_common())",
    "HugeState.migratable": "a flag of the page, changed atomically (hugetlb.h SetHPageMigratable())",
    "Task.comm": "may be seen half changed (include/linux/sched.h get_task_comm())",
    "Task.exited": "SIGNAL_GROUP_EXIT is looked at without siglock; who misses it meets TIF_SIGPENDING",
    "Task.flags": TASKS,
    "Task.mm": TASKS,
    "Task.threads": TASKS,
    "Machine.tasks": TASKS,
    "Mm.users": TASKS,
    "Mm.inside": "mm_users, atomic_t (include/linux/sched/mm.h)",
    "Mm.group": "mem_cgroup_from_task() under RCU (mm/memcontrol.c)",
    "Machine._last_pid": "pidmap_lock, in which nothing else is done (kernel/pid.c alloc_pid())",
    "Vma.locked": "vm_flags_reset_once(): WRITE_ONCE() for rmap, which has no mmap_lock (mm/mlock.c)",
    "Lru.batches": BATCH,
    "Lru.mlock_batches": BATCH,
    "Lru.lazyfree_batches": BATCH,
    "Zone.pcp": "drain_all_pages() looks at pcp->count without pcp->lock, which empties it (mm/page_alloc.c)",
    "Zone.pcp_blocks": "as Zone.pcp",
    "Zone.pcp_disabled": "pcp->high and pcp->batch are written once, and read so (pageset_update())",
    "Zone.free_area": GUESS,
    "Zone.isolated": GUESS,
    "Zone.bad_inside": "the model's own: it keeps such frames for last, as the size of a real machine does",
    "Zone.pages": "the model's own: struct pages are made when somebody looks; a kernel has them all",
    "Zone.offline": "pfn_to_online_page() asks without the hotplug lock: who asks may be late",
    "Inode.size": "i_size_read() (include/linux/fs.h): who has no i_rwsem looks again under the folio lock",
    "Counters.poisoned": "num_poisoned_pages, atomic_long_t (mm/memory-failure.c)",
    "Counters.results": "counted under mf_mutex, read as they are for /sys (mm/memory-failure.c)",
    "AddressSpace.pages": RCU,
    "AddressSpace.dirty": RCU,
    "SwapArea.cache": RCU,
    "MemoryFailure.events": "the model's own record: nobody decides by it",
}
"""As "Class.field" of the model → how, or why that is right."""
