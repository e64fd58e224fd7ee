"""Page faults and user accesses (mm/memory.c, arch/x86/mm/fault.c).

access() is what a processor does with a load or a store: use the entry if it allows that, else call
the fault handler; if the frame behind a good entry is bad, the hardware raises a machine check
instead of giving bytes.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno, SigInfo, Signal

from . import pfnmap
from .dax import dax_content, dax_fault, dax_pfn_mkwrite
from .fault import Fault
from .filemap import folio_attach_buffers, folio_mark_dirty, read_mapping_folio
from .huge import (
    do_huge_pmd_anonymous_page,
    do_huge_pmd_unshare,
    do_huge_pmd_wp_page,
    huge_fits,
    map_huge_file,
)
from .hugetlb_memory import hugetlb_fault, hugetlb_unshare
from .inode import AddressSpace, SysError
from .locks import KernelBug
from .migrate_entries import migration_entry_wait
from .mmap import Mm, PageTable, Vma, driver_answers_faults, insert_page
from .mthp import do_anonymous_folio
from .page import (
    ZEROS,
    Page,
    folio_lock,
    folio_page,
    folio_ref_add,
    folio_trylock,
    folio_unlock,
    get_page,
    put_page,
)
from .page_alloc import OutOfMemory
from .pte import Entry, MarkerPte, MigrationPte, PoisonPte, Pte, SpecialPte, SwapErrorPte, SwapPte
from .rmap import StableNode, new_anon_page, page_add_rmap, page_remove_rmap, unmap_mapping_folio
from .shmem import shmem_get_folio
from .swap import copy_of_tail, drop_copy
from .task import Signalled, Task
from .truncate import mapping_evict_folio, truncate_inode_folio


def load(task: Task, vpn: int) -> str:
    """What a load from this page gives; raises Signalled if the task was hit instead."""
    return access(task, vpn, None)


def store(task: Task, vpn: int, data: str) -> None:
    """Fill the page with this content; raises Signalled."""
    access(task, vpn, data)


def access(task: Task, vpn: int, data: str | None) -> str:
    """One load (``data`` None) or store of a whole page, by the task in user mode."""
    mm = task.alive_mm()
    while True:
        if task.exited:  # another thread has ended the process meanwhile (do_group_exit())
            raise Signalled(task, SigInfo(Signal.SIGKILL))
        entry = _translate(mm, vpn, data is not None)
        if entry is None:
            if isinstance(special := mm.entry(vpn), SpecialPte):
                return pfnmap.use(task.vm, special, data)
            task.raise_fault(handle_mm_fault(task, vpn, write=data is not None), vpn)
        elif entry.page.bad and task.vm.hardware:
            task.vm.machine_check(task, entry.page)
            task.return_to_user()
        else:
            return _use(entry, data)


def copy_to_user(task: Task, vpn: int, data: str) -> None:
    """The kernel fills a page of user memory, by the task's own entry; SysError EFAULT."""
    entry = _user_entry(task, vpn, write=True)
    if isinstance(entry, SpecialPte):
        pfnmap.use(task.vm, entry, data)
    else:
        entry.page.content = data


def copy_from_user(task: Task, vpn: int) -> str:
    """The kernel reads a page of user memory; SysError EFAULT."""
    entry = _user_entry(task, vpn, write=False)
    if isinstance(entry, SpecialPte):
        return pfnmap.use(task.vm, entry, None)
    return entry.page.vm.kernel_reads(entry.page)


def _user_entry(task: Task, vpn: int, *, write: bool) -> Pte | SpecialPte:
    """The entry by which the processor lets the kernel copy, brought in if there is none."""
    mm = task.alive_mm()
    while True:
        entry = _translate(mm, vpn, write)
        if entry is not None:
            entry.young = True
            entry.dirty = entry.dirty or write
            return entry
        if isinstance(special := mm.entry(vpn), SpecialPte):
            return special
        result = handle_mm_fault(task, vpn, write=write)
        if result not in (Fault.DONE, Fault.RETRY):
            raise SysError(Errno.EFAULT, f"page {vpn:#x} of {task}: {result.value}")


def _translate(mm: Mm, vpn: int, write: bool) -> Pte | None:
    """The entry if the processor can use it for this access."""
    entry = mm.entry(vpn)
    if isinstance(entry, Pte) and (entry.writable or not write):
        return entry
    return None


