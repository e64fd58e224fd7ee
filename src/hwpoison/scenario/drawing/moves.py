"""All moves. A new verb joins with an entry in one of these tables, or with a reason in limits.UNDRAWN."""

from __future__ import annotations

from .move import Move
from .moves_errors import ERRORS
from .moves_files import FILES
from .moves_huge import HUGE
from .moves_memory import MEMORY
from .moves_tasks import TASKS
from .moves_ways import WAYS

MOVES: tuple[Move, ...] = (*TASKS, *FILES, *MEMORY, *ERRORS, *WAYS, *HUGE)
