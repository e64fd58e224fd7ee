"""What an event does, in words that stay the same when the model is edited: for schedules and reports."""

from __future__ import annotations

from hwpoison.mm.errseq import Errseq
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.page import Page

WORDS = {
    Op.START: "start",
    Op.ACQUIRE: "take",
    Op.ACQUIRE_SHARED: "share",
    Op.TRYLOCK: "try",
    Op.RELEASE: "give back",
    Op.RMW: "change",
    Op.READ: "read",
    Op.WRITE: "write",
    Op.WAIT: "woken by",
}
AFTER = "go on"
"""The label of a point after a lock was given back."""
TAKING = (Op.ACQUIRE, Op.ACQUIRE_SHARED, Op.TRYLOCK, Op.RELEASE)


def thing(on: object, op: Op) -> str:
    """An object by its name."""
    if isinstance(on, Page):
        return on.describe() if op in TAKING else repr(on)
    if isinstance(on, Path):
        return on.name
    if isinstance(on, AddressSpace):
        return f"page cache of {on.host.name}"
    if isinstance(on, Errseq):
        return "error word"
    describe = getattr(on, "describe", None)
    return str(describe()) if describe is not None else type(on).__name__.lower()


def label(op: Op, on: object) -> str:
    """``take folio_lock(0x2)``."""
    if op is Op.START:
        return "start"
    if on is None:
        return AFTER if op is Op.RELEASE else "device"
    return f"{WORDS[op]} {thing(on, op)}"