def _use(entry: Pte, data: str | None) -> str:
    """The access itself; the processor notes it in the entry."""
    page = entry.page
    entry.young = True
    if data is not None:
        entry.dirty = True
        page.content = data
    elif page.bad:
        page.vm.expose(page, "a load of a task")
    return page.content


def handle_mm_fault(task: Task, vpn: int, *, write: bool) -> Fault:
    """Make the entry usable, or say why not. New pages are at the cost of the memory's cgroup."""
    path = task.vm.paths.current
    before, path.group = path.group, task.alive_mm().group
    try:
        return _handle_mm_fault(task, vpn, write=write)
    finally:
        path.group = before


def _handle_mm_fault(task: Task, vpn: int, *, write: bool) -> Fault:
    mm = task.alive_mm()
    with mm.mmap_lock.read():
        vma = mm.find_vma(vpn)
        if vma is None or (write and not vma.writable):
            return Fault.SIGSEGV
        if vma.hstate is not None:
            return hugetlb_fault(vma, vpn, write=write)
        huge = _huge_fault(vma, vpn, write)
        if huge is not None:
            return huge
        table = mm.pmd_alloc(vpn)
        with table.lock:
            entry = table.entry(vpn)
        if entry is None:
            return _nothing_there(vma, vpn, write)
        if isinstance(entry, Pte):
            return do_wp_page(vma, vpn, table, entry) if write and not entry.writable else Fault.RETRY
        return do_swap_page(vma, vpn, table, entry, write)


def _nothing_there(vma: Vma, vpn: int, write: bool) -> Fault:
    """do_pte_missing()."""
    if vma.driver is not None:
        return _driver_fault(vma, vpn, vma.driver)
    return do_fault(vma, vpn, write) if vma.mapping is not None else do_anonymous_page(vma, vpn, write)


def _driver_fault(vma: Vma, vpn: int, page: Page) -> Fault:
    """What a driver has mapped once does not come back, unless it answers faults."""
    if not driver_answers_faults(vma):
        return Fault.SIGBUS
    if page.flags & pg.HWPOISON:
        return Fault.HWPOISON
    insert_page(vma, vpn, page)
    return Fault.DONE


def _huge_fault(vma: Vma, vpn: int, write: bool) -> Fault | None:
    """create_huge_pmd() and wp_huge_pmd(): the entry above the page table. None: go on with the table."""
    table = vma.mm.table(vpn)
    pmd = None if table is None else table.huge
    if table is not None and isinstance(pmd, MigrationPte):
        migration_entry_wait(table, vpn, pmd)
        return Fault.RETRY
    if table is not None and pmd is not None:
        return do_huge_pmd_wp_page(vma, vpn, table) if write and not pmd.writable else Fault.RETRY
    return do_huge_pmd_anonymous_page(vma, vpn, write) if vma.mapping is None else None


def break_cow(task: Task, vpn: int) -> Fault:
    """break_ksm(): a page of the task's own in place of a merged one, without a store of the task's."""
    mm = task.alive_mm()
    unshare = mm.vm.traits.unshares_merged_pages
    with mm.mmap_lock.read():
        vma, table = mm.find_vma(vpn), mm.pte_alloc(vpn)
        entry = table.entries.get(vpn)
        if vma is None or not isinstance(entry, Pte):
            return Fault.SIGSEGV
        get_page(entry.page)
        result = _copy_page(vma, vpn, table, entry, entry.page, written=not unshare)
        put_page(entry.page)
    return result


def unshare(task: Task, vpn: int) -> Fault:
    """FAULT_FLAG_UNSHARE: an anonymous page of one's own, which a pin can rely on, without a store."""
    mm = task.alive_mm()
    with mm.mmap_lock.read():
        vma, table = mm.find_vma(vpn), mm.table(vpn)
        if vma is not None and vma.hstate is not None:
            return hugetlb_unshare(vma, vpn)
        if vma is None or table is None:
            return Fault.RETRY
        if table.huge is not None:
            return do_huge_pmd_unshare(vma, vpn, table)
        entry = table.entries.get(vpn)
        if not isinstance(entry, Pte):
            return Fault.RETRY
        page = entry.page
        merged = isinstance(page.mapping, StableNode)
        get_page(page)
        if not merged and (page.exclusive or _can_reuse(page)):
            page.exclusive = True
            result = Fault.DONE
        else:
            result = _copy_page(vma, vpn, table, entry, page, written=False)
        put_page(page)
    return result


