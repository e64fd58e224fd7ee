"""Fetching kernels, with a package tool that does what is asked of it: as a whole, or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible, WrongUse
from hwpoison.lab import packages, tools
from hwpoison.lab.kernels import present
from hwpoison.lab.packages import fetch

from .conftest import CONFIGURATION, RELEASE, Program, plant_kernel

# What is asked of apt comes after its options; the archive has what $ARCHIVE names.
APT_GET = r"""
echo "$@" >> "$APT_LOG"
for word; do
    case $word in
    APT::Status-Fd=*) status=${word#*=} ;;
    *.conf) configuration=$word ;;
    esac
done
case " $* " in
*" update "*) [ -z "$OFFLINE" ] || echo "W: Failed to fetch http://mirror.example/x  Could not resolve it" ;;
*" indextargets "*) [ -n "$OFFLINE" ] || echo "Debian|Debian|http://mirror.example/debian/|/nowhere:1" ;;
*" download "*)
    [ -z "$FULL" ] || { echo "E: write: No space left on device"; exit 100; }
    echo dlstatus:1:50.0:half > "/proc/self/fd/$status"
    for word; do case $word in linux-*) : > "${word}_1_amd64.deb" ;; esac; done ;;
esac
"""
APT_CACHE = r"""for name in $ARCHIVE; do echo "$name"; done"""
DPKG_DEB = r"""cp -a "$PACKAGED/." "$3/" """
ARCHIVE = (
    "linux-image-6.12.9-amd64 linux-image-6.12.10-cloud-amd64 linux-image-6.12.8-amd64 linux-image-6.12-amd64"
)


def untold(_name: str, _doing: str, _percent: float) -> None:
    """For those who do not want to know."""


@pytest.fixture
def archive(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A machine with apt, and an archive with kernel 6.12; what is in its package."""
    for name, script in (
        ("apt-get", APT_GET),
        ("apt-cache", APT_CACHE),
        ("apt-config", ""),
        ("dpkg-deb", DPKG_DEB),
        ("depmod", ""),
    ):
        program(name, script)
    packaged = tmp_path / "packaged"
    plant_kernel(packaged)
    monkeypatch.setenv("PACKAGED", str(packaged))
    monkeypatch.setenv("ARCHIVE", ARCHIVE)
    monkeypatch.setenv("APT_LOG", str(tmp_path / "apt.log"))
    (tmp_path / "apt.log").touch()
    (packaged / "lib" / "modules" / RELEASE / "kernel").mkdir()
    monkeypatch.setattr(packages, "SPACE_NEEDED", 0)
    return packaged


def test_the_newest_kernel_that_is_not_for_the_cloud_is_unpacked_into_the_cache(
    archive: Path, cache: Path, tmp_path: Path
) -> None:
    told = []
    (kernel,) = fetch(["6.12"], lambda name, doing, percent: told.append((name, doing, percent)))
    assert kernel == present("6.12")
    assert (kernel.release, kernel.root) == (RELEASE, cache / "6.12")
    assert ("6.12", "downloading", 50.0) in told
    assert " download linux-image-6.12.9-amd64 " in (tmp_path / "apt.log").read_text()
    assert os.listdir(cache) == ["6.12"]


def test_apt_gets_directories_of_its_own_and_none_of_the_machines_hooks(
    archive: Path, cache: Path, tmp_path: Path, program: Program
) -> None:
    program(
        "apt-get", f'for w; do case $w in *.conf) cat "$w" > {tmp_path}/seen.conf ;; esac; done' + APT_GET
    )
    fetch(["6.12"], untold)
    configuration = (tmp_path / "seen.conf").read_text()
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache"):
        assert f'{name} "{cache}/.fetch-' in configuration
    for hook in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"):
        assert f"#clear APT::Update::{hook};" in configuration


def test_a_newer_suite_comes_from_the_same_mirror_in_three_packages(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"linux-{part}-7.3-amd64" for part in ("binary", "modules", "base")]
    monkeypatch.setenv("ARCHIVE", " ".join(names))
    fetch(["7.3"], untold)
    assert f" download {' '.join(names)} " in (tmp_path / "apt.log").read_text()


