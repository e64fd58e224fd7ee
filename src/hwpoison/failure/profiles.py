"""What differs between kernels: one frozen Profile each, the newest as the straight path.

Every field says where the difference was seen. "S 6.12" means: in the source of that version. Nothing
compares version numbers; code asks the field that it means.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hwpoison.abi.problems import unknown_name
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno
from hwpoison.mm.machine import Traits

from .states import HUGE, LRU_STATES, RESERVED, SLAB, UNKNOWN, PageState, me_unknown_failed


@dataclass(frozen=True, slots=True)
class Profile:
    """One kernel's memory_failure()."""

    name: str
    states: tuple[PageState, ...]
    traits: Traits = field(default_factory=Traits)

    refuses_kernel_pages: bool = True
    """get_any_page() turns away pages known to be the kernel's own before it takes a reference, as
    "reserved kernel page"; S 7.3. Before, they end as unhandlable, or in the table's reserved row."""

    checks_counted_pages: bool = True
    """Pages that come with a reference (madvise) are classified as well; S 7.2. Before, they pass."""

    refuses_slab: bool = True
    """HWPoisonHandlable() tests for slab pages first; S 6.12."""

    asks_drivers: bool = True
    """A frame without struct page gets a verdict, and drivers may say whose it is; S 7.2. Before, one line
    and -ENXIO."""

    not_handlable: PageType = PageType.GET_HWPOISON
    """The type for a page of which no reference could be had; S 6.12. 6.1 says "unknown page"."""

    reports_already_poisoned: bool = True
    """An error on a page known to be bad gets a verdict line; S 6.12. Before, "already hardware poisoned"."""

    unsplit_thp: MfResult = MfResult.FAILED
    """A large folio that could not be split: Failed, -EHWPOISON, and its users are killed; S 6.12. 6.1 says
    Ignored, -EBUSY, and tells nobody."""

    filters_before_split: bool = True
    """The injection filter is asked before a large folio is split; S 6.12. 6.1 has split it by then."""

    unmap_failed: MfResult = MfResult.FAILED
    """The result when user mappings could not be removed; S 6.12. 6.1 says Ignored."""

    handles_merged_pages: bool = True
    """hwpoison_user_mappings() unmaps pages merged by KSM and collects their users; S 6.6. Before, "can't
    handle KSM pages.", and the page stays mapped."""

    mapcount_word: str = "folio mapcount"
    """What the line about that calls the count of mappings; S 6.12. 6.1 says "mapcount"."""

    folio_word: str = "folio"
    """What the line about a mapping that could not be locked calls the huge page; S 6.12. 6.1 says "page"."""

    kills_when_not_unmapped: bool = False
    """kill_procs() sends SIGKILL when unmapping failed; S 6.1. From 6.12 on SIGBUS."""

    madvise_is_consumed: bool = True
    """MADV_HWPOISON counts as an error the caller has consumed (MF_ACTION_REQUIRED); S 6.12."""

    node_counters: bool = True
    """/sys/devices/system/node/node*/memory_failure exists; S 6.6."""

    soft_offline_switch: bool = True
    """/proc/sys/vm/enable_soft_offline exists; S 6.12. 6.1 cannot be told to leave pages where they are."""

    soft_offline_prefix: str = "Soft offline"
    """How soft offline begins its lines in the log; S 6.12. 6.1 says "soft offline"."""

    unpoison_no_page: Errno = Errno.EIO
    """What unpoison says of a frame that is not memory: it asks for an online page; 6.12.117, 7.x."""

    unpoison_takes_any_part: bool = False
    """Unpoison of a bad huge page may name any frame of it; S 6.1. Since 6.5 only the first has the mark."""

    hugetlb_stays_put: bool = True
    """A huge page in use loses its mark "migratable" when it goes bad; S 6.12. 6.1 leaves it."""

    tells_bad_frame_again: bool = True
    """A second error in a bad huge page is looked for by its own frame; S 7.2, seen on 6.12.117. On 6.1
    by that of the head, so the address that is told is the first of the huge page (B35)."""

    hugetlb_tells_head: bool = False
    """Who is told of a bad huge page gets the address where it begins; S 6.1. Since 6.6 that of the frame."""

    forgets_victim_without_memory: bool = True
    """add_to_kill() without memory for its note leaves the task out, with a line in the log; S 6.1 to 7.3.
    Switched off, such a task gets SIGKILL, which needs no note (R2)."""

    reports_filtered_dax: bool = False
    """An error in persistent memory that the injection filter spares is called Failed all the same; 6.1."""

    tells_holders_of_dax_copies: bool = True
    """dev_pagemap_mapping_shift() takes any entry there for one of the device, a private copy too; since the
    entries of such memory have no mark of their own (pte_devmap()), which went in 6.16."""

    mends: frozenset[str] = frozenset()
    """The known weaknesses of the newest kernel that this one does not have."""


