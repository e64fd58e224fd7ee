"""Which kernels are there, and which of them can be a witness."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible, Problem, WrongUse
from hwpoison.failure.profiles import PROFILES
from hwpoison.lab import kernels
from hwpoison.lab.kernels import KNOWN, Kernel, at_path, cache_directory, find, image_release, present

from .conftest import CONFIGURATION, RELEASE, image_bytes, plant_kernel


def test_an_image_says_which_release_it_is(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(image_bytes("7.3-amd64"))
    assert image_release(tmp_path / "vmlinuz") == "7.3-amd64"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (image_bytes()[:-1], "has 17407 bytes of 17408: copy or fetch it again"),
        (image_bytes()[:4096], "has 4096 bytes of 17408"),
        (image_bytes()[:100], "is not an x86 kernel image"),
        (b"", "is not an x86 kernel image"),
        (b"#!/bin/sh\n" * 1000, "is not an x86 kernel image"),
        (image_bytes("").replace(b" (somebody@somewhere) #1 SMP", b"\0" * 28), "does not say which release"),
    ],
)
def test_an_image_that_cannot_be_booted_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(content)
    with pytest.raises(NotPossible, match=re.escape(text)):
        find(str(tmp_path / "vmlinuz"))


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotPossible, match="cannot be read"):
        find(str(tmp_path / name))


def test_a_kernel_given_by_its_path_has_its_modules_in_the_same_root(tmp_path: Path) -> None:
    image = plant_kernel(tmp_path)
    assert find(str(image)) == Kernel(RELEASE, RELEASE, image, tmp_path)


def test_modules_may_be_below_usr_and_the_image_among_them(tmp_path: Path) -> None:
    plant_kernel(tmp_path / "usr")
    modules = tmp_path / "usr" / "lib" / "modules" / RELEASE
    (modules / "vmlinuz").write_bytes(image_bytes())
    assert at_path(modules / "vmlinuz").root == tmp_path / "usr"


def test_an_image_without_its_modules_is_refused_with_the_place_where_they_are_looked_for(
    tmp_path: Path,
) -> None:
    image = plant_kernel(tmp_path)
    image.write_bytes(image_bytes("6.12.10-amd64"))
    with pytest.raises(NotPossible, match=re.escape("expected a directory lib/modules/6.12.10-amd64")):
        at_path(image)


@pytest.mark.parametrize("option", ["CONFIG_MEMORY_FAILURE", "CONFIG_X86_MCE", "CONFIG_HWPOISON_INJECT"])
def test_a_kernel_without_the_handler_is_refused(tmp_path: Path, option: str) -> None:
    cloud = re.sub(f"{option}=.", f"# {option} is not set", CONFIGURATION)
    with pytest.raises(NotPossible, match=rf"built without {option}.*not for the cloud"):
        at_path(plant_kernel(tmp_path, configuration=cloud))


def test_without_a_configuration_the_modules_tell(tmp_path: Path) -> None:
    image = plant_kernel(tmp_path)
    image.with_name(f"config-{RELEASE}").unlink()
    assert at_path(image).release == RELEASE
    modules = tmp_path / "lib" / "modules" / RELEASE
    (modules / "modules.dep").write_text("")
    with pytest.raises(NotPossible, match="built without CONFIG_HWPOISON_INJECT"):
        at_path(image)
    (modules / "modules.builtin").write_text("kernel/mm/hwpoison-inject.ko\n")
    assert at_path(image).release == RELEASE


def test_a_fetched_kernel_is_found_by_its_name(kernel: Kernel) -> None:
    assert find("6.12") == kernel
    assert present("6.1") is None


def test_half_a_kernel_is_none(kernel: Kernel) -> None:
    kernel.image.unlink()
    assert present("6.12") is None


def test_a_kernel_that_is_not_here_comes_with_the_command_that_gets_it(cache: Path) -> None:
    with pytest.raises(NotPossible, match=r"hwpoison kernels fetch 7\.2"):
        find("7.2")


def test_an_unknown_name_is_wrong_use(cache: Path) -> None:
    with pytest.raises(WrongUse, match=re.escape("unknown kernel '6.13'")):
        find("6.13")


def test_every_known_kernel_has_a_profile_of_its_own() -> None:
    assert set(KNOWN) == set(PROFILES)


@pytest.mark.parametrize("name", KNOWN)
def test_the_cloud_flavour_is_never_taken(name: str) -> None:
    pattern = KNOWN[name].packages[0]
    start = pattern.partition("(")[0]
    assert re.fullmatch(pattern, f"{start}{name}.0-42-cloud-amd64") is None
    assert re.fullmatch(pattern, f"{start}{name}.9+deb12-cloud-amd64") is None


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(kernels.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.delenv(kernels.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "hwpoison" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "hwpoison" / "kernels"


def test_no_image_ends_in_anything_but_a_problem(tmp_path: Path) -> None:
    whole = image_bytes()
    for damage in range(0x1F0, 0x210):
        (tmp_path / "vmlinuz").write_bytes(whole[:damage] + b"\xff" + whole[damage + 1 :])
        try:
            assert image_release(tmp_path / "vmlinuz")
        except Problem as problem:
            assert str(tmp_path) in str(problem)
