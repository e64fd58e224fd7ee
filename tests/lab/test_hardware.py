"""Hardware errors, with a stand-in for QEMU: which machine check, at which moment, on which processor."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible
from hwpoison.lab.agent import stub
from hwpoison.lab.hardware import CONSUMED, SCRUBBED, Hardware, Server
from hwpoison.lab.qemu import REGISTERS, Debugger, Monitor

from .stand_in import KERNEL, Moment, StandIn

BAD, GOOD = 0x1234, 0x4321
DIRECT = 0xFFFF888001234000
THERE, HERE = 0x1000000000, 0x70002000
ACTION_REQUIRED, IN_USER_MODE = 1 << 55, 0x134


@pytest.fixture
def qemu(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.fixture
def hardware(qemu: StandIn) -> Iterator[Hardware]:
    made = Hardware(qemu.monitor, qemu.debugger)
    yield made
    made.close()


def run_on(hardware: Hardware) -> None:
    """See to every stop that the stand-in still has."""
    debugger = hardware.debugger
    assert debugger is not None
    while select.select([debugger], [], [], 0.3)[0]:
        if debugger.heard():
            hardware.at_a_stop(debugger)


def test_a_scrubbed_error_is_a_machine_check_that_asks_for_nothing(qemu: StandIn, hardware: Hardware) -> None:
    hardware.do({"do": "scrub", "frame": BAD})
    (cpu, _bank, status, general, address, misc), *more = qemu.machine_checks()
    assert not more
    assert (int(cpu), int(status, 16), int(address, 16)) == (0, SCRUBBED, BAD << 12)
    assert not int(status, 16) & ACTION_REQUIRED
    assert int(general, 16) == 0b101, "restartable, in progress"
    assert int(misc, 16) == 0x8C, "a physical address, good to a page"


def test_what_the_monitor_says_against_it_reaches_the_guest(qemu: StandIn, hardware: Hardware) -> None:
    qemu.refuses = "CPU 0: Uncorrected error reporting disabled\r\n"
    with pytest.raises(NotPossible, match=r"'mce': CPU 0: Uncorrected error reporting disabled"):
        hardware.do({"do": "scrub", "frame": BAD})


def test_a_bad_frame_does_nothing_until_it_is_read(qemu: StandIn, hardware: Hardware) -> None:
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    run_on(hardware)
    assert not qemu.machine_checks()
    assert f"Z1,{stub.COPY_AT:x},1" in qemu.asked
    assert f"Z3,{DIRECT:x},1000" in qemu.asked


def test_the_load_of_a_task_is_stopped_at_the_instruction_that_loads(
    qemu: StandIn, hardware: Hardware
) -> None:
    qemu.frames = {THERE >> 12: BAD, HERE >> 12: GOOD}
    qemu.stops.append(Moment(stub.COPY_AT, rsi=THERE, rdi=HERE, cpu=1))
    qemu.steps.append(Moment(stub.FAULT_AT, rsi=THERE, rdi=HERE, cpu=1))
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    run_on(hardware)
    ((cpu, _bank, status, general, address, _misc),) = qemu.machine_checks()
    assert (int(cpu), int(status, 16), int(address, 16)) == (1, CONSUMED, BAD << 12)
    assert int(status, 16) & ACTION_REQUIRED
    assert int(general, 16) == 0b1111, "restartable, at this instruction, in progress, this processor only"
    assert qemu.asked[-1] == "c", "and it goes on"
    assert f"Z1,{stub.FAULT_AT:x},1" in qemu.asked, "where the load is repeated it is met again"


def test_a_load_from_another_frame_at_the_same_address_goes_on(qemu: StandIn, hardware: Hardware) -> None:
    qemu.frames = {THERE >> 12: GOOD, HERE >> 12: GOOD}
    qemu.stops.append(Moment(stub.COPY_AT, rsi=THERE, rdi=HERE))
    qemu.steps.append(Moment(stub.FAULT_AT, rsi=THERE, rdi=HERE))
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    run_on(hardware)
    assert not qemu.machine_checks()
    assert f"Z1,{stub.FAULT_AT:x},1" not in qemu.asked


def test_a_page_that_is_mapped_only_by_the_fault_is_met_after_it(qemu: StandIn, hardware: Hardware) -> None:
    qemu.frames = {HERE >> 12: GOOD}
    at_the_load = Moment(stub.FAULT_AT, rsi=THERE, rdi=HERE)
    qemu.stops.extend([Moment(stub.COPY_AT, rsi=THERE, rdi=HERE), at_the_load])
    qemu.steps.extend([at_the_load, Moment(0xFFFFFFFF81000000, KERNEL)])
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    debugger = hardware.debugger
    assert debugger is not None
    while not debugger.heard():
        pass
    hardware.at_a_stop(debugger)
    assert not qemu.machine_checks()
    qemu.frames[THERE >> 12] = BAD
    run_on(hardware)
    assert [int(address, 16) for _cpu, _bank, _status, _general, address, _misc in qemu.machine_checks()] == [
        BAD << 12
    ]


def test_a_load_of_the_kernel_by_its_own_mapping_is_met(qemu: StandIn, hardware: Hardware) -> None:
    qemu.stops.append(Moment(0xFFFFFFFF81234567, KERNEL, watched=DIRECT + 8))
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    run_on(hardware)
    ((_cpu, _bank, status, *_rest),) = qemu.machine_checks()
    assert int(status, 16) == CONSUMED


def test_an_allocation_of_the_handler_fails_and_no_other(qemu: StandIn, hardware: Hardware) -> None:
    allocator, handler, other, stack = (
        0xFFFFFFFF81300000,
        0xFFFFFFFF81200010,
        0xFFFFFFFF81400000,
        0xFFFFC90000001000,
    )
    qemu.words[stack], qemu.words[stack + 64] = handler, other
    qemu.stops.extend([Moment(allocator, KERNEL, rsp=stack + 64), Moment(allocator, KERNEL, rsp=stack)])
    qemu.steps.append(Moment(allocator + 4, KERNEL))
    callers = [[handler - 0x10, handler + 0x10]]
    hardware.do({"do": "nomemory", "times": 1, "callers": callers, "allocators": [allocator]})
    run_on(hardware)
    (written,) = [line[1:] for line in qemu.asked if line[0] == "G"]
    words = dict(zip(REGISTERS, struct.unpack("<17Q", bytes.fromhex(written)), strict=True))
    assert (words["rax"], words["rsp"], words["rip"]) == (0, stack + 8, handler)
    assert qemu.asked[-2:] == [f"z1,{allocator:x},1", "c"], "that was the last"


def test_mended_memory_is_met_by_nobody(qemu: StandIn, hardware: Hardware) -> None:
    hardware.do({"do": "break", "frame": BAD, "direct": DIRECT})
    hardware.do({"do": "mend"})
    assert hardware.debugger is None
    assert qemu.asked[-1] == "D"
    assert {line for line in qemu.asked if line[0] == "z"} == {
        line.replace("Z", "z") for line in qemu.asked if line[0] == "Z"
    }


def test_the_guest_is_answered_line_by_line(qemu: StandIn, tmp_path: Path) -> None:
    with Server(tmp_path / "line", qemu.monitor, qemu.debugger), socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(tmp_path / "line"))
        stream = guest.makefile("rb")
        guest.sendall(json.dumps({"do": "balloon", "mib": 900}).encode() + b"\n")
        assert json.loads(stream.readline()) == {"done": True}
        guest.sendall(b'{"do": "explode"}\nno json\n')
        assert "no such request" in json.loads(stream.readline())["problem"]
        assert "problem" in json.loads(stream.readline())
    assert "balloon 900" in qemu.asked


def test_a_server_without_a_guest_ends_when_it_is_asked(tmp_path: Path) -> None:
    started = time.monotonic()
    with Server(tmp_path / "line", tmp_path / "monitor", tmp_path / "debugger"):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("client", [Monitor, Debugger])
def test_a_qemu_that_is_not_there_is_named(client: type[Monitor | Debugger], tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="QEMU does not answer at nowhere"):
        client(tmp_path / "nowhere")
