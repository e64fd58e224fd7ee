"""Stand-ins for what the lab takes from the machine: programs, kernels, and a guest that is no guest."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwpoison.lab import prepared, tools
from hwpoison.lab.kernels import CACHE_VARIABLE, Kernel

Program = Callable[[str, str], Path]
RELEASE = "6.12.9-amd64"
CONFIGURATION = "CONFIG_MEMORY_FAILURE=y\nCONFIG_X86_MCE=y\nCONFIG_HWPOISON_INJECT=m\n"

# Runs the command meant for the guest here, and says what a kernel would say. Code 99 stands for a panic.
QEMU = r"""
echo "Linux version 6.12.9-amd64 (stand-in)"
for word; do
    case $word in local,id=shared,path=*) shared=${word#*path=} shared=${shared%%,security_model=*} ;; esac
done
read -r place < "$shared/place"
cd "$place"
sh ./command > ./output 2>&1 < /dev/null
code=$?
if [ $code = 99 ]; then
    echo "Memory failure: 0x1a2b3: nobody could help"
    echo "Kernel panic - not syncing: Memory failure on page 0x1a2b3"
    echo "Call Trace:"
    exit 1
fi
echo "[    9.000000] hwpoison: the command ended with code $code"
"""


def image_bytes(release: str = RELEASE, *, paragraphs: int = 1024) -> bytes:
    """The header of a kernel image, and as many bytes as it says."""
    image = bytearray((1 + 1) * 512 + paragraphs * 16)
    image[0x1F1] = 1
    struct.pack_into("<I", image, 0x1F4, paragraphs)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300)
    text = f"{release} (somebody@somewhere) #1 SMP".encode() + b"\0"
    image[0x500 : 0x500 + len(text)] = text
    return bytes(image)


def plant_kernel(root: Path, release: str = RELEASE, configuration: str = CONFIGURATION) -> Path:
    """A kernel as Debian packages it, below ``root``; its image."""
    modules = root / "lib" / "modules" / release
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("kernel/mm/hwpoison-inject.ko:\n")
    (root / "boot").mkdir()
    (root / "boot" / f"config-{release}").write_text(configuration)
    image = root / "boot" / f"vmlinuz-{release}"
    image.write_bytes(image_bytes(release))
    return image


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of kernels."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def kernel(cache: Path) -> Kernel:
    """A kernel in the cache that no machine could boot."""
    return Kernel("6.12", RELEASE, plant_kernel(cache / "6.12"), cache / "6.12")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script of a name before the machine's programs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    usual = tools.search_path()
    monkeypatch.setattr(tools, "search_path", lambda: f"{folder}:{usual}")
    monkeypatch.setenv("PATH", f"{folder}:{usual}")

    def put(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path

    return put


@pytest.fixture
def guest(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU and its tools: guests are processes of this machine."""
    program("qemu-system-x86_64", QEMU)
    for archive in ("bundle", "images"):
        monkeypatch.setattr(prepared, archive, lambda: Path("/dev/null"))
    program("modprobe", 'for name; do :; done; echo "builtin $name"')
    for name in tools.FOR_BOOTING:
        if tools.program(name) is None:
            program(name, "exit 1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
