"""Known weaknesses of real kernels: each breaks a promise, has a name, and never passes for a pass.

A scenario lists the ones it shows; a run that breaks a promise otherwise, or that no longer shows a
weakness it lists, fails.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deviation:
    """``promise`` is the number of the promise that it breaks (docs/scope.md)."""

    promise: int
    text: str
    source: str


DEVIATIONS: dict[str, Deviation] = {
    "stale-read": Deviation(
        2,
        "after a dirty page of a file was dropped, read(2) gives the old data of the disk without an error; "
        "only fsync tells",
        "mm/memory-failure.c me_pagecache_dirty()",
    ),
    "pinned-anonymous": Deviation(
        4,
        "an anonymous page is called Recovered although a pin still reaches it: nobody counts its references",
        "mm/memory-failure.c me_pagecache_clean(), since 5.14",
    ),
    "whole-huge-page": Deviation(
        2,
        "one bad frame takes a whole huge page (hugetlb) away from its users, with all that was good in it",
        "mm/memory-failure.c try_memory_failure_hugetlb(): there is one entry for all of it",
    ),
    "note-taken": Deviation(
        2,
        "a parent that takes a huge page back from its children (hugetlb) clears whatever they have there, "
        "also the note of a page of their own that was lost: they get an empty one, or a SIGBUS that names "
        "no error",
        "mm/hugetlb.c unmap_ref_private(), __unmap_hugepage_range(); seen on 6.1 to 7.3",
    ),
    "forgotten-victim": Deviation(
        2,
        "without memory for a note about a victim, the task is not told until it touches the page",
        "mm/memory-failure.c add_to_kill()",
    ),
    "device-reads-on": Deviation(
        1,
        "a device goes on reading the bad memory: by a pin, or because a page that could not be dropped is "
        "written to the disk",
        "mm/gup.c, mm/page-writeback.c; the handler cannot stop it",
    ),
    "unwritten-clean": Deviation(
        2,
        "a page whose write failed counts as clean: it is dropped, and the error was told before the loss",
        "mm/page-writeback.c, folio_end_writeback() after a failed write",
    ),
    "touched-too-early": Deviation(
        3,
        "a task that touches a page between mark and removal is hit, though the contents exist elsewhere",
        "mm/memory.c do_swap_page(), __do_fault(): the mark is all they look at",
    ),
    "isolated-mlocked": Deviation(
        4,
        "an mlocked page that is off the lists for a moment is not unmapped, and yet called Recovered",
        "mm/memory-failure.c memory_failure(), neither on the LRU nor under writeback",
    ),
    "bad-page-allocated": Deviation(
        1,
        "a free page is handed out between being marked and being taken off the free lists",
        "mm/page_alloc.c is_check_pages_enabled(), 6.3 and later",
    ),
    "mark-lost-offline": Deviation(
        1,
        "a block of memory that was taken out and brought back has forgotten which of its frames are bad",
        "mm/memory_hotplug.c online_pages(), before 6.2",
    ),
    "unpoison-under-owner": Deviation(
        5,
        "a page whose error was ignored is made good again, and freed under its owner: his only reference is "
        "taken for the handler's",
        "mm/memory-failure.c unpoison_memory()",
    ),
    "split-unmaps-file": Deviation(
        2,
        "a large folio of a file is unmapped when it is split, before its users are looked for: those who "
        "asked to be told early hear nothing, and what they touch next is what the disk has",
        "mm/huge_memory.c unmap_folio(), called from memory_failure(); seen on 6.1 to 7.3",
    ),
    "split-poisons-entry": Deviation(
        2,
        "who maps an anonymous large folio page by page gets the poison entry when it is split, before the "
        "users of the bad page are looked for: those who asked to be told early hear nothing",
        "mm/rmap.c try_to_migrate_one(), called by split_huge_page_to_list(); seen on 6.1 to 7.3",
    ),
    "unsplit-untold": Deviation(
        2,
        "a large folio of a file that cannot be split stays as it was: fsync says ok, read(2) gives the "
        "bytes of the bad frame, and they are written to the disk",
        "mm/memory-failure.c try_to_split_thp_page()",
    ),
    "merged-not-told": Deviation(
        2,
        "an error on a page merged by KSM is not handled: it stays mapped, and nobody is told early",
        "mm/memory-failure.c hwpoison_user_mappings(), up to 6.3",
    ),
    "merged-told-once": Deviation(
        2,
        "a task that maps a merged page at several addresses is told of one of them",
        "mm/ksm.c collect_procs_ksm(), task_in_to_kill_list()",
    ),
    "merged-innocent": Deviation(
        3,
        "a task that has a copy of its own of a merged page is told that it lost it: nobody looks",
        "mm/ksm.c collect_procs_ksm()",
    ),
    "merged-again": Deviation(
        1,
        "a bad merged page stays in the stable tree, and more pages are merged into it",
        "mm/ksm.c stable_tree_search()",
    ),
    "copy-holder-told": Deviation(
        3,
        "a task that has a private copy of a page of a file is told that the file's page is lost",
        "mm/memory-failure.c collect_procs_file()",
    ),
    "device-still-mapped": Deviation(
        4,
        "an error in persistent memory is called Recovered, but only who asked to be told early is told, and "
        "whoever touches the page maps the bad memory again, and whoever has pinned it goes on: nobody stops "
        "him",
        "mm/memory-failure.c unmap_and_kill(); fs/dax.c and drivers/dax/device.c look at no mark",
    ),
    "device-not-touched": Deviation(
        2,
        "who asked to be told early and maps a bad page of persistent memory that he has not touched yet is "
        "not told",
        "mm/memory-failure.c __add_to_kill(): the size of what is lost is that of the entry there",
    ),
    "split-poisons-swapped": Deviation(
        3,
        "a large folio that is mapped and in the swap cache is split for a bad page, which leaves a poison "
        "entry: who touches it is hit, though swap has the contents",
        "mm/rmap.c try_to_migrate_one(), called by split_huge_page_to_list(); seen on 6.12 to 7.3",
    ),
    "mapped-with-folio": Deviation(
        1,
        "a large folio that waits in the swap cache cannot be split for a bad page; who then touches another "
        "page of it gets all of it mapped, the bad one too: nobody looks",
        "mm/memory.c do_swap_page(); seen on 6.12 to 7.3",
    ),
    "swapin-error-unnamed": Deviation(
        2,
        "after swapoff, the owner of a page lost in the swap cache gets a SIGBUS that names no memory error",
        "mm/swapfile.c unuse_pte(), 6.1",
    ),
}