def do_anonymous_page(vma: Vma, vpn: int, write: bool) -> Fault:
    """First touch of anonymous memory: a page of zeros; for a load the shared one."""
    vm = vma.mm.vm
    table = vma.mm.pte_alloc(vpn)
    if not write:
        with table.lock:
            table.entries.setdefault(vpn, Pte(vm.zero_page, writable=False))
        return Fault.DONE
    if (result := do_anonymous_folio(vma, vpn, table)) is not None:
        return result
    page = new_anon_page(vma, vpn, ZEROS)
    return _install(vma, vpn, table, None, page, Pte(page, writable=True, dirty=True))


def _install(vma: Vma, vpn: int, table: PageTable, old: Entry | None, page: Page, new: Pte) -> Fault:
    """Replace the entry if it is still ``old``; else the new page, already counted as mapped, is dropped."""
    with table.lock:
        if table.entries.get(vpn) is not old:
            page_remove_rmap(page, vma)
            put_page(page)
            return Fault.RETRY
        table.entries[vpn] = new
        if isinstance(old, Pte) and old.page is not vma.mm.vm.zero_page:
            page_remove_rmap(old.page, vma)
            if old.page.head.flags & pg.SWAPCACHE and not old.page.head.mapped:
                old.page.vm.swap.free_swap_cache(old.page)
            put_page(old.page)
    return Fault.DONE


