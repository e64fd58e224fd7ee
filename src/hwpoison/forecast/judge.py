"""Strike the planted page, run the handler, let everybody touch the page afterwards, and see what it came to.

The error is a real one, found by the hardware before anybody reads the bad bytes (patrol scrubbing); the
situation may say that somebody reads them first. What is lost is found by comparing contents, and who is
told by asking: each process loads from its address, each open file is read and synchronized.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hwpoison.abi.records import Note, Verdict, Victim, When
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import PAGE_SHIFT, Errno, SigInfo
from hwpoison.failure import inject
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import Profile
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Panic
from hwpoison.mm.memory import load
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.writeback import fsync

from .plant import NotReproduced, Planted, User

Consumed = Literal["load", "read", None]


@dataclass(slots=True)
class Seen:
    """What was seen after the error. ``stale``: somebody read other contents, and nothing told him.

    ``known``: who has which address of which task; None stands for any address.
    """

    known: dict[tuple[int, int | None], User]
    victims: list[tuple[User | None, Victim]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    stale: bool = False
    stops: str | None = None

    @classmethod
    def by(cls, users: Iterable[tuple[Task, int, User]]) -> Seen:
        known: dict[tuple[int, int | None], User] = {}
        for task, vpn, user in users:
            known[task.pid, vpn << PAGE_SHIFT] = user
            known.setdefault((task.pid, None), user)
        return cls(known)

    def hit(self, task: Task, info: SigInfo, when: When) -> None:
        """Note a signal, with the user whose address it names."""
        user = self.known.get((task.leader.pid, info.address))
        self.victims.append((user, Victim.of(task.pid, task.comm, info, when)))


def judge(planted: Planted, profile: Profile, consumed: Consumed = None) -> tuple[Verdict, Seen]:
    """The verdict, and who was seen to meet the error. ``consumed``: how somebody reads the bad bytes first.

    Raises NotReproduced if nobody could read them.
    """
    failure = MemoryFailure(planted.vm, profile)
    seen = Seen.by(planted.users)
    try:
        returned = (
            _consume(planted, failure, consumed) if consumed else inject.deferred(failure, planted.frame.pfn)
        )
    except Panic as stop:
        return Verdict(planted.frame.pfn, None, None, 0, stops=str(stop)), seen
    planted.vm.deliver_signals()
    for leader in planted.vm.tasks.values():
        for thread in leader.threads:
            for info in thread.received:
                seen.hit(thread, info, "at once")
    try:
        _touch(planted, seen)
    except Panic as stop:
        seen.stops = str(stop)
    return _verdict(planted, failure, returned, seen), seen


def _consume(planted: Planted, failure: MemoryFailure, how: Consumed) -> int:
    """A process loads from the bad page, or reads it from its file; what the handler then returned."""
    mapped = [(task, vpn) for task, vpn, user in planted.users if user.populated and how == "load"]
    files = planted.files if how == "read" and planted.inode is not None else []
    if not mapped and not files:
        raise NotReproduced("nobody can read the page in this way")
    planted.vm.strike(planted.frame.pfn, hardware=True)
    try:
        for task, vpn in mapped[:1]:
            load(task, vpn)
        for file in files[:1]:
            planted.vm.read(file, planted.index)
    except (Signalled, SysError):
        pass  # signals are noted with all others
    if not failure.events:
        raise NotReproduced("nobody met the bad bytes")
    handled = failure.events[0].result in (MfResult.RECOVERED, MfResult.DELAYED)
    return 0 if handled else -Errno.EBUSY


def _touch(planted: Planted, seen: Seen) -> None:
    """Every user, every open file, and whoever holds the page without mapping it. Raises Panic."""
    vm = planted.vm
    for task, vpn, _user in planted.users:
        if task.exited or task.mm is None:
            continue
        try:
            seen.stale |= load(task, vpn) != planted.content
        except Signalled as signalled:
            seen.hit(task, signalled.info, "on access")
    if planted.inode is not None:
        for file in planted.files or [File(planted.inode, "opened later")]:
            _ask(planted, file, seen)
    if planted.device:
        vm.device_reads(planted.frame)


def _ask(planted: Planted, file: File, seen: Seen) -> None:
    """Read from an open file, and synchronize it."""
    try:
        seen.stale |= planted.vm.read(file, planted.index) != planted.content
    except SysError as error:
        seen.told.append(f"{error.errno.name} from read(2)")
    try:
        fsync(file)
    except SysError as error:
        whose = "each open file" if planted.files else "the first to open the file later"
        seen.told.append(f"{error.errno.name} from fsync(2), once for {whose}")


def _verdict(planted: Planted, failure: MemoryFailure, returned: int, seen: Seen) -> Verdict:
    event = failure.events[0] if failure.events else None
    told: list[str] = []
    loss = None
    if planted.last_copy and event is not None and event.result is not MfResult.IGNORED:
        loss = _what_is_lost(planted, seen)
        told = [*_signalled(seen), *dict.fromkeys(seen.told)]
    return Verdict(
        pfn=planted.frame.pfn,
        page_type=event.type if event else None,
        result=event.result if event else None,
        returned=returned,
        victims=tuple(victim for _user, victim in seen.victims),
        loss=loss,
        told=tuple(told),
        durable=loss is not None and planted.inode is not None,
        exposed=bool(planted.vm.exposures),
        stops=seen.stops,
        reason=event.reason if event else "",
        row=event.row if event else None,
    )


def _what_is_lost(planted: Planted, seen: Seen) -> str:
    """In words, from what the users saw."""
    if planted.inode is None:
        lost = f"the contents of the {planted.what}, which was memory of processes"
    elif planted.inode.fs.can_writeback:
        lost = "what was written to the file since it was last on the disk"
    else:
        lost = f"the contents of this {planted.what} of the file"
    if planted.vm.exposures and not planted.device and not seen.stale:
        return f"{lost}; the write under way takes bad bytes to the disk"
    if seen.stale:
        return f"{lost}; read(2) gives older contents without an error"
    return lost


def _signalled(seen: Seen) -> list[str]:
    """Which signals told processes of it."""
    texts = (
        f"{victim.signal.name} to each process that maps it, {victim.when}" for _, victim in seen.victims
    )
    return list(dict.fromkeys(texts))


def story(planted: Planted, profile: Profile) -> list[Note]:
    """What the handler says about each of its steps."""
    planted.vm.story = []
    inject.deferred(MemoryFailure(planted.vm, profile), planted.frame.pfn)
    return planted.vm.story
