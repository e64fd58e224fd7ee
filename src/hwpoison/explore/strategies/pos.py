"""Partial order sampling: every pending operation has a random priority, drawn anew when it has raced.

Yuan, Yang, Gu (CAV 2018). The best at finding atomicity violations, in the measurements behind this package.
"""

from __future__ import annotations

from hwpoison.mm.locks import Op

from .random_walk import RandomWalk, members


class Pos(RandomWalk):
    name = "pos"

    def begin(self) -> None:
        self.priorities: dict[int, float] = {}

    def pick(self, enabled: int) -> int:
        for tid in members(enabled):
            if tid not in self.priorities:
                self.priorities[tid] = self.draw.random()
        best = max(members(enabled), key=self.priorities.__getitem__)
        strands = self.engine.strands
        op, on = strands[best].op, strands[best].on
        del self.priorities[best]
        for tid in members(enabled):
            other = strands[tid]
            if tid != best and other.on is on and not (op is other.op is Op.READ):
                self.priorities.pop(tid, None)
        return best
