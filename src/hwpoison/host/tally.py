"""Exact counting of (page flags, map count) pairs, fast enough to hide behind reading them.

A host has hundreds of millions of pages but only a few hundred different pairs, so sorting them
(np.unique) is a waste. Runs of equal pages are counted as one where they are long enough. Then each pair
is packed into one 64-bit word, the word is hashed to a slot of a table, and where the table really holds
that word the slot is counted. Words the table does not hold (new ones, and those whose slot another word
took first) are counted by sorting: slow, rare, and exact.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from hwpoison.abi.problems import WrongUse

Words = NDArray[np.uint64]
Indexes = NDArray[np.int64]

ALL_BITS = (1 << 64) - 1
UNKNOWN_COUNT = -1
"""Stands for the map count of a page that /proc/kpagecount says nothing about."""
LARGEST_CAP = (1 << 16) - 1

_SLOT_BITS = 16
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring words
_WORTHWHILE_RUN = 4  # pages: with runs longer than this on average, counting runs beats counting pages


class PairTally:
    """Counts the pairs (flags & mask, min(count, cap)) of the arrays it is given."""

    def __init__(self, mask: int, cap: int) -> None:
        if not 0 <= mask <= ALL_BITS:
            raise WrongUse(f"mask {mask:#x} is not a set of page flags: expected at most 64 bits")
        if not 0 <= cap <= LARGEST_CAP:
            raise WrongUse(f"cap {cap} of the map counts is out of range: expected 0 to {LARGEST_CAP}")
        self._mask = np.uint64(mask)
        self._cap = np.uint64(cap)
        self._unknown = cap + 1
        self._shift = 64 - self._unknown.bit_length()  # the count is kept above the flags
        # An empty slot holds 0, which cannot be mistaken: the word 0 hashes to slot 0, and no other word is
        # ever put there.
        self._table: Words = np.zeros(1 << _SLOT_BITS, np.uint64)
        self._pages: Indexes = np.zeros(1 << _SLOT_BITS, np.int64)
        self._strangers: Counter[int] = Counter()
        self._wide: Counter[tuple[int, int]] = Counter()

    def add(self, flags: Words, counts: Words) -> None:
        """Count these pages; ``counts`` may be shorter: the pages beyond its end have no known count."""
        known = len(counts)
        if known:
            changes = flags[1:known] != flags[: known - 1]
            changes |= counts[1:] != counts[:-1]
            ends, pages = _runs(changes)
            self._add(flags[:known][ends], np.minimum(counts[ends], self._cap), pages)
        if known < len(flags):
            rest = flags[known:]
            ends, pages = _runs(rest[1:] != rest[:-1])
            self._add(rest[ends], np.full(len(pages), self._unknown, np.uint64), pages)

    def _add(self, flags: Words, counts: Words, pages: Indexes) -> None:
        """Count pairs, each for so many pages. The counts are capped, and overwritten here."""
        flags = flags & self._mask
        if int(np.bitwise_or.reduce(flags)) >> self._shift:
            # No kernel sets these high bits, but a word that does must not be counted as another one.
            for flag, count, amount in zip(flags.tolist(), counts.tolist(), pages.tolist(), strict=True):
                self._wide[flag, count] += amount
            return
        words = counts
        words <<= np.uint64(self._shift)
        words |= flags
        slots = _slots(words)
        at_home = self._table.take(slots, mode="clip") == words
        if not at_home.all():
            away = ~at_home
            self._add_strangers(words[away], pages[away])
            slots, pages = slots[at_home], pages[at_home]
        np.add.at(self._pages, slots, pages)

    def _add_strangers(self, words: Words, pages: Indexes) -> None:
        """Count words that the table does not hold, and give them a home where the slot is free."""
        found, where = np.unique(words, return_inverse=True)
        amounts = np.zeros(len(found), np.int64)
        np.add.at(amounts, where, pages)
        for word, amount in zip(found.tolist(), amounts.tolist(), strict=True):
            self._strangers[word] += amount
        slots = _slots(found)
        free = (self._table[slots] == 0) & (slots != 0)
        self._table[slots[free]] = found[free]

    def kinds(self) -> Counter[tuple[int, int]]:
        """Pages of each pair counted so far."""
        packed = Counter(self._strangers)
        used = np.flatnonzero(self._pages)
        packed.update(dict(zip(self._table[used].tolist(), self._pages[used].tolist(), strict=True)))
        pairs = Counter(self._wide)
        low = (1 << self._shift) - 1
        pairs.update({(word & low, word >> self._shift): amount for word, amount in packed.items()})
        return Counter(
            {
                (flags, UNKNOWN_COUNT if count == self._unknown else count): amount
                for (flags, count), amount in pairs.items()
            }
        )


def _slots(words: Words) -> Indexes:
    return (words * _MULTIPLIER >> _SLOT_SHIFT).view(np.int64)


def _runs(changes: NDArray[np.bool_]) -> tuple[slice | Indexes, Indexes]:
    """Which pages to count, and for how many each stands; ``changes[i]``: page i + 1 differs from page i."""
    if np.count_nonzero(changes) * _WORTHWHILE_RUN > len(changes):
        return slice(None), np.ones(len(changes) + 1, np.int64)
    ends = np.append(np.flatnonzero(changes), len(changes))
    return ends, np.diff(ends, prepend=-1)
