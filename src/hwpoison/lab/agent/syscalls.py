"""The numbers of the system calls we make (arch/x86/entry/syscalls/syscall_64.tbl), and calls of our own."""

from __future__ import annotations

import ctypes
import errno
import os

from hwpoison.abi.signals import Errno

READ, WRITE, OPEN, CLOSE, MMAP, MUNMAP, RT_SIGACTION, RT_SIGPROCMASK = 0, 1, 2, 3, 9, 11, 13, 14
PREAD64, PWRITE64, MADVISE, DUP2, GETPID, CLONE, EXECVE, FSYNC, FTRUNCATE = 17, 18, 28, 33, 39, 56, 59, 74, 77
MSYNC, MS_SYNC = 26, 4
MLOCK, MUNLOCK, PRCTL, SWAPOFF, GETTID, EXIT_GROUP, SPLICE, TEE, VMSPLICE = (
    149, 150, 157, 168, 186, 231, 275, 276, 278
)  # fmt: skip
FALLOCATE, PWRITEV, BPF, IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 285, 296, 321, 425, 426, 427
ARCH_PRCTL = 158
MOVE_PAGES, PIDFD_OPEN, PIDFD_GETFD = 279, 434, 438
FINIT_MODULE = 313
IOCTL, SHMGET, SHMAT, SHMCTL, SENDFILE, WAIT4, FCNTL, PTRACE = 16, 29, 30, 31, 40, 61, 72, 101
PREADV, PROCESS_VM_READV, PROCESS_VM_WRITEV, USERFAULTFD, MEMFD_SECRET = 295, 310, 311, 323, 447

PAGE = 4096
PROT_READ, PROT_RW = 1, 3
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE = 0x1, 0x2, 0x10, 0x20, 0x100000
CLONE_VM, CLONE_THREAD_FLAGS, CLONE_PARENT = 0x100, 0x50F00, 0x8000  # VM FS FILES SIGHAND THREAD SYSVSEM
MADV_DONTNEED, MADV_HUGEPAGE, MADV_PAGEOUT, MADV_COLLAPSE = 4, 14, 21, 25
MADV_FREE, MADV_MERGEABLE, MADV_UNMERGEABLE = 8, 12, 13
MADV_HWPOISON, MADV_SOFT_OFFLINE = 100, 101
MPOL_MF_MOVE_ALL = 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long


def name_of(number: int) -> str:
    """The name of an errno, as the model spells it."""
    try:
        return Errno(number).name
    except ValueError:
        return errno.errorcode.get(number, f"errno {number}")


class CallFailed(OSError):
    """A system call that a step asked for failed: something to be seen, unlike other OSErrors."""


def call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    """A system call of this process. Raises CallFailed."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise CallFailed(ctypes.get_errno(), name_of(ctypes.get_errno()))
    return result


def map_file(descriptor: int, pages: int, offset: int = 0, *, writable: bool = True) -> int:
    """A shared mapping in this process; its address. Raises OSError."""
    access = PROT_RW if writable else PROT_READ
    address = libc.mmap(None, pages * PAGE, access, MAP_SHARED, descriptor, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def unmap(address: int, pages: int) -> None:
    libc.munmap(address, pages * PAGE)
