"""Programs of the machine: one sentence says what is missing, and what one that failed had to say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible
from hwpoison.lab import tools

from .conftest import Program


def test_everything_there_is_nothing_to_say(program: Program) -> None:
    program("qemu-system-x86_64", "")
    assert tools.missing(["qemu-system-x86_64"]) == ""
    tools.need("kernels are booted with it", ["qemu-system-x86_64"])


def test_what_is_missing_is_named_with_the_packages_that_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: str(tmp_path))
    with pytest.raises(NotPossible) as caught:
        tools.need("kernels are booted", ["qemu-system-x86_64", "depmod", "modprobe"])
    assert str(caught.value) == (
        "kernels are booted: qemu-system-x86_64, depmod, modprobe not found (on Debian, "
        "apt-get install qemu-system-x86 kmod)"
    )


def test_every_program_that_is_needed_has_a_way_to_get_it() -> None:
    assert {*tools.FOR_BOOTING, *tools.FOR_FETCHING} <= set(tools.DEBIAN_PACKAGES)


def test_the_administrators_programs_are_found_without_their_directories_in_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert {"/usr/sbin", "/sbin"} <= set(tools.search_path().split(":"))
    assert shutil.which("sh", path=tools.search_path())


def test_what_a_program_prints_is_the_answer(program: Program, tmp_path: Path) -> None:
    program("whereami", "pwd -P; echo complaint >&2")
    assert tools.run(["whereami"], seconds=60, directory=tmp_path) == f"{tmp_path.resolve()}\n"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo one; exit 3", "x failed (3): one"),
        ("seq 9 >&2; exit 1", "x failed (1): 7 | 8 | 9"),
        ("exit 1", "x failed (1): it said nothing"),
        (
            "echo 'tar: cannot write: No space left on device' >&2; exit 2",
            "x failed because the disk is full",
        ),
        ("exec sleep 1000", "x was not done after 0 s"),
    ],
)
def test_a_program_that_fails_is_told_with_its_last_words(program: Program, script: str, text: str) -> None:
    program("x", script)
    with pytest.raises(NotPossible) as caught:
        tools.run(["x"], seconds=0.2 if "sleep" in script else 60)
    assert str(caught.value).startswith(text)


def test_a_program_that_cannot_be_run_is_told(program: Program) -> None:
    program("x", "").chmod(0o644)
    with pytest.raises(NotPossible, match="cannot be run"):
        tools.run([str(program("x", "").with_name("y"))], seconds=60)


def test_a_guest_is_not_begun_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools.tempfile, "tempdir", str(tmp_path))
    with tools.scratch("x-") as made:
        assert made.parent == tmp_path
    monkeypatch.setattr(tools, "SCRATCH_NEEDED", 1 << 60)
    with pytest.raises(NotPossible, match=r"and a guest needs 1099511627776: .*TMPDIR"), tools.scratch("x-"):
        pass
    assert list(tmp_path.iterdir()) == []