V7_3 = Profile("7.3", (HUGE, *LRU_STATES, UNKNOWN))
V7_2 = replace(
    V7_3,
    name="7.2",
    states=(RESERVED, HUGE, *LRU_STATES, UNKNOWN),
    traits=Traits(store_gives_slot_back="never", vmalloc_by_fault=False),
    refuses_kernel_pages=False,
)
V6_12 = replace(
    V7_2,
    name="6.12",
    traits=Traits(
        store_gives_slot_back="alone",
        unmapping_drains=True,
        reclaims_page_tables=False,
        write_looks_first=True,
        vmalloc_by_fault=False,
        huge_zero_becomes_huge=False,
        maps_whole_folio=("tmpfs",),
        splits_around=False,
        collapses_read_only=False,
        large_folios=("xfs", "xfs-16k"),
        overcommits_gigantic=False,
        migration_writes_dirty_pages=True,
    ),
    checks_counted_pages=False,
    asks_drivers=False,
    tells_holders_of_dax_copies=False,
)
V6_1 = replace(
    V6_12,
    name="6.1",
    states=(RESERVED, SLAB, HUGE, *LRU_STATES, replace(UNKNOWN, respond=me_unknown_failed)),
    traits=replace(
        V6_12.traits,
        swapoff_leaves_poison_entry=False,
        touch_activates=True,
        free_needs_first_page=True,
        anon_folios=False,
        writes_in_chunks=False,
        swap_skips_zeros=False,
        checks_new_pages=True,
        migration_copies_first=False,
        compacts_large_folios=False,
        frees_gigantic_whole=False,
        copies_swapped_tails=True,
        maps_swapped_folio=False,
        collapse_survives_errors=False,
        split_drops_zeros=False,
        migration_splits_partly_mapped=False,
        moves_huge_page_by_its_head=True,
        blocks_count_bad_frames=False,
        moves_clean_pages_only=("ramfs", "vfat"),
        no_page_table_is_efault=True,
        reclaim_unmaps_bad_pages=False,
        marks_page_error=True,
        maps_whole_folio=(),
        large_folios=(),
        splits_to_any_order=False,
        hugetlb_read_refuses_all=True,
        unmapping_promises_anew=False,
        tails_show_folio=False,
        shmem_write_refuses_folio=False,
        truncate_writes=("xfs",),
        punch_writes_if_dirty=("ext4",),
        skips_changed_pages=False,
        direct_write_falls_back=False,
        unshares_merged_pages=False,
        knows_poison_markers=False,
    ),
    unsplit_thp=MfResult.IGNORED,
    filters_before_split=False,
    reports_filtered_dax=True,
    unpoison_takes_any_part=True,
    hugetlb_stays_put=False,
    tells_bad_frame_again=False,
    hugetlb_tells_head=True,
    refuses_slab=False,
    not_handlable=PageType.UNKNOWN,
    reports_already_poisoned=False,
    unmap_failed=MfResult.IGNORED,
    handles_merged_pages=False,
    mapcount_word="mapcount",
    folio_word="page",
    kills_when_not_unmapped=True,
    madvise_is_consumed=False,
    node_counters=False,
    soft_offline_prefix="soft offline",
    soft_offline_switch=False,
)

PROPOSED = replace(
    V7_3,
    name="proposed",
    traits=replace(V7_3.traits, remembers_lost_data=True),
    mends=frozenset({"stale-read"}),
)
"""No kernel: the newest with what docs/proposed.md argues for. Never compared with a real one."""

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (V7_3, V7_2, V6_12, V6_1)}
"""The real ones."""
NEWEST = V7_3


def profile_named(name: str) -> Profile:
    """The profile of this name, real or proposed; WrongUse with the near ones if there is none."""
    known = {**PROFILES, PROPOSED.name: PROPOSED}
    try:
        return known[name]
    except KeyError:
        raise unknown_name("kernel profile", name, known) from None