def test_a_kernel_that_is_there_is_not_fetched_again(archive: Path, tmp_path: Path) -> None:
    (first,) = fetch(["6.12", "6.12"], untold)
    (tmp_path / "apt.log").write_text("")
    assert fetch(["6.12"], untold) == [first]
    assert (tmp_path / "apt.log").read_text() == ""


def left_after(names: list[str], told: Callable[[str, str, float], None], cache: Path) -> str:
    """What a fetch that fails says, after a look that it has left nothing."""
    with pytest.raises(NotPossible) as caught:
        fetch(names, told)
    assert os.listdir(cache) == []
    return str(caught.value)


def test_without_a_network_apt_is_quoted(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE", "1")
    monkeypatch.setenv("ARCHIVE", "")
    quoted = "apt says: Failed to fetch http://mirror.example/x  Could not resolve it"
    assert quoted in left_after(["6.12"], untold, cache)
    assert quoted in left_after(["7.3"], untold, cache)


def test_where_there_is_no_such_package_an_image_can_be_named(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE", "linux-image-6.12.10-cloud-amd64")
    text = left_after(["6.12"], untold, cache)
    assert text.startswith("no package of kernel 6.12 in the package suites of this machine")
    assert "--kernel PATH" in text


def test_a_full_disk_leaves_nothing(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULL", "1")
    assert "the disk is full" in left_after(["6.12"], untold, cache)


def test_too_little_space_is_said_before_anything_is_done(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "SPACE_NEEDED", 1 << 60)
    assert "and fetching needs 1099511627776: free some" in left_after(["6.12"], untold, cache)
    assert (tmp_path / "apt.log").read_text() == ""


@pytest.mark.parametrize("missing", ["CONFIG_MEMORY_FAILURE=y", "CONFIG_X86_MCE=y"])
def test_a_kernel_without_the_handler_does_not_get_into_the_cache(
    archive: Path, cache: Path, missing: str
) -> None:
    (archive / "boot" / f"config-{RELEASE}").write_text(CONFIGURATION.replace(missing, ""))
    assert "not for the cloud" in left_after(["6.12"], untold, cache)


def test_packages_without_an_image_do_not_get_into_the_cache(archive: Path, cache: Path) -> None:
    (archive / "boot" / f"vmlinuz-{RELEASE}").unlink()
    assert "hold no image with its modules" in left_after(["6.12"], untold, cache)


def test_an_interrupted_fetch_leaves_nothing(archive: Path, cache: Path) -> None:
    def interrupt(_name: str, doing: str, _percent: float) -> None:
        if doing == "downloading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(["6.12"], interrupt)
    assert os.listdir(cache) == []


def test_what_a_killed_fetch_has_left_is_swept_away_by_the_next(archive: Path, cache: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (cache / f".fetch-{gone.pid}-abc" / "tree").mkdir(parents=True)
    (cache / f".fetch-{os.getpid()}-abc").mkdir()
    fetch(["6.12"], untold)
    assert sorted(os.listdir(cache)) == [f".fetch-{os.getpid()}-abc", "6.12"]


def test_a_kernel_that_cannot_be_had_does_not_keep_others_away(archive: Path) -> None:
    with pytest.raises(NotPossible, match=r"no package of kernel 6\.1 "):
        fetch(["6.1", "6.12"], untold)
    assert present("6.12") is not None


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(archive: Path, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(NotPossible, match=r"cannot be written: .*; name another with HWPOISON_KERNELS"):
        fetch(["6.12"], untold)


def test_on_another_distribution_what_is_missing_is_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: str(tmp_path))
    with pytest.raises(NotPossible, match=r"elsewhere, name an image .*: apt-get, .*depmod not found"):
        fetch(["6.12"], untold)


def test_an_unknown_kernel_is_wrong_use(cache: Path) -> None:
    with pytest.raises(WrongUse, match=r"unknown kernel '6\.11'"):
        fetch(["6.12", "6.11"], untold)
