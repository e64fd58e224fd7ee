"""The flags of memory_failure() (enum mf_flags, include/linux/mm.h)."""

from __future__ import annotations

MF_COUNT_INCREASED = 1 << 0
"""The caller has taken a reference, which the handler now owns."""
MF_ACTION_REQUIRED = 1 << 1
"""The current task has consumed the error: it cannot go on without knowing."""
MF_MUST_KILL = 1 << 2
"""It cannot be resumed either: kill, whatever the page."""
MF_SW_SIMULATED = 1 << 5
"""No hardware was involved; the page can be unpoisoned."""
