"""Whose pages are judged, by which kernel's handler, under which of the host's settings."""

from __future__ import annotations

import re

from hwpoison.abi.forecast import Setting
from hwpoison.failure.profiles import NEWEST, PROFILES, Profile, profile_named
from hwpoison.host.probe import HostFacts

from .oracle import Oracle, Policy


def choose_profile(release: str, asked: str | None) -> tuple[Profile, str]:
    """The profile to judge by, and why this one. Raises WrongUse if the one asked for does not exist.

    A release only ever names a default: "6.12.3-amd64" begins with the whole of "6.12", "6.18" with none.
    """
    if asked is not None:
        return profile_named(asked), "as asked for"
    fitting = [name for name in PROFILES if re.match(rf"{re.escape(name)}(?!\d)", release)]
    if fitting:
        return PROFILES[max(fitting, key=len)], "by its release"
    return NEWEST, "the newest known, as none is known for this release; --kernel chooses another"


def judge_of(
    facts: HostFacts, kernel: str | None = None, *, simulated: str | None = None
) -> tuple[Oracle, Setting]:
    """Who judges the pages of this host, and what is to be said about that. Raises WrongUse.

    Sysctls that the host's kernel does not have count as having their defaults.
    """
    profile, reason = choose_profile(facts.release, kernel)
    policy = Policy(early_kill=bool(facts.early_kill), recovery=facts.recovery is not False)
    setting = Setting(facts.release, facts.handler, facts.handler_evidence, profile.name, reason, simulated)
    return Oracle(profile, policy), setting
