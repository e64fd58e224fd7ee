"""How a fault ends, and the signal it gives."""

from __future__ import annotations

from hwpoison.abi.signals import PAGE_SHIFT, SiCode, Signal
from hwpoison.mm.fault import FAULT_SIGNALS, Fault


def test_every_bad_end_is_a_signal_that_cannot_be_missed() -> None:
    assert set(FAULT_SIGNALS) == set(Fault) - {Fault.DONE, Fault.RETRY}
    assert all(info.forced for info in FAULT_SIGNALS.values())


def test_only_bad_memory_says_how_much_was_lost() -> None:
    """arch/x86/mm/fault.c do_sigbus(): BUS_MCEERR_AR with the size, anything else BUS_ADRERR."""
    bad, other = FAULT_SIGNALS[Fault.HWPOISON], FAULT_SIGNALS[Fault.SIGBUS]
    assert (bad.signal, bad.code, bad.lsb) == (Signal.SIGBUS, SiCode.BUS_MCEERR_AR, PAGE_SHIFT)
    assert (other.signal, other.code, other.lsb) == (Signal.SIGBUS, SiCode.BUS_ADRERR, 0)
