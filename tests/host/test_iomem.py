"""Where persistent memory is, as far as /proc/iomem tells."""

from __future__ import annotations

from hwpoison.host.iomem import persistent_memory

from .conftest import FakeHost

TEXT = """00001000-0009fbff : System RAM
100000000-107ffffff : Persistent Memory (legacy)
  100000000-107ffffff : namespace0.0
110000000-117ffffff : Persistent Memory
"""


def test_each_range_is_told_in_frames(fake: FakeHost) -> None:
    fake.text("proc/iomem", TEXT)
    assert persistent_memory(fake.host) == [range(0x100000, 0x108000), range(0x110000, 0x118000)]


def test_a_reader_without_rights_sees_none(fake: FakeHost) -> None:
    fake.text("proc/iomem", "00000000-00000000 : System RAM\n00000000-00000000 : Persistent Memory\n")
    assert persistent_memory(fake.host) == []


def test_a_host_without_the_file_has_none(fake: FakeHost) -> None:
    assert persistent_memory(fake.host) == []
