"""Recipes for pages that are parts of large folios: of memory, of tmpfs, of files on a disk.

Up to 6.11 /proc shows a tail's own word, which says nothing of dirty or locked: such a page stands for all.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.filemap import filemap_add_folio
from hwpoison.mm.hugetlb import HUGE_ORDER
from hwpoison.mm.inode import FILE_SYSTEMS, File, Inode
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, discard, do_mmap, munmap
from hwpoison.mm.page import Page, folio_unlock, put_page, set_flags
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Task
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

from .plant import NotReproduced, Planted, User, Wanted, task_of
from .plant_memory import swap_out

CONTENT = "contents of a part"
PART = 3
"""Which page of the folio is looked at, unless it is the first."""
WRITTEN = 16
"""Pages of a folio that one write of 64 KiB makes."""
FRAMES = 2048
HPAGE_NR = 1 << HUGE_ORDER
WRITTEN_MARKS = pg.DIRTY | pg.PRIVATE | pg.WRITEBACK
"""Without any of these it was only read."""


def _with_huge_page(wanted: Wanted, owner: User) -> tuple[Planted, Task, Vma, int]:
    """A process that has stored to a huge page: the machine, the process, the area and the address."""
    planted = Planted(_machine(wanted), None, content=CONTENT)
    first = task_of(planted, owner)
    vma = do_mmap(first.alive_mm(), HPAGE_NR, huge=True)
    there = vma.start + _part(wanted)
    store(first, there, CONTENT)
    planted.page = _page(first, there)
    return planted, first, vma, there


def huge_memory(wanted: Wanted) -> Planted:
    """A page of a transparent huge page: mapped whole, or page by page if the folio is marked dirty."""
    if not wanted.populated:
        raise NotReproduced("nobody maps it: it is on its way out of memory")
    owners = wanted.populated
    planted, first, vma, there = _with_huge_page(wanted, owners[0])
    if wanted.has(pg.MLOCKED):
        mlock(first.alive_mm(), vma)
    for user in owners:
        task = first if user is owners[0] else first.fork(f"process{user.process}")
        planted.users.append((task, there, user))
    if wanted.has(pg.DIRTY):
        for task, _vpn, _user in planted.users:
            discard(task.alive_mm(), _area(task, there), vma.end - 1, vma.end)
    return planted


def huge_swapped(wanted: Wanted) -> Planted:
    """A page of a large folio that has slots in swap: it waits for its owner, or is mapped again."""
    if wanted.has(pg.MLOCKED):
        raise NotReproduced("locked memory does not go to swap")
    owners = wanted.populated or [User(-1)]
    planted, first, _vma, there = _with_huge_page(wanted, owners[0])
    planted.vm.lru.add_drain_all()
    swap_out(wanted, planted, planted.frame)
    others = [User(len(wanted.users), populated=False)] if wanted.situation.also_in_swap else []
    for user in (*owners, *others):
        task = first if user is owners[0] else first.fork(f"process{user.process}")
        planted.users.append((task, there, user))
    for task, _vpn, user in planted.users if wanted.populated else []:
        if user.populated:
            load(task, there)
    return planted


def huge_tmpfs(wanted: Wanted) -> Planted:
    """A page of a huge page of tmpfs or of shared anonymous memory; clean as long as nobody marked it."""
    if wanted.situation.file_system is not None or not wanted.situation.regular:
        raise NotReproduced("a page that is swap backed belongs to tmpfs")
    vm = _machine(wanted)
    inode = vm.create("shared", "tmpfs", HPAGE_NR)
    planted = Planted(vm, None, inode=inode, files=[File(inode, "reader")], index=_part(wanted))
    planted.content = CONTENT
    for user in wanted.users if wanted.populated else (User(-1), *wanted.users):
        task = task_of(planted, user)
        vma = do_mmap(task.alive_mm(), HPAGE_NR, file=planted.files[0], shared=True, huge=True)
        there = vma.start + planted.index
        planted.users.append((task, there, user))
        if user.populated:
            store(task, there, CONTENT)
    planted.page = inode.mapping.pages[planted.index]
    if wanted.has(pg.MLOCKED):
        task, there, _user = planted.users[0]
        mlock(task.alive_mm(), _area(task, there))
    if not wanted.populated:
        task, there, _user = planted.users.pop(0)
        munmap(task.alive_mm(), _area(task, there))
    _close(wanted, planted)
    return planted


def disk_folio(wanted: Wanted) -> Planted:
    """A page of a folio that one write of many pages, or reading ahead, has made; mapped by some."""
    situation = wanted.situation
    if not situation.regular or situation.busy or situation.truncated:
        raise NotReproduced("large folios are planted in regular files only, as they are used")
    vm = _machine(wanted)
    name = situation.file_system or _file_system(wanted)
    inode = vm.create("file", FILE_SYSTEMS[name], WRITTEN)
    planted = Planted(vm, None, inode=inode, files=[File(inode, "reader")], index=_part(wanted))
    planted.content = CONTENT
    (file,) = planted.files
    if not wanted.kind.flags & WRITTEN_MARKS:
        _read_ahead(planted, inode)
    else:
        vm.write(file, 0, CONTENT, WRITTEN)
    if wanted.has(pg.WRITEBACK):
        vm.disk.held = True
        filemap_fdatawrite(inode.mapping)
    elif not wanted.has(pg.DIRTY):
        fsync(file)
    elif wanted.has(pg.PRIVATE) and FILE_SYSTEMS[name].state:
        fsync(file)
        vm.write(file, planted.index, CONTENT + " again")
        planted.content = CONTENT + " again"
    for user in wanted.users:
        task = task_of(planted, user)
        vma = do_mmap(task.alive_mm(), WRITTEN, file=file, shared=user.shared)
        planted.users.append((task, vma.start + planted.index, user))
        if user.populated:
            load(task, vma.start + planted.index)
    planted.page = inode.mapping.pages[planted.index]
    if wanted.has(pg.MLOCKED):
        raise NotReproduced("pages of large folios that are mapped one by one are not locked one by one")
    if situation.written:
        raise NotReproduced("the first store through a mapping marks the folio dirty")
    _close(wanted, planted)
    return planted


def _read_ahead(planted: Planted, inode: Inode) -> None:
    """Reading ahead brought in a large folio (page_cache_ra_order()), which is as it is on the disk."""
    vm = planted.vm
    folio = vm.zone.alloc_zeroed((WRITTEN - 1).bit_length())
    if not filemap_add_folio(inode.mapping, folio, 0):
        raise NotReproduced("the file had the page already")
    for page in folio.pages():
        page.content = inode.blocks[page.file_index]
    set_flags(folio, pg.UPTODATE)
    folio_unlock(folio)
    put_page(folio)
    planted.content = inode.blocks[planted.index]


def _machine(wanted: Wanted) -> Machine:
    return Machine(
        frames=FRAMES + HPAGE_NR * 2 + 2 * len(wanted.users), swap_slots=HPAGE_NR, traits=wanted.traits
    )


def _part(wanted: Wanted) -> int:
    return 0 if wanted.has(pg.COMPOUND_HEAD) else PART


def _file_system(wanted: Wanted) -> str:
    """One whose folios look like this: ext4 hangs buffers on all, xfs its state on what is on the disk."""
    large = wanted.traits.large_folios
    if not wanted.kind.flags & WRITTEN_MARKS:
        return "xfs"
    first_written = wanted.has(pg.DIRTY) and not wanted.has(pg.PRIVATE)
    for name in ("xfs",) if first_written else ("ext4", "xfs"):
        if name in large:
            return name
    raise NotReproduced("no file system of this kernel makes such folios")


def _page(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    if not isinstance(entry, Pte) or not entry.page.head.order:
        raise NotReproduced("there was no huge page to be had")
    return entry.page


def _area(task: Task, vpn: int) -> Vma:
    vma = task.alive_mm().find_vma(vpn)
    if vma is None:
        raise NotReproduced("the area is gone")
    return vma


def _close(wanted: Wanted, planted: Planted) -> None:
    if not wanted.situation.opened:
        for file in planted.files:
            file.close()
        planted.files.clear()
