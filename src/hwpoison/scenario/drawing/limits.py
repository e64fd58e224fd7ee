"""What a random scenario leaves out, each with its reason: what the lab cannot set up, or what a real kernel
does not do the same way each time. Nothing is left out because the model does it wrong.

UNDRAWN names words of the language that never come up, LIMITS combinations that depend on the state, COSTLY
what comes up seldom because it takes a boot of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import WrongUse
from hwpoison.abi.records import StoryStep
from hwpoison.abi.results import MfResult, PageType
from hwpoison.mm.hugetlb import is_huge
from hwpoison.mm.inode import FILE_SYSTEMS, AddressSpace
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.scenario.census import Census, last_event
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import Step

HARDWARE = "after one error of the hardware no page of that boot can be made good again"
NO_WAY_BACK = "a block of memory that stays out is missing in all later scenarios of the boot"
NO_DRIVER = "the lab has no driver, or no program to make one"
LARGE = "large folios are verified by scenarios of their own; random ones would need areas of 512 pages"
GROUPS = "a memory cgroup has no other effect than on the filter, which scenarios of its own show"
BY_NUMBER = "the handler is never asked, or has one answer"
DAX = "persistent memory has scenarios of its own: no mark of it can be seen, and none is taken back"
GIGANTIC = "pages of 1 GiB need a guest of their own, and seconds each to be filled"
UNDRAWN: dict[tuple[str, str, str], str] = {
    ("break", "", ""): HARDWARE,
    ("inject", "via", "scrub"): HARDWARE,
    ("soft-offline", "via", "corrected"): "6.1 of Debian counts no corrected errors (CONFIG_RAS_CEC)",
    ("busy", "", ""): "nobody outside the journal can keep the buffers of a page busy",
    ("compact", "", ""): "what compaction moves depends on where all other pages of the guest are",
    ("offline-block", "", ""): NO_WAY_BACK,
    ("online-block", "", ""): NO_WAY_BACK,
    ("frame", "kind", "removable"): NO_WAY_BACK,
    ("frame", "kind", "vdso"): "while its page is bad, every process that is started in this boot dies",
    ("frame", "kind", "pagetable"): "a new page table is found by its mark, and may be one that just ends",
    ("nomemory", "", ""): "allocations of the handler cannot be made to fail from outside",
    ("file", "kind", "directory"): "the lab has no file system with directories in the page cache",
    ("file", "fs", "xfs-16k"): "6.1 does not mount it",
    ("file", "fs", "ext2"): NO_DRIVER,
    ("file", "fs", "btrfs"): NO_DRIVER,
    ("file", "fs", "fuse"): NO_DRIVER,
    ("file", "fs", "ext4-dax"): DAX,
    ("file", "fs", "xfs-dax"): DAX,
    ("file", "fs", "xfs-dax-rmap"): DAX,
    ("file", "fs", "devdax"): DAX,
    ("frame", "kind", "pmem-spare"): DAX,
    ("frame", "kind", "pmem-superblock"): DAX,
    ("frame", "kind", "pmem-driver"): DAX,
    ("frame", "fs", ""): DAX,
    ("frame", "kind", "register"): BY_NUMBER,
    ("frame", "kind", "firmware"): "a bad one stays bad for the boot, and there are few",
    ("frame", "kind", "registered"): NO_DRIVER,
    ("map", "huge", "64K"): LARGE,
    ("map", "hugetlb", "1G"): GIGANTIC,
    ("hugepages", "", "1G"): GIGANTIC,
    ("pool", "", "1G"): GIGANTIC,
    ("demote", "", ""): GIGANTIC,
    ("file", "fs", "hugetlbfs-1G"): GIGANTIC,
    ("group", "", ""): GROUPS,
    ("filter", "group", ""): GROUPS,
    ("file", "fs", "secret"): "6.1 of Debian has memfd_secret(2) switched off",
    ("merge", "", ""): "ksmd comes by when it comes by: each time takes a second of a guest",
    ("unmerge", "", ""): "nothing is merged",
    ("lost", "", ""): "no kernel has the call",
    ("acknowledge", "", ""): "no kernel has the call",
    ("frame", "kind", "balloon"): "a guest has no balloon without help from its host",
}
"""(verb, argument, value) → why it never comes up; "" stands for all."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``applies`` is asked before the step, on each kernel's model; WrongUse counts as no."""

    reason: str
    verbs: tuple[str, ...]
    applies: Callable[[Model, Step], bool]


