"""Every bug of the past that was undone, and those that were not."""

from __future__ import annotations

from . import identity, lost, order, soft, verdicts
from .bug import Bug

_found = (*identity.ROWS, *soft.ROWS, *verdicts.ROWS, *lost.ROWS, *order.ROWS)


def number(name: str) -> tuple[int, str]:
    """``B38b`` comes after ``B38``."""
    digits = name.strip("Bb")
    return int(digits), name


ROWS: tuple[Bug, ...] = tuple(sorted(_found, key=lambda bug: number(bug.name)))

NOT_UNDONE: dict[str, tuple[str, str, str]] = {
    "B31": (
        "a page of persistent memory that is mapped twice, once without an entry, kills its user",
        "3d7fed4ad8cc (5.4)",
        "files of persistent memory (DAX) are not modelled",
    ),
    "B32": (
        "far too much of a file of persistent memory is unmapped: an end is passed as a length",
        "~4d75136be8bf (5.13)",
        "files of persistent memory (DAX) are not modelled",
    ),
    "B33": (
        "another part of a file is unmapped beyond 4 GiB: an index is shifted in 32 bits",
        "~39ebd6dce62d (6.7)",
        "numbers have no width here, and offsets are in pages",
    ),
    "B56": (
        "the queue of errors takes a lock for which one sleeps, in a context that may not",
        "d75abd0d0bc2 (6.11)",
        "the model knows no contexts in which one may not sleep, and no real-time kernel",
    ),
    "B60": (
        "the trace event moved to another system, and its readers saw nothing",
        "June 2026, for 6.19 to 7.1",
        "the model's events are not read through tracefs",
    ),
    "B63": (
        "xfs loses blocks, and its repair is killed, after errors in persistent memory",
        "by its title only",
        "what a file system does with its blocks is not modelled",
    ),
    "B65": (
        "a clean page that cannot be taken away from its user kills nobody",
        "between 5.15 and 6.1",
        "what keeps a page mapped here is a pin, and a pin for writing makes the page dirty",
    ),
    "B70": (
        "the entry of a huge page is read without its lock while another thread changes it",
        "between 6.12 and 7.2",
        "an entry is read in one step here: without the lock there is one value, before or after the change",
    ),
}
"""Name → what happened, what mended it, why it is not here."""
