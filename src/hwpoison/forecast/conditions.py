"""The handler run again with a fact changed that /proc does not show: where it decides otherwise, say so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hwpoison.abi.records import Verdict
from hwpoison.abi.results import MfResult

from .plant import Situation


@dataclass(frozen=True, slots=True)
class Variant:
    """One fact changed. ``when`` completes the sentence "… if <when>"."""

    when: str
    change: dict[str, object]

    def of(self, situation: Situation) -> Situation:
        return replace(situation, **self.change)  # type: ignore[arg-type]


VARIANTS: tuple[Variant, ...] = (
    Variant("somebody holds a reference that no page table shows (pinned for a device)", {"held": True}),
    Variant("a process has written to it through a mapping unnoticed so far", {"written": True}),
    Variant("its file system cannot drop a bad page (f2fs, fuse)", {"file_system": "f2fs"}),
    Variant(
        "its file system cannot drop a bad page (vfat), or it is a block device's", {"file_system": "vfat"}
    ),
    Variant("it belongs to a directory", {"regular": False}),
    Variant("the journal still needs it", {"busy": True}),
    Variant("its file has let go of it (truncated while in use)", {"truncated": True}),
    Variant("nobody has the file open", {"opened": False}),
    Variant("another process has it in swap", {"also_in_swap": True}),
    Variant("every free huge page is promised to a mapping (HugePages_Rsvd)", {"promised": True}),
    Variant("another process maps its place in the file without having touched it", {"covered": True}),
    Variant(
        "the processes want to be told early (prctl PR_MCE_KILL, vm.memory_failure_early_kill)",
        {"early": True},
    ),
    Variant(
        "a process reads the bad bytes in its memory before the hardware finds them", {"consumed": "load"}
    ),
    Variant(
        "the kernel reads the bad bytes, for read(2), before the hardware finds them", {"consumed": "read"}
    ),
)


def difference(usual: Verdict, other: Verdict) -> str | None:
    """What comes out otherwise, in a few words; None if nothing does."""
    if other.stops and not usual.stops:
        parts = _decision(usual, other) if other.result is not None else []
        return ", ".join([*parts, "the machine stops" + (" at the next read" if parts else "")])
    parts = [*_decision(usual, other), *_signals(usual, other), *_loss(usual, other)]
    if other.exposed and not usual.exposed and usual.result is not MfResult.IGNORED:
        parts.append("a device still gets the bad bytes")
    return ", ".join(parts) or None


def _decision(usual: Verdict, other: Verdict) -> list[str]:
    called = other.page_type if other.page_type is not usual.page_type else None
    if other.result is not usual.result:
        name = f' as "{called.log}"' if called else ""
        return [f"{_result(other)}{name} instead of {_result(usual)}"]
    return [f'called "{called.log}"'] if called else []


def _result(verdict: Verdict) -> str:
    return "no verdict" if verdict.result is None else verdict.result.text


def _signals(usual: Verdict, other: Verdict) -> list[str]:
    """Victims are compared by what they get and when, not by who they are."""
    before, after = (
        Counter((v.signal, v.code, v.when) for v in verdict.victims) for verdict in (usual, other)
    )
    if before == after:
        return []
    if not after:
        return ["nobody is signalled"]
    more = [
        f"{count} {'process gets' if count == 1 else 'processes get'} {signal.name} {code.name} {when}"
        for (signal, code, when), count in (after - before).items()
    ]
    return more or [f"only {after.total()} of {before.total()} processes are signalled"]


def _loss(usual: Verdict, other: Verdict) -> list[str]:
    if other.loss is None:
        return ["nothing is lost"] if usual.loss else []
    told = "; ".join(other.told) or "nobody is told"
    if usual.loss is None:
        return [f"lost: {other.loss} ({told})"]
    return [] if _calls(usual) == _calls(other) else [f"told otherwise: {told}"]


def _calls(verdict: Verdict) -> list[str]:
    """Who is told by a system call; signals are compared with the victims already."""
    return [text for text in verdict.told if not text.startswith("SIG")]