def forbidden(model: Model, step: Step, *, costly: bool = True) -> str | None:
    """Why this step may not be taken here, or None. ``costly``: what takes a boot may be."""
    for limit in (*LIMITS, *(() if costly else COSTLY)):
        if step.verb in limit.verbs:
            try:
                if limit.applies(model, step):
                    return limit.reason
            except WrongUse:
                continue
    return None


def _mapped(model: Model, step: Step) -> Page | None:
    """The page that the step's task has mapped there."""
    task, vpn = model.address(step)
    entry = task.alive_mm().entry(vpn)
    return entry.page if isinstance(entry, Pte) else None


def _swapout_of_others(model: Model, step: Step) -> bool:
    page = _mapped(model, step)
    if page is None or not page.head.order:
        return page is None or page.mapcount != 1
    mapped_once = page.head.entire_mapcount == page.head.large_mapcount == 1
    return step.get("pages") is None or not mapped_once or is_huge(page)


def _kept_file_page(model: Model, step: Step) -> bool:
    page = _mapped(model, step)
    return step.args["keep"] == "yes" and page is not None and not page.flags & pg.SWAPBACKED


def _pins_file(model: Model, step: Step) -> bool:
    _task, vma = model.area(step)
    return vma.shared and vma.inode is not None and vma.inode.fs.can_writeback


def _both_at_once(model: Model, step: Step) -> bool:
    disk = model.vm.disk
    return disk.failing if step.subject == "hold" else disk.held and step.subject == "fail"


def _attaches_part(model: Model, step: Step) -> bool:
    file = model.open_files.get(step.get("file") or "")
    if file is None or file.inode.fs.name != "sysv":
        return False
    whole = step.number("first") == 0 and step.number("pages") == file.inode.size
    return not whole or step.args["shared"] != "yes"


def _of_hugetlbfs(model: Model, step: Step) -> bool:
    opened = model.open_files.get(step.subject)
    inode = model.files.get(step.subject) if opened is None else opened.inode
    return inode is not None and inode.fs.huge != ""


def _exists_in_part(model: Model, step: Step) -> bool:
    """A hugetlbfs file that has some of its huge pages, and others not."""
    inode = model.files.get(step.subject)
    if inode is None or not inode.fs.huge:
        return False
    h = model.vm.hugetlb.hstates[inode.fs.huge]
    return 0 < len(inode.mapping.pages) * h.pages < inode.size


def _across_extents(model: Model, step: Step) -> bool:
    """xfs begins another folio where an extent ends."""
    file, pages = model.open_files.get(step.subject), step.number("pages", 1)
    if file is None or file.inode.fs.name != "xfs" or pages == 1:
        return False
    return any(index not in file.inode.blocks for index in range(step.page, step.page + pages))


def _again(model: Model, step: Step) -> bool:
    """Does a task map a frame of a driver that is mapped there already?"""
    pfn, task = model.frames.get(step.get("frame") or ""), model.tasks.get(step.args["task"])
    mm = None if task is None else task.mm
    return mm is not None and any(vma.driver is not None and vma.driver.pfn == pfn for vma in mm.vmas)


def _in_parts(model: Model, step: Step) -> bool:
    """Several pages in one call, from memory that may be lost in part."""
    file = model.open_files.get(step.subject)
    return file is not None and file.inode.fs.can_writeback and step.number("pages") > 1


