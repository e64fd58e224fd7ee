"""Runs scenarios one after the other, each in a process of its own, and cleans up after each.

Whatever becomes of that process, everything is put back from outside of it. What it sees comes over a
pipe; the lines that matter if the machine stops are written to the results at once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import time
import traceback
from pathlib import Path
from typing import Any

from hwpoison.abi.problems import Problem
from hwpoison.abi.records import Observation
from hwpoison.lab.wire import Errand

from . import frames, groups, hotplug, huge, quiet
from .bench import PROGRAM, AboutTo
from .compaction import Room
from .disks import Disks, make_swap, modules
from .evidence import trace_instance
from .files import ROOT, Files
from .hardware import Hardware, handler_allocations
from .injection import unpoison
from .isolation import isolated
from .problems import CannotSetUp, NeedsFreshBoot, WitnessFailed
from .stub import executable
from .syscalls import CallFailed, libc
from .witness import Witness

PR_SET_CHILD_SUBREAPER = 36
CORE_PARTS = "/proc/self/coredump_filter"
PANIC_KNOBS = ("memory_failure_recovery", "panic_on_unrecoverable_memory_failure")


class Runner:
    """One boot. ``results`` is appended to."""

    def __init__(self, results: Path) -> None:
        self.results = os.open(results, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.release = os.uname().release
        self.disks = Disks()
        self.files = Files(self.disks)
        self.swap_ready = False

    def write(self, line: dict[str, Any]) -> None:
        """One line of the results. The host has it when write(2) returns: the file is not cached here."""
        os.write(self.results, json.dumps(line).encode() + b"\n")

    def set_up(self) -> None:
        """Make the guest ready: the injector, the programs, and quiet."""
        for kind, where in (
            ("tmpfs", ROOT),
            ("debugfs", "/sys/kernel/debug"),
            ("tracefs", "/sys/kernel/tracing"),
        ):
            try:
                quiet.mount(kind, Path(where), kind)
            except OSError as error:
                if kind == "tmpfs":
                    raise CannotSetUp(f"cannot mount a {kind} at {where}: {error.strerror}") from None
        modules("hwpoison-inject")
        PROGRAM.write_bytes(executable())
        PROGRAM.chmod(0o755)
        quiet.put(quiet.SETTINGS)
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.sched_setaffinity(0, {0})  # one list of fresh pages, one order of events
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._warm_up()

    def _warm_up(self) -> None:
        """What every scenario's process would find out or do again: once, before they are forked."""
        frames.zero_page()
        with contextlib.suppress(WitnessFailed):  # each scenario will say so
            trace_instance()
        gc.freeze()  # no collection writes to pages that they share with us
        gc.disable()

    def run(self, errands: list[Errand]) -> None:
        """Run them all; last those that may stop the machine, so that one boot answers for most.

        Before them those with errors of the hardware, after which a kernel makes no frame good again, and
        before those the ones that take memory out of the machine.
        """
        for errand in sorted(errands, key=lambda e: (may_stop(e), really_bad(e), takes_memory(e))):
            self.write({"begin": errand.name})
            started = time.monotonic()
            answer = self._one(errand)
            answer["seconds"] = round(time.monotonic() - started, 2)
            self.write({"scenario": errand.name, **answer})

    def _one(self, errand: Errand) -> dict[str, Any]:
        bad: list[int] = []
        answer: dict[str, Any] = {"failed": "it ended without an answer"}
        try:
            self._prepare(errand)
            for line in isolated(lambda writer: self._child(errand, writer), lambda: self._release(errand)):
                if "frame" in line:
                    bad.append(line["frame"])
                else:
                    answer = line
        except Problem as problem:
            answer = {"cannot": str(problem)}
        except OSError as error:
            answer = {"failed": f"preparing: {error}"}
        left = self._clean_up(errand, bad)
        return {**answer, "bad_frames_left": left}

    def _prepare(self, errand: Errand) -> None:
        """File systems and swap, before the scenario and out of its process: they stay."""
        for step in errand.steps:
            if step.verb == "file" or (step.verb == "frame" and step.get("fs")):
                self.files.prepare(step.args["fs"])
        for number in range(sum(step.get("fs") == "bdev" for step in errand.steps)):
            self.disks.get(f"bdev {number}")
        if holds_disk(errand):
            for state in ("delay", "flakey"):
                modules(f"dm-{state}")
        if any(step.verb == "nomemory" for step in errand.steps):
            handler_allocations()
        if errand.swap:
            self._swap_on()

    def _swap_on(self) -> None:
        path = self.disks.get("swap").path
        if not self.swap_ready:
            make_swap(path)
            self.swap_ready = True
        if libc.swapon(path.encode(), 0) < 0:
            raise CannotSetUp(f"swapon {path} failed")

    def _child(self, errand: Errand, writer: int) -> None:
        """Run it, and write its answer, in the process of its own."""

        def send(line: dict[str, Any]) -> None:
            os.write(writer, json.dumps(line).encode() + b"\n")

        def about_to(step: int, frame: int | None, seen: list[Observation]) -> None:
            if frame is not None:
                send({"frame": frame})
            self.write({"scenario": errand.name, "at": step, "observations": [o.as_dict() for o in seen]})

        try:
            if not any(step.verb == "coredump" for step in errand.steps):
                quiet.write_once(CORE_PARTS, "0")  # to dump memory is to bring it in
            send(self._answer(errand, about_to))
        except BaseException as problem:
            last = traceback.extract_tb(problem.__traceback__)[-1]
            send({"failed": f"{problem!r} at {Path(last.filename).name}:{last.lineno}"})

    def _answer(self, errand: Errand, about_to: AboutTo) -> dict[str, Any]:
        try:
            room = Room() if any(step.verb == "compact" for step in errand.steps) else None
            witness = Witness(self.disks, self.files, about_to)
            witness.room = room
            stopped = witness.run(errand.steps)
        except CannotSetUp as problem:
            return {"cannot": str(problem)}
        except NeedsFreshBoot as problem:
            return {"again": str(problem)}
        except (Problem, CallFailed) as problem:
            return {"failed": str(problem)}
        series = re.match(r"\d+\.\d+", self.release)
        return {
            "kernel": series[0] if series else self.release,
            "witness": self.release,
            "observations": [seen.as_dict() for seen in witness.seen],
            "losses": [],
            "broken": [],
            **({"stopped": stopped} if stopped else {}),
        }

    def _release(self, errand: Errand) -> None:
        """Let go what the disks hold back: a killed task that waits for it would never end."""
        if holds_disk(errand):
            for disk in self.disks.by_name.values():
                disk.load("linear")  # what became of them in the scenario's process is not known here

    def _clean_up(self, errand: Errand, bad: list[int]) -> list[int]:
        """Put everything back; the bad frames that stay so."""
        verbs = {step.verb for step in errand.steps}
        if verbs & {"sysctl", "filter"} or any(step.get("huge") == "64K" for step in errand.steps):
            quiet.put(quiet.DEFAULTS)
        if "merge" in verbs:
            quiet.put(quiet.KSM_FORGET)
        if errand.swap:
            libc.swapoff(self.disks.get("swap").path.encode())
        self.files.empty(check="disk" in verbs)
        if "group" in verbs:
            groups.remove()
        if takes_memory(errand):
            hotplug.all_online()
        for core in ROOT.glob("core.*"):
            core.unlink()
        if any(step.verb in ("break", "nomemory") for step in errand.steps):
            mend()
        unpoison(bad)
        huge.empty_pools()
        return unpoison(bad)  # a mark within a huge page shows when it is dissolved


def mend() -> None:
    """Make memory as good again as it was, whatever the kernel thinks of it."""
    with contextlib.suppress(CannotSetUp):
        line = Hardware()
        line.mend()
        line.close()


def really_bad(errand: Errand) -> bool:
    """Does it have errors of the hardware itself?"""
    return any(step.verb == "break" or step.get("via") == "scrub" for step in errand.steps)


def holds_disk(errand: Errand) -> bool:
    """Does it hold writes to a disk back?"""
    return any(step.verb in ("disk", "swapout") for step in errand.steps)


def takes_memory(errand: Errand) -> bool:
    """Does it take a block of memory out of the machine, which may not come back?"""
    return any(step.verb == "offline-block" for step in errand.steps)


def may_stop(errand: Errand) -> bool:
    """Does it turn a knob that makes the handler panic?"""
    return any(step.verb == "sysctl" and step.subject in PANIC_KNOBS for step in errand.steps)
