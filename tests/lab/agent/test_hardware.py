"""The guest's end of the line to its hardware, with a terminal in the place of the serial line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hwpoison.lab.agent import hardware as agent
from hwpoison.lab.agent.hardware import (
    CALLERS,
    Hardware,
    direct_map,
    functions,
    handler_allocations,
    need_vendor,
)
from hwpoison.lab.agent.problems import CannotSetUp, WitnessFailed

from ..cores import kcore

Answer = Callable[[dict[str, object]], dict[str, object]]


def line(answer: Answer) -> tuple[Hardware, list[dict[str, object]]]:
    """A line whose other end answers so, and what it is asked."""
    ours, theirs = os.openpty()
    asked: list[dict[str, object]] = []

    def serve() -> None:
        text = b""
        while True:
            text += os.read(ours, 4096)
            while b"\n" in text:
                one, _, text = text.partition(b"\n")
                asked.append(json.loads(one))
                os.write(ours, json.dumps(answer(asked[-1])).encode() + b"\n")

    threading.Thread(target=serve, daemon=True).start()
    return Hardware(os.ttyname(theirs)), asked


def test_a_request_is_answered_and_not_echoed() -> None:
    hardware, asked = line(lambda _request: {"done": True})
    hardware.mend()
    hardware.ask(do="balloon", mib=900)
    assert asked == [{"do": "mend"}, {"do": "balloon", "mib": 900}]


def test_the_hosts_reason_is_passed_on() -> None:
    hardware, _asked = line(lambda _request: {"problem": "CPU 0: reporting disabled"})
    with pytest.raises(CannotSetUp, match="CPU 0: reporting disabled"):
        hardware.mend()


def test_a_host_that_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "SECONDS", 0.1)
    _ours, theirs = os.openpty()
    with pytest.raises(CannotSetUp, match="has not answered"):
        Hardware(os.ttyname(theirs)).mend()


def test_a_guest_without_the_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(CannotSetUp, match="No such file"):
        Hardware(str(tmp_path / "ttyS1"))


def test_the_direct_map_is_found_in_the_kernels_own_core_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(agent, "KCORE", str(kcore(tmp_path, (0xFFFF888000001000, 0x1000, 0x9F000))))
    assert direct_map(3) == 0xFFFF888000003000
    with pytest.raises(CannotSetUp, match="frame 0xa0"):
        direct_map(0xA0)


def test_a_function_ends_where_the_next_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    symbols.write_text(
        "ffffffff81000100 t add_to_kill\nffffffff81000100 t also_here\n"
        "ffffffff81000180 T collect_procs.isra.0\n"
        "ffffffff81000200 t not_add_to_kill_but_other\nffffffff81000300 T __add_to_kill_x\t[mod]\n"
        "ffffffff81000400 D add_to_kill\nffffffff81000500 T end\n"
    )
    monkeypatch.setattr(agent, "KALLSYMS", symbols)
    found = [(0x100, 0x180), (0x180, 0x200), (0x300, 0x400)]
    assert [(a & 0xFFF, b & 0xFFF) for a, b in functions(CALLERS)] == found


def test_allocations_cannot_fail_where_the_handler_is_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kallsyms").write_text("ffffffff81000100 t vfs_read\nffffffff81000200 t vfs_write\n")
    monkeypatch.setattr(agent, "KALLSYMS", tmp_path / "kallsyms")
    handler_allocations.cache_clear()
    hardware, asked = line(lambda _request: {"done": True})
    with pytest.raises(CannotSetUp, match="does not name the handler's functions"):
        hardware.fail_allocations(1)
    assert not asked


@pytest.mark.parametrize(("vendor", "possible"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_other_processors_tell_their_errors_otherwise(
    vendor: str, possible: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(agent, "CPUINFO", tmp_path / "cpuinfo")
    if possible:
        need_vendor()
    else:
        with pytest.raises(CannotSetUp, match="AuthenticAMD"):
            need_vendor()


def test_a_scrubbed_error_that_the_kernel_never_prints_is_the_labs_own_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hardware, asked = line(lambda _request: {"done": True})
    (tmp_path / "log").write_text("")
    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
    for name, value in (("CPUINFO", "cpuinfo"), ("KMSG", "log"), ("KNOBS", "")):
        monkeypatch.setattr(agent, name, tmp_path / value)
    for knob in ("print_all", "monarch_timeout"):
        (tmp_path / knob).touch()
    monkeypatch.setattr(agent, "SECONDS", 0.3)
    with pytest.raises((WitnessFailed, CannotSetUp)):
        hardware.scrub(0x42)
    assert asked == [{"do": "scrub", "frame": 0x42}]
    assert (tmp_path / "print_all").read_text() == "1"
