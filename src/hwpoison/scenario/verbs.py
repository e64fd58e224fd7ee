"""The words of a scenario: one table of verbs, which is the whole language.

It parses, it explains mistakes, it is printed as the manual, and each witness has one method a verb.
"""

from __future__ import annotations

from dataclasses import dataclass

YES_NO = ("no", "yes")
POLICIES = ("default", "early", "late", "clear")
SIGBUS_ACTIONS = ("default", "handler", "ignore", "blocked")
FRAME_KINDS = (
    "slab", "vmalloc", "reserved", "vdso", "pagetable", "balloon", "free", "removable", "driver", "nostruct",
    "hugepage", "pmem-spare", "pmem-superblock", "pmem-driver", "register", "firmware", "registered",
)  # fmt: skip
HUGE_SIZES = ("2M", "1G")
SEALS = ("write", "future-write", "shrink", "grow")
PEEKS = ("process_vm", "proc-mem", "ptrace")
WAYS_IN = ("madvise", "debugfs", "sysfs", "scrub")
SOFT_WAYS = ("madvise", "sysfs", "corrected")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One ``key=value``. No ``default``: it must be given, unless ``optional``."""

    name: str
    help: str
    choices: tuple[str, ...] = ()
    number: bool = False
    default: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One kind of step. ``subject`` says in words what stands after the verb; ``page``: it is NAME:number."""

    name: str
    subject: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    page: bool = False
    choices: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """What each witness calls the method that makes such a step."""
        return f"do_{self.name.replace('-', '_')}"

    def usage(self) -> str:
        words = [self.name, self.subject.upper().replace(" ", "-") + (":PAGE" if self.page else "")]
        for parameter in self.parameters:
            text = f"{parameter.name}={'|'.join(parameter.choices) or parameter.name.upper()}"
            words.append(text if parameter.default is None and not parameter.optional else f"[{text}]")
        return " ".join(words)


TASK = Parameter("task", "who does it; the area's first owner if not given", optional=True)
AS = Parameter("as", "the new thing's name")
DATA = Parameter("data", "what the page is filled with: a word")
POLICY = Parameter("policy", "its memory error policy (prctl PR_MCE_KILL)", POLICIES, default="default")
SIGBUS = Parameter("sigbus", "what it does on SIGBUS", SIGBUS_ACTIONS, default="default")

