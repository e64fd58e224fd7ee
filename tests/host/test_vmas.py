from __future__ import annotations

import os

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.host.proc import Host
from hwpoison.host.vmas import Vma, areas, command, processes

from .conftest import FakeHost

LINES = {
    "00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/dbus daemon (deleted)": Vma(
        0x400000, 0x452000, False, 0x1000, ("08:02", 173521), "/usr/bin/dbus daemon (deleted)"
    ),
    "00e03000-00e24000 rw-p 00000000 00:00 0           [heap]": Vma(
        0xE03000, 0xE24000, False, 0, None, "[heap]"
    ),
    "35b1a21000-35b1a22000 rw-p 00000000 00:00 0": Vma(0x35B1A21000, 0x35B1A22000, False, 0, None, None),
    "7f0000000000-7f0000002000 rw-s 00000000 00:01 2049  /dev/zero (deleted)": Vma(
        0x7F0000000000, 0x7F0000002000, True, 0, ("00:01", 2049), "/dev/zero (deleted)"
    ),
    "7f0000002000-7f0000003000 rw-p 00000000 00:2d 0   /odd/file/system": Vma(
        0x7F0000002000, 0x7F0000003000, False, 0, ("00:2d", 0), "/odd/file/system"
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_maps_is_understood(fake: FakeHost, line: str) -> None:
    fake.process(7, "x", [line])
    assert areas(fake.host, 7) == [LINES[line]]


def test_the_page_outside_of_the_page_tables_is_left_out(fake: FakeHost) -> None:
    fake.text("proc/7/maps", "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n")
    assert areas(fake.host, 7) == []


def test_a_name_that_is_no_text_can_be_printed(fake: FakeHost) -> None:
    fake.text("proc/7/comm", "")
    fake.host.path("proc/7/comm").write_bytes(b"\xffabc\n")
    assert command(fake.host, 7) == "\\xffabc"


@pytest.mark.parametrize("line", ["nonsense", "12-zz r-xp 0 0:0 0", "1000 r-xp 0 0:0 0", "1-2 r-xp 0 0:0"])
def test_a_line_that_is_none_of_maps_is_named(fake: FakeHost, line: str) -> None:
    fake.text("proc/7/maps", "1000-2000 r-xp 0 0:0 0\n" + line + "\n")
    with pytest.raises(WrongUse, match="maps line 2 is "):
        areas(fake.host, 7)


def test_processes_are_the_numbered_directories_in_order(fake: FakeHost) -> None:
    for name in ("10", "9", "self", "sys"):
        fake.host.path(f"proc/{name}").mkdir()
    assert processes(fake.host) == [9, 10]


def test_this_process_is_among_the_processes_and_has_areas() -> None:
    host = Host()
    assert os.getpid() in processes(host)
    found = areas(host, "self")
    assert found == sorted(found, key=lambda area: area.start)
    assert any(area.path == "[stack]" for area in found)
