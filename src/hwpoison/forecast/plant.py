"""Building a machine with one page in it that looks to /proc like the page of a host.

A recipe builds by the model's own operations (mmap, load, store, fork, write, reclaim, mlock), then the
page is looked at through the model's /proc: only if it shows the same flags and the same number of
mappers, the recipe holds for that kind. What no recipe reproduces cannot be told.

What /proc does not show of a page is a *situation*: it starts out as the usual one, and conditions.py
varies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import McePolicy
from hwpoison.mm.inode import File, Inode, SysError
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, get_page, page_swap_entry
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.proc import page_count, stable_page_flags
from hwpoison.mm.task import Signalled, Task

from .kinds import SEVERAL, Kind, fold

FRAMES = 64
HUGE_ORDER = 2  # of huge pages: enough for a head and more than one tail


class NotReproduced(Exception):
    """This recipe cannot build such a page; the text says what is in the way."""


@dataclass(frozen=True, slots=True)
class User:
    """One place where a process maps the page, or with ``populated`` False only covers its place in a file.

    ``process`` tells processes apart; ``address`` is the byte address on the host, None for made-up users.
    """

    process: int
    shared: bool = True
    populated: bool = True
    address: int | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What /proc does not show of a page. The defaults are the usual case of each."""

    file_system: str | None = None
    """A row of mm.inode.FILE_SYSTEMS; None: one that can drop a bad page."""
    regular: bool = True
    """The file is a regular one."""
    opened: bool = True
    """Somebody has the file open."""
    truncated: bool = False
    """The file let go of the page, and somebody still holds it."""
    held: bool = False
    """Somebody holds a reference that no page table entry explains."""
    busy: bool = False
    """The journal still needs the buffers on the page."""
    written: bool = False
    """A mapper has written since the flags were last brought up to date: its page table entry is dirty."""
    also_in_swap: bool = False
    """One more process has the page, but only by a swap entry."""
    promised: bool = False
    """Every free page of the pool is promised to a mapping that has not touched it yet (hugetlb)."""
    covered: bool = False
    """One more process maps the page's place in its file, without having touched it."""
    early: bool = False
    """All processes ask to be told early, each by itself."""
    consumed: Literal["load", "read", None] = None
    """A process, or the kernel for read(2), reads the bad bytes before the hardware finds them by itself."""


@dataclass(slots=True)
class Planted:
    """A machine with the page in it. ``users``: (task, page number, who that is)."""

    vm: Machine
    page: Page | None
    """None only until the recipe has got the page into memory."""
    users: list[tuple[Task, int, User]] = field(default_factory=list)
    tasks: dict[int, Task] = field(default_factory=dict)
    """By the number of the user's process."""
    inode: Inode | None = None
    files: list[File] = field(default_factory=list)
    index: int = 0
    """Where in its file the page is."""
    content: str | None = None
    """What the page holds for its users, None if nobody needs it."""
    what: str = "page"
    """What is lost with the frame."""
    last_copy: bool = False
    """Set by plant(): the contents are nowhere else."""
    device: bool = False
    """Set by plant(): the unexplained reference is a device's, which goes on using the page."""

    @property
    def frame(self) -> Page:
        """The page, once it is there."""
        if self.page is None:
            raise NotReproduced("the page did not get into memory")
        return self.page


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a recipe is asked for."""

    kind: Kind
    users: Sequence[User]
    situation: Situation
    traits: Traits

    def has(self, mask: int) -> bool:
        return self.kind.has(mask)

    @property
    def populated(self) -> list[User]:
        return [user for user in self.users if user.populated]


Build = Callable[[Wanted], Planted]


@dataclass(frozen=True, slots=True)
class Recipe:
    """For pages whose flags under ``mask`` are ``value``. ``what`` completes "… if <what>"."""

    mask: int
    value: int
    what: str
    build: Build


def some_users(mappers: int | None) -> tuple[User, ...]:
    """Made-up users for a kind: one process for each entry."""
    return tuple(User(number) for number in range(1 if mappers is None else mappers))


def new_machine(wanted: Wanted, *, swap_slots: int = 0) -> Machine:
    """Each process needs a frame for its page table, and the model takes them from the same zone."""
    frames = FRAMES + 2 * len(wanted.users)
    return Machine(frames=frames, swap_slots=swap_slots, huge_order=HUGE_ORDER, traits=wanted.traits)


def task_of(planted: Planted, user: User) -> Task:
    """The task that stands for the user's process, made when it is first needed."""
    task = planted.tasks.get(user.process)
    if task is None:
        task = planted.tasks[user.process] = planted.vm.new_task(f"process{user.process}")
    return task


def add_mapping(planted: Planted, user: User, file: File) -> tuple[Task, Vma]:
    """The user maps the first page of the file, without touching it yet."""
    task = task_of(planted, user)
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=user.shared)
    planted.users.append((task, vma.start, user))
    return task, vma


def hold(planted: Planted) -> None:
    """A plain reference of somebody who is not modelled, such as a device's driver. Raises NotReproduced."""
    if not planted.frame.head.refcount:
        raise NotReproduced("nobody can hold a page that is free")
    get_page(planted.frame)
    planted.vm.held.add(planted.frame.head.pfn)


def plant(recipe: Recipe, wanted: Wanted) -> Planted:
    """Build, apply what is common to all situations, and check that the page shows what was asked for.

    Raises NotReproduced.
    """
    try:
        planted = recipe.build(wanted)
    except (SysError, Signalled, OutOfMemory) as refusal:
        raise NotReproduced(f"the model refuses a step on the way to it: {refusal}") from None
    if wanted.situation.held:
        hold(planted)
        planted.device = True
    if wanted.situation.early:
        for task, _vpn, _user in planted.users:
            task.prctl_mce_kill(McePolicy.EARLY)
    planted.last_copy = planted.content is not None and not _elsewhere(planted)
    _compare(planted, wanted)
    return planted


def _elsewhere(planted: Planted) -> bool:
    """Are the contents of the page on the disk, or in its slot in swap, as well?"""
    vm, page = planted.vm, planted.frame
    if (slot := page_swap_entry(page)) is not None:
        return vm.swap.contents.get(slot) == planted.content
    return planted.inode is not None and planted.inode.blocks.get(planted.index) == planted.content


def shown(planted: Planted) -> Kind:
    """What /proc would show of the page."""
    page = planted.frame
    word = stable_page_flags(planted.vm, page.pfn)
    mappers = page_count(page) if word & pg.MMAP else 0
    return Kind(fold(word), min(mappers, SEVERAL))


def _compare(planted: Planted, wanted: Wanted) -> None:
    kind, real = shown(planted), wanted.kind
    too_few, too_many = pg.names(real.flags & ~kind.flags), pg.names(kind.flags & ~real.flags)
    if too_few:
        raise NotReproduced(f"no page of the model has {' and '.join(too_few)} together with the other flags")
    if too_many:
        raise NotReproduced(f"every such page of the model has {' and '.join(too_many)} as well")
    mapped = page_count(planted.frame)
    if real.has(pg.MMAP) and mapped != len(wanted.populated):
        raise NotReproduced(f"the model's page has {mapped} mappers, not {len(wanted.populated)}")
