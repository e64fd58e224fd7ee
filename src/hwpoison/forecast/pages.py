"""Single real pages: with their real users, who are looked up on the host and named in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwpoison.abi.forecast import Answer, PageLine, PagesForecast, Place, Setting
from hwpoison.abi.records import Verdict, Victim
from hwpoison.host.frames import FrameState, read_frames
from hwpoison.host.owners import Mapping, Owners, owners
from hwpoison.host.proc import Host, Progress

from .kinds import Kind, kind_of
from .oracle import Oracle
from .plant import User


def forecast_pages(
    host: Host, oracle: Oracle, setting: Setting, pfns: Sequence[int], progress: Progress | None = None
) -> PagesForecast:
    """What an error on each of these pages would do to whom. Raises Problem if they cannot be looked at."""
    frames = read_frames(host, pfns)
    found = owners(host, pfns, progress)
    return PagesForecast(setting, tuple(_page(oracle, frame, found) for frame in frames))


def _page(oracle: Oracle, frame: FrameState, found: Owners) -> PageLine:
    mappings = found.mappings[frame.pfn]
    kind, users = users_of(frame, mappings)
    answer, hit = oracle.of_page(kind, users)
    if answer.verdict is not None:
        answer = _with_real_names(answer, answer.verdict, hit, frame.pfn, found)
    places = tuple(Place(m.pid, m.comm, m.address, m.path, m.populated) for m in mappings)
    return PageLine(frame.pfn, frame.flags, frame.count, places, answer)


def users_of(frame: FrameState, mappings: Sequence[Mapping]) -> tuple[Kind, list[User]]:
    """The kind of a page and its users: those found, and for each one more that was counted somebody unknown.

    Count and search are of different moments, so more can be found than were counted, too.
    """
    populated = sum(mapping.populated for mapping in mappings)
    counted = max(frame.count or 0, populated)
    kind = kind_of(frame.flags, None if frame.count is None and not populated else counted)
    mapped = 0 if kind.mappers == 0 else max(counted, 1)
    users = [User(m.pid, m.shared, m.populated, m.address) for m in mappings]
    return kind, users + [User(-1 - number) for number in range(mapped - populated)]


def _with_real_names(
    answer: Answer, verdict: Verdict, hit: Sequence[User | None], pfn: int, found: Owners
) -> Answer:
    """The answer with the host's processes instead of those that stood for them."""
    names = {mapping.pid: mapping.comm for mapping in found.mappings[pfn]}
    victims = [
        _real(victim, user, names)
        for victim, user in zip(verdict.victims, hit, strict=True)
        if user is not None and user.process in names
    ]
    conditions = answer.conditions
    if missing := len(verdict.victims) - len(victims):
        unread = f" ({len(found.unread)} processes cannot be looked at)" if found.unread else ""
        conditions += (f"{missing} more that it hits could not be found on the host{unread}: not named here",)
    real = replace(verdict, pfn=pfn, victims=tuple(victims))
    return Answer(real, answer.consequence, conditions)


def _real(victim: Victim, user: User, names: dict[int, str]) -> Victim:
    address = user.address if victim.address is not None else None
    return replace(victim, pid=user.process, comm=names[user.process], address=address)
