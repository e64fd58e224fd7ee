"""What this host can do and show: whether its kernel has the handler, how it is set, which files can be read.

Never from version numbers: distributions carry changes back, and kernels are built without the handler.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hwpoison.abi.problems import NotPossible
from hwpoison.abi.signals import PAGE_SIZE

from .pagetables import entries, present_frames
from .proc import Host, reason, unreadable
from .vmas import areas

# Each exists only with CONFIG_MEMORY_FAILURE; the line of meminfo is searched for, the others are files.
_SYSCTL = "proc/sys/vm/memory_failure_early_kill"
_OFFLINE = "sys/devices/system/memory/hard_offline_page"
_MEMINFO, _MEMINFO_LINE = "proc/meminfo", "HardwareCorrupted"
_ENTRY_FILES = ("proc/kpageflags", "proc/kpagecount", "proc/kpagecgroup")
_PAGEMAP = "proc/self/pagemap"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host, as far as memory errors are concerned.

    ``handler``: the kernel has memory_failure(); ``handler_evidence`` is a sentence. ``early_kill``,
    ``recovery`` and ``soft_offline`` are the sysctls vm.memory_failure_early_kill, memory_failure_recovery
    and enable_soft_offline, None where the kernel has none. ``can_read``: file → None, or why it cannot be.
    """

    release: str
    page_size: int
    handler: bool
    handler_evidence: str
    early_kill: bool | None
    recovery: bool | None
    soft_offline: bool | None
    uid_is_root: bool
    can_read: dict[str, str | None]


def probe(host: Host) -> HostFacts:
    """Find out about the host. Raises NotPossible without /proc, or if its pages are not of 4 KiB."""
    try:
        release = host.read_text("proc/sys/kernel/osrelease")
    except OSError as error:
        raise unreadable(host.path("proc/sys/kernel/osrelease"), error) from None
    if host.page_size != PAGE_SIZE:
        raise NotPossible(
            f"the pages of this host ({release}) have {host.page_size} bytes: only base pages of {PAGE_SIZE} "
            "bytes are modelled"
        )
    handler, evidence = _handler(host)
    can_read = {f"/{name}": _first_entry(host, name) for name in _ENTRY_FILES}
    can_read[f"/{_PAGEMAP}"] = _own_frames(host)
    return HostFacts(
        release,
        host.page_size,
        handler,
        evidence,
        _switch(host, _SYSCTL),
        _switch(host, "proc/sys/vm/memory_failure_recovery"),
        _switch(host, "proc/sys/vm/enable_soft_offline"),
        os.geteuid() == 0,
        can_read,
    )


def _handler(host: Host) -> tuple[bool, str]:
    for name in (_SYSCTL, _OFFLINE):
        if host.path(name).exists():
            return True, f"/{name} exists"
    files = f"neither /{_SYSCTL} nor /{_OFFLINE} exists"
    try:
        if _MEMINFO_LINE in host.read_text(_MEMINFO):
            return True, f"/{_MEMINFO} has a line {_MEMINFO_LINE}"
    except OSError as error:
        return False, f"{files}, and /{_MEMINFO} cannot be read: {reason(error)}"
    return False, (
        f"{files}, and /{_MEMINFO} has no line {_MEMINFO_LINE}: the kernel was built without "
        "CONFIG_MEMORY_FAILURE"
    )


def _switch(host: Host, name: str) -> bool | None:
    try:
        return host.read_text(name) != "0"
    except OSError:
        return None


def _first_entry(host: Host, name: str) -> str | None:
    try:
        with host.open(name) as descriptor:
            os.pread(descriptor, 8, 0)
    except OSError as error:
        return reason(error)
    return None


def _own_frames(host: Host) -> str | None:
    """Page tables can be read by everybody who may trace the process; frame numbers in them take more."""
    try:
        for _, block in entries(host, "self", areas(host, "self")[:1]):
            present_frames(block)
    except OSError as error:
        return reason(error)
    except NotPossible as problem:
        return str(problem)
    return None
