"""What differs between kernels: named fields, and nothing else."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.abi.results import MfResult, PageType
from hwpoison.failure.profiles import NEWEST, PROFILES, V6_1, V6_12, V7_2, V7_3, Profile, profile_named

DIFFERENCES = {
    # Facts 1.5 and 2.3b.
    ("7.3", "7.2"): {"states", "traits", "refuses_kernel_pages"},
    ("7.2", "6.12"): {
        *("checks_counted_pages", "asks_drivers", "traits", "tells_holders_of_dax_copies"),
    },
    # Facts 1.3, 1.4, 2.2, 2.3, 2.5, 4.4.
    ("6.12", "6.1"): {
        *("states", "traits", "refuses_slab", "not_handlable", "reports_already_poisoned"),
        *("unsplit_thp", "filters_before_split"),
        *("unmap_failed", "mapcount_word", "kills_when_not_unmapped", "madvise_is_consumed", "node_counters"),
        *("soft_offline_switch", "soft_offline_prefix", "handles_merged_pages"),
        *("folio_word", "hugetlb_tells_head", "hugetlb_stays_put", "unpoison_takes_any_part"),
        *("reports_filtered_dax", "tells_bad_frame_again"),
    },
}


def test_the_profiles_are_listed_newest_first() -> None:
    assert list(PROFILES) == ["7.3", "7.2", "6.12", "6.1"]
    assert NEWEST is V7_3
    assert [PROFILES[profile.name] for profile in (V7_3, V7_2, V6_12, V6_1)] == list(PROFILES.values())


@pytest.mark.parametrize(
    ("newer", "older"), list(pairwise(PROFILES.values())), ids=lambda profile: profile.name
)
def test_neighbours_differ_in_the_named_fields_and_no_others(newer: Profile, older: Profile) -> None:
    differing = {
        field.name for field in fields(Profile) if getattr(newer, field.name) != getattr(older, field.name)
    }
    assert differing - {"name"} == DIFFERENCES[newer.name, older.name]


def test_the_newest_kernel_is_the_straight_path() -> None:
    """Its table has no row of an older one, and its flags are those of the default."""
    assert replace(NEWEST, name="") == Profile("", NEWEST.states)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("6.1", "unmap_failed", MfResult.IGNORED),
        ("6.12", "unmap_failed", MfResult.FAILED),
        ("6.1", "not_handlable", PageType.UNKNOWN),
        ("6.12", "not_handlable", PageType.GET_HWPOISON),
        ("6.12", "asks_drivers", False),
        ("7.2", "asks_drivers", True),
        ("6.1", "madvise_is_consumed", False),
        ("6.1", "kills_when_not_unmapped", True),
        ("6.1", "node_counters", False),
        ("6.1", "handles_merged_pages", False),
        ("6.12", "handles_merged_pages", True),
        ("6.12", "checks_counted_pages", False),
        ("7.2", "refuses_kernel_pages", False),
    ],
)
def test_a_field_says_what_the_source_says(name: str, field: str, value: object) -> None:
    assert getattr(PROFILES[name], field) == value


def test_every_real_kernel_forgets_a_victim_without_memory() -> None:
    """R2 is a deviation of all of them; what we owe is the same profile with the field off."""
    assert all(profile.forgets_victim_without_memory for profile in PROFILES.values())


@pytest.mark.parametrize(
    ("name", "trait", "value"),
    [
        ("6.1", "swapoff_leaves_poison_entry", False),
        ("6.12", "swapoff_leaves_poison_entry", True),
        ("6.1", "marks_page_error", True),
        ("6.12", "marks_page_error", False),
        ("6.1", "knows_poison_markers", False),
        ("6.12", "knows_poison_markers", True),
        ("6.1", "skips_changed_pages", False),
        ("6.12", "skips_changed_pages", True),
        ("6.1", "direct_write_falls_back", False),
        ("6.12", "direct_write_falls_back", True),
        ("6.1", "unshares_merged_pages", False),
        ("6.12", "unshares_merged_pages", True),
        ("6.1", "checks_new_pages", True),
        ("6.12", "checks_new_pages", False),
    ],
)
def test_a_trait_of_the_vm_says_what_the_source_says(name: str, trait: str, value: bool) -> None:
    assert getattr(PROFILES[name].traits, trait) is value


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        NEWEST.name = "x"  # type: ignore[misc]


def test_a_profile_is_found_by_its_name_and_a_near_miss_is_answered() -> None:
    assert profile_named("6.12") is V6_12
    with pytest.raises(WrongUse, match=r"unknown kernel profile '6.2': did you mean .*6\.12"):
        profile_named("6.2")
