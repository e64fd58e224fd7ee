"""A fact that /proc does not show is told only where the handler decides otherwise for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Verdict, Victim
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import SiCode, Signal
from hwpoison.forecast.conditions import VARIANTS, difference
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.kinds import Kind
from hwpoison.forecast.oracle import Oracle
from hwpoison.forecast.plant import Situation

LIST = pg.UPTODATE | pg.LRU
MEMORY = LIST | pg.ANON | pg.SWAPBACKED
TMPFS = LIST | pg.SWAPBACKED
PIN = "somebody holds a reference that no page table shows (pinned for a device)"
PLAIN = Verdict(1, PageType.CLEAN_LRU, MfResult.RECOVERED, 0)
HIT = Victim(5, "a", 4096, Signal.SIGBUS, SiCode.BUS_MCEERR_AR, "on access")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Kind(LIST), f"Failed instead of Recovered, a device still gets the bad bytes if {PIN}"),
        (Kind(MEMORY | pg.MMAP, 1), f"a device still gets the bad bytes if {PIN}"),
        (
            Kind(LIST),
            'Ignored as "already truncated LRU page" instead of Recovered if its file has let go of it '
            "(truncated while in use)",
        ),
        (
            Kind(LIST | pg.DIRTY),
            "Failed instead of Recovered, the machine stops at the next read if its file system cannot drop "
            "a bad page (f2fs, fuse)",
        ),
        (Kind(LIST | pg.PRIVATE), "Failed instead of Recovered if the journal still needs it"),
        (
            Kind(TMPFS | pg.MMAP, 1),
            'called "dirty LRU page" if a process has written to it through a mapping unnoticed so far',
        ),
        (
            Kind(MEMORY | pg.MMAP, 1),
            "1 process gets SIGBUS BUS_MCEERR_AO at once if the processes want to be told early "
            "(prctl PR_MCE_KILL, vm.memory_failure_early_kill)",
        ),
        (
            Kind(TMPFS | pg.DIRTY),
            "1 process gets SIGBUS BUS_MCEERR_AR on access if another process maps its place in the file "
            "without having touched it",
        ),
        (
            Kind(MEMORY | pg.MMAP | pg.SWAPCACHE | pg.DIRTY, 1),
            "1 process gets SIGBUS BUS_MCEERR_AR on access if another process has it in swap",
        ),
        (
            Kind(LIST),
            "the machine stops if the kernel reads the bad bytes, for read(2), before the hardware finds "
            "them",
        ),
    ],
)
def test_what_proc_does_not_show_is_told_where_it_matters(kind: Kind, sentence: str, newest: Oracle) -> None:
    assert sentence in newest.of_kind(kind).conditions


def test_a_clean_page_on_a_file_system_that_cannot_drop_bad_ones_is_dropped_all_the_same(
    newest: Oracle,
) -> None:
    """Eviction is enough for it, as the handler finds: so there is nothing to be told."""
    assert not [text for text in newest.of_kind(Kind(LIST)).conditions if "file system" in text]


def test_no_condition_says_what_comes_out_anyway(newest: Oracle) -> None:
    assert newest.of_kind(Kind(pg.BUDDY)).conditions == ()
    assert newest.of_kind(Kind(pg.SLAB)).conditions == ()


def test_every_variant_changes_the_outcome_of_some_page(newest: Oracle) -> None:
    told = {text.rpartition(" if ")[2] for kind in EXAMPLES for text in newest.of_kind(kind).conditions}
    assert {variant.when for variant in VARIANTS} - told == set()


def test_a_variant_changes_one_fact() -> None:
    for variant in VARIANTS:
        (name,) = variant.change
        assert getattr(variant.of(Situation()), name) != getattr(Situation(), name)


@pytest.mark.parametrize(
    ("usual", "other", "words"),
    [
        (PLAIN, PLAIN, None),
        (PLAIN, replace(PLAIN, pfn=7, reason="other words"), None),
        (PLAIN, replace(PLAIN, result=MfResult.FAILED), "Failed instead of Recovered"),
        (PLAIN, replace(PLAIN, result=MfResult.IGNORED), "Ignored instead of Recovered"),
        (PLAIN, replace(PLAIN, page_type=PageType.DIRTY_LRU), 'called "dirty LRU page"'),
        (PLAIN, replace(PLAIN, result=None, page_type=None), "no verdict instead of Recovered"),
        (PLAIN, replace(PLAIN, victims=(HIT,)), "1 process gets SIGBUS BUS_MCEERR_AR on access"),
        (replace(PLAIN, victims=(HIT,)), PLAIN, "nobody is signalled"),
        (
            replace(PLAIN, victims=(HIT, HIT)),
            replace(PLAIN, victims=(HIT,)),
            "only 1 of 2 processes are signalled",
        ),
        (replace(PLAIN, victims=(HIT,)), replace(PLAIN, victims=(replace(HIT, pid=9, comm="b"),)), None),
        (PLAIN, replace(PLAIN, loss="x"), "lost: x (nobody is told)"),
        (replace(PLAIN, loss="x"), PLAIN, "nothing is lost"),
        (replace(PLAIN, loss="x"), replace(PLAIN, loss="x", told=("EIO",)), "told otherwise: EIO"),
        (PLAIN, replace(PLAIN, stops="panic", result=None), "the machine stops"),
        (PLAIN, replace(PLAIN, exposed=True), "a device still gets the bad bytes"),
        (
            replace(PLAIN, result=MfResult.IGNORED),
            replace(PLAIN, result=MfResult.IGNORED, exposed=True),
            None,
        ),
    ],
)
def test_a_difference_is_what_somebody_would_notice(
    usual: Verdict, other: Verdict, words: str | None
) -> None:
    assert difference(usual, other) == words