BY = Parameter("by", "the other task")
VIA = Parameter("via", "by which call", PEEKS, default="process_vm")
COUNT = Parameter("pages", "how many", number=True, default="1")

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("task", "new task", "a process with one thread and no memory yet", (SIGBUS, POLICY)),
        Verb("fork", "task", "fork(2)", (AS,)),
        Verb("thread", "task", "a second thread of the process", (AS, POLICY)),
        Verb("clone", "task", "another process in the same memory: clone(CLONE_VM)", (AS,)),
        Verb("group", "task", "move the process into a memory cgroup", (Parameter("into", "the cgroup"),)),
        Verb("exec", "task", "execve(2): new, empty memory"),
        Verb("exit", "task", "exit_group(2)"),
        Verb("prctl", "task", "change the memory error policy of a thread", (POLICY,)),
        Verb(
            "sigbus",
            "task",
            "change what it does on SIGBUS",
            (Parameter("action", "the action", SIGBUS_ACTIONS),),
        ),
        Verb(
            "sysctl",
            "knob",
            "set a knob of /proc/sys/vm",
            (Parameter("value", "0 or 1", ("0", "1")),),
            choices=(
                "memory_failure_early_kill",
                "memory_failure_recovery",
                "panic_on_unrecoverable_memory_failure",
                "enable_soft_offline",
            ),
        ),
        Verb(
            "file",
            "new file",
            "a file; on a disk, with old data in every page",
            (
                Parameter("fs", "its file system", default="ext4"),
                Parameter("pages", "its size", number=True, default="1"),
                Parameter("kind", "what it is", ("regular", "directory"), default="regular"),
            ),
        ),
        Verb(
            "open",
            "new open file",
            "open(2)",
            (Parameter("file", "the file"), Parameter("direct", "O_DIRECT", ("yes",), optional=True)),
        ),
        Verb("close", "open file", "close(2)"),
        Verb(
            "map",
            "new area",
            "mmap(2): anonymous without file=",
            (
                Parameter("task", "whose memory"),
                Parameter("file", "an open file", optional=True),
                Parameter("frame", "a frame of the kernel's, mapped by a driver", optional=True),
                Parameter("pages", "how many", number=True, default="1"),
                Parameter("first", "first page of the file", number=True, default="0"),
                Parameter("shared", "MAP_SHARED", YES_NO, default="no"),
                Parameter("hugetlb", "MAP_HUGETLB, with huge pages of this size", HUGE_SIZES, optional=True),
                Parameter(
                    "huge",
                    "MADV_HUGEPAGE, where huge pages fit; or folios of 64 KiB",
                    ("yes", "64K"),
                    optional=True,
                ),
            ),
        ),
        Verb("unmap", "area", "munmap(2)", (TASK,)),
        Verb("msync", "area", "msync(2) MS_SYNC of all of it", (TASK,)),
        Verb("load", "area", "read memory", (TASK,), page=True),
        Verb("store", "area", "write memory", (TASK, DATA), page=True),
        Verb(
            "discard",
            "area",
            "madvise(2) MADV_DONTNEED",
            (TASK, Parameter("pages", "how many", number=True, default="1")),
            page=True,
        ),
        Verb("collapse", "area", "madvise(2) MADV_COLLAPSE of 512 pages: one huge page", (TASK,), page=True),
        Verb(
            "split",
            "area or file",
            "split the large folio that holds this page (debugfs split_huge_pages)",
            (TASK, Parameter("order", "of the parts, from 6.12 on", number=True, optional=True)),
            page=True,
        ),
        Verb("lock", "area or file", "mlock(2) of an area, SHM_LOCK of a System V segment", (TASK,)),
        Verb("unlock", "area or file", "munlock(2), SHM_UNLOCK", (TASK,)),
        Verb("read", "open file", "read(2) of a page", page=True),
        Verb(
            "write",
            "open file",
            "write(2) of a page, or of pages= in one call, all filled with the same",
            (DATA, Parameter("pages", "how many: at most 256", number=True, optional=True)),
            page=True,
        ),
        Verb("fsync", "open file", "fsync(2)"),
        Verb("truncate", "file", "ftruncate(2)", (Parameter("pages", "the new size", number=True),)),
        Verb(
            "punch",
            "file",
            "fallocate(2) FALLOC_FL_PUNCH_HOLE",
            (Parameter("pages", "how many", number=True, default="1"),),
            page=True,
        ),
        Verb("drop", "file", "drop the clean pages of a file from the page cache"),
        Verb(
            "disk",
            "state",
            "hold back writes, let them go, make them fail, or mend the disk",
            choices=("hold", "release", "fail", "mend"),
        ),
        Verb(
            "swapout",
            "area",
            "reclaim a page to swap; keep=yes leaves it in the swap cache",
            (
                TASK,
                Parameter("keep", "in the swap cache", YES_NO, default="no"),
                Parameter("pages", "all of a large folio, which is not split", number=True, optional=True),
            ),
            page=True,
        ),
        Verb("swapoff", "area of swap", "swapoff(2)", choices=("swap",)),
        Verb("pin", "area", "pin a page for a device (get_user_pages, FOLL_PIN)", (TASK, AS), page=True),
        Verb(
            "hold", "area or file", "a reference in flight, as of a read(2) under way", (TASK, AS), page=True
        ),
        Verb("release", "pin or hold", "end a pin or a hold"),
        Verb("dma", "pin or hold", "the device, or the reader of the pipe, takes the bytes"),
        Verb("busy", "file", "the journal needs the buffers of this page", page=True),
        Verb(
            "frame",
            "new frame",
            "name a page frame of the kernel's",
            (
                Parameter("kind", "whose", FRAME_KINDS),
                Parameter("fs", "of persistent memory: the file system there", optional=True),
            ),
        ),
        Verb(
            "filter",
            "state",
            "the injection filter: only pages with these flags, of files of one file system, of one cgroup",
            (
                Parameter("mask", "flag names, comma separated", default=""),
                Parameter("value", "flag names, comma separated", default=""),
                Parameter("fs", "a file system, for its device", optional=True),
                Parameter("group", "a memory cgroup, which pays for the page", optional=True),
            ),
            choices=("on", "off"),
        ),
        Verb(
            "nomemory",
            "who",
            "the next small allocations of the handler fail",
            (Parameter("times", "how many", number=True, default="1"),),
            choices=("handler",),
        ),
        Verb(
            "inject",
            "area, file, frame or hold",
            "an error that is reported to the handler",
            (Parameter("via", "how it comes in", WAYS_IN), TASK),
            page=True,
        ),
        Verb(
            "soft-offline",
            "area, file, frame or hold",
            "take a page out of use before it fails: its contents move, nobody is hurt",
            (Parameter("via", "how it is asked for", SOFT_WAYS), TASK),
            page=True,
        ),
        Verb(
            "unpoison",
            "area, file or frame",
            "make the frame good again that was struck or offlined there last (debugfs unpoison-pfn)",
            page=True,
        ),
        Verb(
            "migrate",
            "area",
            "move a page to another node, for all who map it: move_pages(2)",
            (TASK,),
            page=True,
        ),
        Verb(
            "compact",
            "area",
            "compact all memory (/proc/sys/vm/compact_memory): was this page moved?",
            (TASK,),
            page=True,
        ),
        Verb("offline-block", "frame", "take the block of memory with this frame out of the machine"),
        Verb("online-block", "frame", "bring it back"),
        Verb(
            "note",
            "area or file",
            "remember the frame of a page by a name",
            (AS, TASK),
            page=True,
        ),
        Verb(
            "break",
            "area, file or frame",
            "a real error that nobody has noticed yet",
            (TASK, Parameter("contained", "the processor cannot go on after it", ("no",), optional=True)),
            page=True,
        ),
        Verb(
            "look",
            "area, file or frame",
            "see the page table entry, or the page cache and the disk, or whether a frame is marked bad",
            (TASK,),
            page=True,
        ),
        Verb(
            "merge",
            "area",
            "MADV_MERGEABLE, and let ksmd run until two pages are one",
            (Parameter("with", "the other page: AREA:PAGE of its first owner"), TASK),
            page=True,
        ),
        Verb("unmerge", "area", "MADV_UNMERGEABLE: pages of its own again", (TASK,)),
        Verb("lazyfree", "area", "MADV_FREE: the contents are not needed any more", (TASK,), page=True),
        Verb("marker", "area", "UFFDIO_POISON: an untouched page counts as bad", (TASK,), page=True),
        Verb("seal", "file", "F_ADD_SEALS of a memfd", (Parameter("against", "what", SEALS),)),
        Verb(
            "peek",
            "area",
            "another task reads this memory",
            (BY, VIA, TASK),
            page=True,
        ),
        Verb("poke", "area", "another task writes this memory", (BY, VIA, DATA, TASK), page=True),
        Verb(
            "readv",
            "open file",
            "readv(2) into memory, one buffer a page; how much was transferred is seen",
            (Parameter("into", "the first page of memory: AREA:PAGE"), COUNT, TASK),
            page=True,
        ),
        Verb(
            "writev",
            "open file",
            "writev(2) from memory, one buffer a page; how much was transferred is seen",
            (Parameter("from", "the first page of memory: AREA:PAGE"), COUNT, TASK),
            page=True,
        ),
        Verb(
            "splice",
            "open file",
            "a page of a file into a pipe, and out of it again",
            (Parameter("via", "by which call", ("splice", "sendfile"), default="splice"),),
            page=True,
        ),
        Verb("coredump", "area", "the task dumps core and ends; what the core has", (TASK,), page=True),
        Verb("lost", "open file", "list the lost pages that it has not acknowledged: no kernel has the call"),
        Verb(
            "acknowledge",
            "open file",
            "it takes what the disk has of lost pages: no kernel has the call",
            (COUNT,),
            page=True,
        ),
        Verb(
            "hugepages",
            "size of huge pages",
            "set the size of a pool of hugetlb pages: nr_hugepages and nr_overcommit_hugepages",
            (
                Parameter("pages", "how many huge pages", number=True),
                Parameter("surplus", "how many more there may be while needed", number=True, default="0"),
            ),
            choices=HUGE_SIZES,
        ),
        Verb(
            "demote",
            "size of huge pages",
            "make smaller ones of free huge pages (demote)",
            (Parameter("pages", "how many", number=True, default="1"),),
            choices=("1G",),
        ),
        Verb("pool", "size of huge pages", "read the counters of a pool", choices=HUGE_SIZES),
        Verb("counters", "which", "read HardwareCorrupted and the node's counters", choices=("all",)),
    )
}
