from __future__ import annotations

import dataclasses

import pytest

from hwpoison.abi.pagemap import present
from hwpoison.abi.problems import NotPossible
from hwpoison.host.probe import probe
from hwpoison.host.proc import Host

from .conftest import FakeHost


@pytest.fixture
def kernel(fake: FakeHost) -> FakeHost:
    fake.text("proc/sys/kernel/osrelease", "6.12.0-test\n")
    fake.text("proc/meminfo", "MemTotal: 1 kB\n")
    return fake


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("proc/sys/vm/memory_failure_early_kill", "0\n"),
        ("sys/devices/system/memory/hard_offline_page", ""),
        ("proc/meminfo", "MemTotal: 1 kB\nHardwareCorrupted:     0 kB\n"),
    ],
)
def test_any_trace_of_the_handler_proves_it_and_is_named(kernel: FakeHost, name: str, content: str) -> None:
    kernel.text(name, content)
    facts = probe(kernel.host)
    assert facts.handler
    assert name in facts.handler_evidence


def test_a_kernel_built_without_the_handler_is_said_to_be_so(kernel: FakeHost) -> None:
    facts = probe(kernel.host)
    assert not facts.handler
    assert "CONFIG_MEMORY_FAILURE" in facts.handler_evidence
    assert (facts.early_kill, facts.recovery, facts.soft_offline) == (None, None, None)


def test_without_meminfo_the_absence_of_the_handler_is_not_blamed_on_the_kernel(kernel: FakeHost) -> None:
    kernel.host.path("proc/meminfo").unlink()
    facts = probe(kernel.host)
    assert not facts.handler
    assert "meminfo cannot be read" in facts.handler_evidence
    assert "CONFIG_MEMORY_FAILURE" not in facts.handler_evidence


def test_the_switches_are_as_the_files_say(kernel: FakeHost) -> None:
    kernel.text("proc/sys/vm/memory_failure_early_kill", "1\n")
    kernel.text("proc/sys/vm/memory_failure_recovery", "0\n")
    facts = probe(kernel.host)
    assert (facts.release, facts.early_kill, facts.recovery) == ("6.12.0-test", True, False)
    assert facts.soft_offline is None


def test_files_that_cannot_be_read_are_listed_with_the_reason(kernel: FakeHost) -> None:
    kernel.frames([0])
    can_read = probe(kernel.host).can_read
    assert can_read["/proc/kpageflags"] is None
    assert can_read["/proc/kpagecount"] == can_read["/proc/self/pagemap"] == "there is no such file"


def test_a_pagemap_that_hides_the_frames_counts_as_unreadable(kernel: FakeHost) -> None:
    kernel.process(5, "me", ["00010000-00011000 r--p 0 08:01 3 /bin/me"], {0x10000: present(0)})
    kernel.host.path("proc/self").symlink_to("5")
    reason = probe(kernel.host).can_read["/proc/self/pagemap"]
    assert reason is not None and "CAP_SYS_ADMIN" in reason


def test_a_pagemap_that_shows_frames_is_readable(kernel: FakeHost) -> None:
    kernel.process(5, "me", ["00010000-00011000 r--p 0 08:01 3 /bin/me"], {0x10000: present(77)})
    kernel.host.path("proc/self").symlink_to("5")
    assert probe(kernel.host).can_read["/proc/self/pagemap"] is None


def test_pages_of_another_size_are_refused_with_the_size(kernel: FakeHost) -> None:
    with pytest.raises(NotPossible, match=r"65536 bytes.*4096"):
        probe(dataclasses.replace(kernel.host, page_size=65536))


def test_a_directory_without_proc_is_refused(fake: FakeHost) -> None:
    with pytest.raises(NotPossible, match=r"osrelease cannot be read.*mounted"):
        probe(fake.host)


def test_this_machine_can_show_what_was_found_readable(live: Host) -> None:
    facts = probe(live)
    assert facts.release == live.read_text("proc/sys/kernel/osrelease")
    assert facts.handler == ("HardwareCorrupted" in live.read_text("proc/meminfo"))
    assert facts.can_read["/proc/kpageflags"] is None
