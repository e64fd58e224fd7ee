"""Recipes for pages of files: on a disk, or in tmpfs and shared anonymous memory."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.filemap import (
    Buffers,
    filemap_add_folio,
    folio_attach_buffers,
    folio_mark_dirty,
)
from hwpoison.mm.inode import FILE_SYSTEMS, File
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, munmap
from hwpoison.mm.page import folio_unlock, put_page, set_flags
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import truncate
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

from .plant import NotReproduced, Planted, User, Wanted, add_mapping, hold, new_machine
from .plant_memory import swap_out

CONTENT = "new data"
_USUAL = {False: "xfs", True: "ext4"}  # by whether the file system hangs buffers on its pages


def disk_file(wanted: Wanted) -> Planted:
    """A page of a file on a disk: read, written, being written back, mapped by some."""
    situation = wanted.situation
    if not situation.regular and wanted.users:
        raise NotReproduced("a directory cannot be mapped")
    name = situation.file_system or _USUAL[wanted.has(pg.PRIVATE)]
    vm = new_machine(wanted)
    inode = vm.create("file", FILE_SYSTEMS[name], 1, regular=situation.regular)
    planted = Planted(vm, None, inode=inode, files=[File(inode, "reader")])
    _fill(wanted, planted)
    _map(wanted, planted)
    return _finish(wanted, planted)


def tmpfs_file(wanted: Wanted) -> Planted:
    """A page of tmpfs or of shared anonymous memory; clean as long as it was only read, or written unseen."""
    if wanted.situation.file_system is not None or not wanted.situation.regular:
        raise NotReproduced("a page that is swap backed belongs to tmpfs")
    vm = new_machine(wanted, swap_slots=4)
    inode = vm.create("shared", "tmpfs", 1)
    planted = Planted(vm, None, inode=inode, files=[File(inode, "reader")])
    if wanted.has(pg.DIRTY) or wanted.has(pg.SWAPCACHE):
        vm.write(planted.files[0], 0, CONTENT)
    _map(wanted, planted)
    if not inode.mapping.pages:
        _touch_once(planted)
    if wanted.has(pg.SWAPCACHE):
        (page,) = inode.mapping.pages.values()
        planted.page = page
        vm.lru.add_drain_all()
        swap_out(wanted, planted, page)
    _finish(wanted, planted)
    if wanted.has(pg.UNEVICTABLE | pg.LRU) and not wanted.has(pg.MLOCKED):
        set_flags(planted.frame, pg.UNEVICTABLE)  # shmctl(SHM_LOCK): the file's own mark is not in the model
    return planted


def _fill(wanted: Wanted, planted: Planted) -> None:
    """Bring the page into the cache, as dirty and as up to date as it has to be."""
    vm, (file,) = planted.vm, planted.files
    if not wanted.has(pg.UPTODATE):
        _half_read(wanted, planted)
    elif wanted.has(pg.WRITEBACK):
        vm.disk.held = True
        vm.write(file, 0, CONTENT)
        filemap_fdatawrite(file.inode.mapping)
        if wanted.has(pg.DIRTY):
            vm.write(file, 0, CONTENT)
    elif wanted.has(pg.DIRTY):
        vm.write(file, 0, CONTENT)
    elif wanted.has(pg.PRIVATE):
        vm.write(file, 0, CONTENT)
        fsync(file)
    else:
        vm.read(file, 0)


def _half_read(wanted: Wanted, planted: Planted) -> None:
    """In the cache, but never read whole: the read failed, or only some blocks of it were needed."""
    vm, mapping = planted.vm, planted.files[0].inode.mapping
    page = vm.zone.alloc_pages()
    if not filemap_add_folio(mapping, page, 0):
        raise NotReproduced("the file had the page already")
    if wanted.has(pg.PRIVATE):
        folio_attach_buffers(page)
    if wanted.has(pg.DIRTY):
        page.content = CONTENT
        folio_mark_dirty(page)
    folio_unlock(page)
    put_page(page)


def _map(wanted: Wanted, planted: Planted) -> None:
    locked = wanted.has(pg.MLOCKED)
    for user in wanted.users:
        task, vma = add_mapping(planted, user, planted.files[0])
        if not user.populated:
            continue
        load(task, vma.start)
        if locked:
            mlock(task.alive_mm(), vma)
            locked = False
    if wanted.situation.written:
        _write_unseen(planted)


def _write_unseen(planted: Planted) -> None:
    """Store through an entry that allows it already: only the entry becomes dirty, not the page."""
    for task, vpn, user in planted.users:
        if user.populated and user.shared:
            store(task, vpn, CONTENT)
            return
    raise NotReproduced("nobody maps the page so that he could write to the file")


def _touch_once(planted: Planted) -> None:
    """A process read the page through a mapping, and has gone on."""
    task, vma = _mapped_for_now(planted)
    load(task, vma.start)
    munmap(task.alive_mm(), vma)
    planted.users.pop()


def _mapped_for_now(planted: Planted) -> tuple[Task, Vma]:
    return add_mapping(planted, User(-1), planted.files[0])


def _finish(wanted: Wanted, planted: Planted) -> Planted:
    """What is left to do for every file page, in this order."""
    vm, situation, inode = planted.vm, wanted.situation, planted.files[0].inode
    if planted.page is None:
        (planted.page,) = inode.mapping.pages.values()
    page = planted.frame
    if wanted.has(pg.LRU):
        vm.lru.add_drain_all()
    if page.flags & pg.UPTODATE or page.flags & pg.DIRTY:
        planted.content = page.content
    if situation.busy:
        if not isinstance(page.private, Buffers):
            raise NotReproduced("there are no buffers on the page")
        page.private.busy = True
    if situation.truncated:
        hold(planted)
        truncate(inode, 0)
        planted.content = planted.inode = None
    if not situation.opened:
        for file in planted.files:
            file.close()
        planted.files.clear()
    return planted
