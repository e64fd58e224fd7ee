"""How a page fault ends, and what the faulting thread gets for it (vm_fault_t, arch/x86/mm/fault.c)."""

from __future__ import annotations

from enum import Enum

from hwpoison.abi.signals import PAGE_SHIFT, SiCode, SigInfo, Signal


class Fault(Enum):
    """vm_fault_t. RETRY: look at the entry again."""

    DONE = "done"
    RETRY = "retry"
    SIGBUS = "bus error"
    HWPOISON = "bad memory"
    HWPOISON_LARGE = "bad memory in a huge page"
    SIGSEGV = "no such memory"


FAULT_SIGNALS: dict[Fault, SigInfo] = {
    Fault.SIGBUS: SigInfo(Signal.SIGBUS, SiCode.BUS_ADRERR, forced=True),
    Fault.HWPOISON: SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, lsb=PAGE_SHIFT, forced=True),
    Fault.HWPOISON_LARGE: SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AR, forced=True),
    Fault.SIGSEGV: SigInfo(Signal.SIGSEGV, forced=True),
}
"""do_sigbus() and its neighbours; the address is added when the signal is sent."""