def do_wp_page(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> Fault:
    """A store to a page that may only be read: take it over if nobody else needs it, else copy it."""
    page = entry.page
    if vma.shared and vma.mapping is not None and vma.mapping.fs.dax:
        return dax_pfn_mkwrite(vma, vpn, table, entry)
    with table.lock:
        if table.entries.get(vpn) is not entry:
            return Fault.RETRY
        get_page(page)
    try:
        if vma.shared:
            result = _make_shared_writable(vma, vpn, table, entry)
        elif page.anon and not isinstance(page.mapping, StableNode) and (page.exclusive or _can_reuse(page)):
            result = _take_over(vpn, table, entry)
        else:
            result = _copy_page(vma, vpn, table, entry, page)
    except OutOfMemory:
        put_page(page)
        raise
    put_page(page)
    return result


def _take_over(vpn: int, table: PageTable, entry: Pte) -> Fault:
    """wp_page_reuse(): nobody else has the page, so it is written in place."""
    with table.lock:
        if table.entries.get(vpn) is not entry:
            return Fault.RETRY
        entry.writable = entry.dirty = entry.page.exclusive = True
    return Fault.DONE


def _can_reuse(page: Page) -> bool:
    """wp_can_reuse_anon_folio(): is this entry the page's only user, the caller's reference aside?"""
    page = page.head
    if page.refcount > 2:
        page.vm.lru.add_drain(page.paths.current.cpu)
    if page.refcount > 2 + bool(page.flags & pg.SWAPCACHE) or not folio_trylock(page):
        return False
    page.vm.swap.free_slot_if_unused(page)
    alone = page.refcount == 2 and page.mapcount == 1
    folio_unlock(page)
    return alone


def _copy_page(
    vma: Vma, vpn: int, table: PageTable, entry: Pte, page: Page, *, written: bool = True
) -> Fault:
    """wp_page_copy(): the kernel reads the old page; if that meets bad memory, the fault ends there.

    Not ``written``: somebody wanted a copy without storing to it (FAULT_FLAG_UNSHARE); it counts as clean.
    """
    content = page.vm.copy_mc(page)
    if content is None:
        return Fault.HWPOISON
    copy = new_anon_page(vma, vpn, content)
    return _install(vma, vpn, table, entry, copy, Pte(copy, writable=written, dirty=written))


def _make_shared_writable(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> Fault:
    """wp_page_shared(): the file system is asked first (page_mkwrite), then the page is dirty."""
    page = entry.page
    folio_lock(page)
    result = Fault.RETRY
    folio = page.head
    if folio.mapping is vma.mapping:
        _attach_for_write(vma.mapping, folio)
        with table.lock:
            if table.entries.get(vpn) is entry:
                entry.writable = entry.dirty = True
                result = Fault.DONE
        folio_mark_dirty(folio)
    folio_unlock(page)
    return result


def _attach_for_write(mapping: AddressSpace | None, folio: Page) -> None:
    """What the file system hangs on a page that a task is about to write to (page_mkwrite)."""
    if mapping is not None and (mapping.fs.buffers or (mapping.fs.state and folio.order)):
        folio_attach_buffers(folio)


def do_fault(vma: Vma, vpn: int, write: bool) -> Fault:
    """A page of a file: read-only, as a private copy, or shared and writable."""
    mapping = vma.mapping
    if mapping is None:
        raise KernelBug(f"{vma} has no file")
    if mapping.fs.dax:
        return _fault_on_device(vma, vpn, mapping, write)
    index = vma.index_of(vpn)
    try:
        folio = _fault_folio(mapping, index, huge=huge_fits(vma, vpn))
    except SysError as error:
        return Fault.HWPOISON if error.errno is Errno.EHWPOISON else Fault.SIGBUS
    if folio is None:
        return Fault.SIGBUS
    page = folio_page(folio, index)
    if page.flags & pg.HWPOISON:
        return _fault_on_bad(mapping, page)
    if write and not vma.shared:
        folio_unlock(page)
        content = page.vm.copy_mc(page)
        put_page(page)
        if content is None:
            return Fault.HWPOISON
        copy = new_anon_page(vma, vpn, content)
        return _install(vma, vpn, vma.mm.pte_alloc(vpn), None, copy, Pte(copy, writable=True, dirty=True))
    if write:
        _attach_for_write(mapping, folio)
    result = map_huge_file(vma, vpn, folio, write) or _map_file_folio(vma, vpn, page, write)
    if write and result is Fault.DONE:
        folio_mark_dirty(folio)
    folio_unlock(page)
    put_page(page)
    return result


def _fault_on_device(vma: Vma, vpn: int, mapping: AddressSpace, write: bool) -> Fault:
    """dax_iomap_fault(): the frame of the device itself, or a private copy of what it holds."""
    if vma.shared or not write:
        return dax_fault(vma, vpn, mapping, write=write)
    if vma.index_of(vpn) >= mapping.host.size:
        return Fault.SIGBUS
    try:
        content = dax_content(mapping.host, vma.index_of(vpn))
    except SysError:
        return Fault.SIGBUS
    copy = new_anon_page(vma, vpn, content)
    return _install(vma, vpn, vma.mm.pte_alloc(vpn), None, copy, Pte(copy, writable=True, dirty=True))


def _fault_folio(mapping: AddressSpace, index: int, *, huge: bool = False) -> Page | None:
    """filemap_fault() or shmem_fault(): locked, with a reference; None past the end of the file."""
    if index >= mapping.host.size:
        return None
    if mapping.fs.swap_backed:
        page = shmem_get_folio(mapping, index, huge=huge)
    else:
        with mapping.invalidate_lock.read():
            page = read_mapping_folio(mapping, index)
    if index < mapping.host.size:
        return page
    # Truncated while we waited for the lock; a page that we made ourselves has to go again.
    if not page.flags & pg.WRITEBACK:
        truncate_inode_folio(mapping, page)
    folio_unlock(page)
    put_page(page)
    return None


def _fault_on_bad(mapping: AddressSpace, page: Page) -> Fault:
    """The file's page is known to be bad: a clean one is dropped and read again, else it is the end.

    The caller gives its lock and its reference.
    """
    result = Fault.HWPOISON
    page = page.head
    if page.mapped:
        unmap_mapping_folio(page)
    if mapping_evict_folio(mapping, page):
        result = Fault.RETRY
    folio_unlock(page)
    put_page(page)
    return result


def _map_file_folio(vma: Vma, vpn: int, page: Page, write: bool) -> Fault:
    """finish_fault(): map a page of a locked file folio; on newer kernels all of the folio, if it fits."""
    table = vma.mm.pte_alloc(vpn)
    folio = page.head
    with table.lock:
        if table.entry(vpn) is not None:
            return Fault.RETRY
        for there in _to_be_mapped(vma, vpn, page, table):
            part = folio_page(folio, vma.index_of(there))
            get_page(part)
            page_add_rmap(part, vma)
            # Without write notification (tmpfs) a shared entry is writable from the start.
            silent = vma.mapping is not None and not vma.mapping.can_writeback
            writable = write or (vma.shared and vma.writable and silent)
            table.entries[there] = Pte(part, writable=writable, dirty=write)
    return Fault.DONE


def _to_be_mapped(vma: Vma, vpn: int, page: Page, table: PageTable) -> range:
    """The addresses that get an entry: all of the folio on newer kernels, if nothing is there yet."""
    whole = range(vpn - page.offset, vpn - page.offset + page.head.nr_pages)
    wanted = vma.mapping is not None and vma.mapping.fs.name in vma.mm.vm.traits.maps_whole_folio
    one_table = whole[0] // table.ptrs == whole[-1] // table.ptrs
    inside = one_table and vma.start <= whole[0] and whole[-1] < vma.end
    if wanted and inside and not any(there in table.entries for there in whole):
        return whole
    return range(vpn, vpn + 1)


def do_swap_page(vma: Vma, vpn: int, table: PageTable, entry: Entry, write: bool) -> Fault:
    """The entry is a note: about swap, or about bad memory."""
    if isinstance(entry, PoisonPte | MarkerPte):
        return Fault.HWPOISON
    if isinstance(entry, MigrationPte):
        migration_entry_wait(table, vpn, entry)
        return Fault.RETRY
    if not isinstance(entry, SwapPte):
        if not isinstance(entry, SwapErrorPte):
            raise KernelBug(f"a present entry is no swap entry: {entry}")
        return Fault.SIGBUS
    vm = vma.mm.vm
    page = vm.swap.swapin(entry.entry)
    if page is None:
        return Fault.RETRY
    if page.flags & pg.HWPOISON:
        # A dirty page of the swap cache that went bad is kept there for just this moment.
        put_page(page)
        return Fault.HWPOISON
    folio_lock(page)
    result = Fault.RETRY
    if vm.swap.cache.get(entry.entry) is page:
        result = _map_swapped(vma, vpn, table, entry, page, write)
    folio_unlock(page)
    put_page(page)
    return result


def _map_swapped(vma: Vma, vpn: int, table: PageTable, entry: SwapPte, page: Page, write: bool) -> Fault:
    """Map a locked page of the swap cache in place of its swap entry, and give the slot back if we can.

    Of a large folio all pages are mapped, where all entries are as this one: nobody looks whether one of the
    others is bad.
    """
    vm, folio = vma.mm.vm, page.head
    if not folio.flags & pg.UPTODATE:
        return Fault.SIGBUS
    if write and not folio.flags & pg.LRU:
        vm.lru.add_drain(vm.paths.current.cpu)
    copy = copy_of_tail(vma, vpn, page)
    with table.lock:
        if table.entries.get(vpn) is not entry:
            drop_copy(copy, vma)
            return Fault.RETRY
        if copy is not None:
            vm.swap.free_entry(entry.entry)
            table.entries[vpn] = Pte(copy, writable=write, dirty=write)
            return Fault.DONE
        mapped = _swapped_range(vma, vpn, table, entry, page)
        for there in mapped:
            vm.swap.free_entry(entry.entry + there - vpn)
        vm.swap.free_slot_at_fault(page, write=write, owner=entry.exclusive, locked=vma.locked)
        if folio.mapping is None:
            vm.make_anon(page, vma, vpn)
        folio_ref_add(folio, len(mapped))
        may_write = entry.exclusive and write
        for there in mapped:
            part = vm.zone.page(page.pfn + there - vpn)
            page_add_rmap(part, vma)
            part.exclusive = entry.exclusive
            table.entries[there] = Pte(part, writable=may_write, dirty=may_write)
    return Fault.DONE


def _swapped_range(vma: Vma, vpn: int, table: PageTable, entry: SwapPte, page: Page) -> range:
    """Which addresses get their pages with this one: all of its folio's, if all have such entries."""
    first = vpn - page.offset
    whole = range(first, first + page.head.nr_pages)
    inside = vma.start <= first and whole.stop <= vma.end and first // table.ptrs == whole[-1] // table.ptrs
    if not inside or not vma.mm.vm.traits.maps_swapped_folio:
        return range(vpn, vpn + 1)
    alike = {there: SwapPte(entry.entry + there - vpn, entry.exclusive) for there in whole}
    same = all(table.entries.get(there) == one for there, one in alike.items())
    return whole if same else range(vpn, vpn + 1)
