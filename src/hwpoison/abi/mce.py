"""Intel's machine check architecture (arch/x86/include/asm/mce.h): what stands in a bank of errors."""

from __future__ import annotations

from .signals import PAGE_SHIFT

VALID, UNCORRECTED, ENABLED, MISC_VALID, ADDRESS_VALID, CORRUPT, SIGNALLED, ACTION_REQUIRED = (
    1 << bit for bit in (63, 61, 60, 59, 58, 57, 56, 55)
)
"""Bits of the status. CORRUPT: the processor's own state is lost (PCC)."""
CORRECTED_READ = VALID | ENABLED | MISC_VALID | ADDRESS_VALID | 0x009F
"""A read error of the memory controller that was corrected."""
REPORTED = VALID | UNCORRECTED | ENABLED | MISC_VALID | ADDRESS_VALID | SIGNALLED
SCRUBBED = REPORTED | 0x00C0
"""Found by the memory controller's scrubber."""
CONSUMED = REPORTED | ACTION_REQUIRED | 0x0134
"""A load met it in the data cache."""
PHYSICAL_PAGE = 2 << 6 | PAGE_SHIFT
"""What the address is: a physical one, good to a page of 2^12 bytes."""
