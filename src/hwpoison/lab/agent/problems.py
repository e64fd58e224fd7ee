"""Why a scenario gives no outcome, or only the first part of one."""

from __future__ import annotations

from hwpoison.abi.problems import NotPossible


class CannotSetUp(NotPossible):
    """A real kernel cannot be brought into this state from outside, or not on this guest."""


class NeedsFreshBoot(NotPossible):
    """An earlier scenario has left something in this boot that this one would meet."""


class EndedEarly(NotPossible):
    """The kernel did not do what later steps rely on: what was seen until here is the answer."""


class WitnessFailed(NotPossible):
    """The agent itself went wrong, or two witnesses of one thing contradict each other."""