def _asked_by_a_stranger(model: Model, step: Step) -> bool:
    """MADV_SOFT_OFFLINE of a page of a file that the caller has not mapped."""
    if step.get("via") != "madvise":
        return False
    task, vpn = model.address(step)
    _task, vma = model.area(step)
    return vma.mapping is not None and not isinstance(task.alive_mm().entry(vpn), Pte)


def _in_large(model: Model, step: Step) -> bool:
    page = _mapped(model, step)
    _task, vma = model.area(step)
    return vma.hstate is not None or (page is not None and page.head.order > 0)


def _beyond_area(model: Model, step: Step) -> bool:
    name, _, page = (step.get("into") or step.args["from"]).partition(":")
    area = model.areas.get(name)
    return area is not None and int(page or 0) + step.number("pages") > area.pages


def _traces_itself(model: Model, step: Step) -> bool:
    task, _vpn = model.address(step)
    return step.args["via"] == "ptrace" and model.task(step, step.args["by"]).leader is task.leader


def _others_cached(model: Model, step: Step) -> bool:
    return any(
        inode is not model.files.get(step.subject)
        and any(not page.flags & pg.DIRTY for page in inode.mapping.pages.values())
        for inode in model.vm.inodes
    )


def _resizes_device(model: Model, step: Step) -> bool:
    inode = model.files.get(step.subject)
    return inode is not None and inode.fs.name == "bdev"


def _beyond_device(model: Model, step: Step) -> bool:
    file, pages = model.open_files.get(step.subject), step.number("pages", 1)
    if file is None or file.inode.fs.name != "bdev":
        return False
    return step.page + pages > file.inode.size


def _dies_of_what_it_never_touched(model: Model, step: Step) -> bool:
    task, vma = model.area(step)
    survives = task.leader.sigbus == "handler" and not task.blocked
    if step.args["via"] != "madvise" or survives or not model.profile.madvise_is_consumed:
        return False
    return vma.mapping is not None and task.alive_mm().entry(vma.start + step.page) is None


def _used_again(model: Model, step: Step) -> bool:
    """A frame that was noted, and has been freed since: it may be any page, even the lab's own."""
    if step.subject not in model.noted:
        return False
    page = model.vm.zone.page(model.frames[step.subject]).head
    return not page.flags & pg.HWPOISON and page.mapping is not model.noted[step.subject]


def _told_twice(model: Model, step: Step) -> bool:
    """Does a process use the page at two addresses?"""
    users = Counter(user.mm for user in Census.take(model.vm, model.page(step).pfn).users)
    return any(count > 1 for count in users.values())


def _dies_with_its_memory(model: Model, step: Step) -> bool:
    """Is it shared memory without a name, and a process that has it will die of being told?"""
    page = model.page(step)
    mapping = page.head.mapping
    if not isinstance(mapping, AddressSpace) or not mapping.host.unnamed:
        return False
    return any(user.tasks[0].leader.sigbus == "default" for user in Census.take(model.vm, page.pfn).users)


def _maps_past_device(model: Model, step: Step) -> bool:
    file = model.open_files.get(step.get("file") or "")
    if file is None or file.inode.fs.name != "bdev":
        return False
    return step.number("first") + step.number("pages") > file.inode.size


def _journal_write_fails(model: Model, step: Step) -> bool:
    if step.verb == "msync":
        _task, vma = model.area(step)
        file = vma.file if vma.shared else None
    else:
        file = model.open_files.get(step.subject)
    if file is None or not model.vm.disk.failing or file.inode.fs.name == "bdev":
        return False
    mapping = file.inode.mapping
    dirty = [index for index in mapping.dirty if index in file.inode.blocks]
    return not dirty or len(dirty) < len(mapping.dirty)


def _made_while_held(model: Model, step: Step) -> bool:
    fs = FILE_SYSTEMS.get(step.args["fs"])
    disk = model.vm.disk
    return fs is not None and fs.can_writeback and (disk.held or disk.failing)


