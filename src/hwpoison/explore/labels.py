"""What an event does, in words that stay the same when the model is edited: for schedules and reports."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.errseq import Errseq
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.page import Page

from .strands import Strand

WORDS = {
    Op.START: "start",
    Op.ACQUIRE: "take",
    Op.ACQUIRE_SHARED: "share",
    Op.TRYLOCK: "try",
    Op.RELEASE: "give back",
    Op.RELEASED: "after",
    Op.RMW: "change",
    Op.READ: "read",
    Op.WRITE: "write",
    Op.WAIT: "woken by",
}
TAKING = (Op.ACQUIRE, Op.ACQUIRE_SHARED, Op.TRYLOCK, Op.RELEASE, Op.RELEASED)


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


def label(op: Op, on: object, what: str | int = 0, delta: int = 0) -> str:
    """``take folio_lock(0x2)``, ``set DIRTY of page 0x2``, ``refcount of page 0x2 -1``."""
    if op is Op.START:
        return "start"
    if on is None:
        return "device"
    name = thing(on, op)
    if isinstance(what, int) and what:
        flags = "|".join(pg.names(abs(what))) if isinstance(on, Page) else f"{abs(what):#x}"
        return f"{'set' if what > 0 else 'clear'} {flags} of {name}"
    if what and delta:
        return f"{what} of {name} {delta:+}"
    return f"{WORDS[op]} {what} of {name}" if what else f"{WORDS[op]} {name}"


def announced(strand: Strand) -> str:
    """What a path is about to do."""
    return label(strand.op, strand.on, strand.what, strand.delta)