def _frame_was_free(model: Model, step: Step) -> bool:
    """A free frame, or that of a page that is no more: only the step that looks for it knows that."""
    pfn = model.frames.get(step.subject)
    named = _named_frame(model, step.subject)
    if (
        pfn is None
        or not model.vm.zone.online(pfn)
        or (named is not None and named.number == len(model.told))
    ):
        return False
    head = model.vm.zone.page(pfn).head
    if named is not None and "kind=hugepage" in named.step:  # another one may be taken from the pool first
        return not head.flags & pg.HWPOISON
    return head.refcount == 0 and not head.flags & pg.HWPOISON


def _maps_kernel_memory(model: Model, step: Step) -> bool:
    name = step.get("frame")
    if name is None or name not in model.frames:
        return False
    named = _named_frame(model, name)
    return named is None or not ("kind=driver" in named.step or "kind=vmalloc" in named.step)


def _named_frame(model: Model, name: str) -> StoryStep | None:
    """The step that named a frame of the kernel's; None for one that a note has named."""
    return next((told for told in model.told if told.step.startswith(f"frame {name} ")), None)


def _executes_in_thread(model: Model, step: Step) -> bool:
    task = model.tasks.get(step.subject)
    return task is not None and task.leader is not task


def _frees_under_owner(model: Model, step: Step) -> bool:
    pfn = model.frames.get(step.subject, model.struck.get(model.key(step)))
    event = None if pfn is None else last_event(model.failure, pfn)
    if pfn is None or event is None:
        return False
    if event.result is MfResult.FAILED and event.type is PageType.HUGE:  # the handler's reference is gone
        return model.vm.zone.page(pfn).head.refcount > 0
    return event.result is MfResult.IGNORED


def _reused(model: Model, step: Step) -> bool:
    """Is the frame that was bad there good again, and perhaps somebody else's, who may be struck too?"""
    pfn = model.struck.get(model.key(step))
    if step.subject in model.frames or pfn is None or not model.vm.zone.online(pfn):
        return False
    others = [other for key, other in model.struck.items() if key != model.key(step)]
    return pfn in others or (bool(others) and not model.vm.zone.page(pfn).flags & pg.HWPOISON)


def _dies_with_others(model: Model, step: Step) -> bool:
    """A call of a thread that may be killed by a signal to another one (seen on 6.1, now and then)."""
    if step.get("via") != "madvise":
        return False
    task, _vpn = model.address(step)
    others = (t for t in model.tasks.values() if t.leader is task.leader and t is not task and not t.exited)
    return task.leader.sigbus == "default" and any(others)


def _under_writeback(model: Model, step: Step) -> bool:
    """A page whose write the disk holds back: the handler waits, and goes on when the write ends."""
    try:
        pfn = model.pfn(step)
    except WrongUse:
        return False
    return (
        model.vm.disk.held
        and model.vm.zone.online(pfn)
        and bool(model.vm.zone.page(pfn).flags & pg.WRITEBACK)
    )


LIMITS: tuple[Limit, ...] = (
    Limit(
        "MADV_PAGEOUT leaves pages alone that are not mapped there, or more than once",
        ("swapout",),
        _swapout_of_others,
    ),
    Limit("reclaim of a page of a disk file either frees it or does nothing", ("swapout",), _kept_file_page),
    Limit("io_uring does not pin pages of files that may be written back", ("pin",), _pins_file),
    Limit("the lab drops the pages of all files at once, a step those of one", ("drop",), _others_cached),
    Limit("a disk has no size to change and no holes", ("truncate", "punch"), _resizes_device),
    Limit(
        "a disk is larger than the pages that a scenario names",
        ("read", "write", "readv", "writev", "splice"),
        _beyond_device,
    ),
    Limit("a disk is larger than the pages that a scenario names", ("map",), _maps_past_device),
    Limit(
        "the frame of a page is not known whose only user dies of touching it",
        ("inject",),
        _dies_of_what_it_never_touched,
    ),
    Limit("who gets a frame next that was freed is chance", ("inject", "soft-offline", "look"), _used_again),
    Limit(
        "a file system whose journal cannot be written stops altogether",
        ("fsync", "msync"),
        _journal_write_fails,
    ),
    Limit("a new file is written to its disk before the scenario goes on", ("file",), _made_while_held),
    Limit("a disk of the lab cannot hold writes back and let them fail at once", ("disk",), _both_at_once),
    Limit("a System V segment is attached whole, and shared", ("map",), _attaches_part),
    Limit("a pipe takes no page of a hugetlbfs file", ("hold", "splice"), _of_hugetlbfs),
    Limit(
        "which of the huge pages of a file exist cannot be told from outside, if not all do",
        ("look", "inject", "soft-offline", "hold"),
        _exists_in_part,
    ),
    Limit("how xfs lays out new blocks is its own affair", ("write",), _across_extents),
    Limit(
        "io_uring chooses where a frame is mapped, so its second address may be the lower", ("map",), _again
    ),
    Limit(
        "UFFDIO_POISON on a huge page: its task outlives a later error, and why is not known",
        ("marker",),
        _in_large,
    ),
    Limit(
        "how much of a large folio a write has filled that ended early is not known",
        ("writev",),
        _in_parts,
    ),
    Limit(
        "6.1 moves a page that nobody maps or not, by how it was used",
        ("soft-offline",),
        _asked_by_a_stranger,
    ),
    Limit("what lies behind an area is not known", ("readv", "writev"), _beyond_area),
    Limit("a task cannot trace itself", ("peek", "poke"), _traces_itself),
    Limit("a free frame may be in use after any further step", ("inject", "soft-offline"), _frame_was_free),
    Limit("only memory of drivers can be mapped without harm", ("map",), _maps_kernel_memory),
    Limit(
        "two SIGBUS may come as one, or one by one: who runs between them is chance", ("inject",), _told_twice
    ),
    Limit(
        "a task that dies of the signal may take a reference as the handler counts them",
        ("inject",),
        _dies_with_its_memory,
    ),
    Limit("it would free the page under its owner, or its holder", ("unpoison",), _frees_under_owner),
    Limit(
        "a call may return or not, if a signal to another thread ends its process",
        ("inject", "soft-offline"),
        _dies_with_others,
    ),
    Limit(
        "who ends a write may still hold the page when the handler goes on, by chance",
        ("inject", "soft-offline"),
        _under_writeback,
    ),
    Limit("which page has a frame next that was made good is the allocator's affair", ("unpoison",), _reused),
    Limit("a thread that calls execve takes over its leader's identity", ("exec",), _executes_in_thread),
)


STOPPING = (("memory_failure_recovery", "0"), ("panic_on_unrecoverable_memory_failure", "1"))


def _stops_the_machine(_model: Model, step: Step) -> bool:
    return (step.subject, step.args["value"]) in STOPPING


def _page_of_zeros(model: Model, step: Step) -> bool:
    zeros = (model.vm.zero_page, model.vm.huge_zero_folio)
    if step.get("via") != "madvise":
        page = model.vm.zone.pages.get(model.pfn(step))
        return page is not None and page.head in zeros
    task, vpn = model.address(step)
    vma, entry = task.alive_mm().find_vma(vpn), task.alive_mm().entry(vpn)
    if isinstance(entry, Pte):
        return entry.page.head in zeros
    return entry is None and vma is not None and vma.mapping is None


COSTLY: tuple[Limit, ...] = (
    Limit("the machine may stop", ("sysctl",), _stops_the_machine),
    Limit("the page of zeros can be poisoned once in a boot", ("inject", "soft-offline"), _page_of_zeros),
)
