"""What is made once of a kernel so that its guests start quickly, and kept beside the fetched kernels.

The image without its compression, which an emulated machine takes seconds to undo (QEMU starts it by the
entry that Xen's PVH describes: a note in the ELF file), and the guest's first file system with all modules
unpacked. The name of a directory is made of everything that it depends on, so none is ever stale.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hwpoison.abi.problems import NotPossible

from . import initramfs, tools
from .kernels import CACHE_VARIABLE, Kernel, cache_directory

KEPT_SECONDS = 86400.0  # an older preparation of the same release is removed, unless it may be in use
TOOL_SECONDS = 60.0
XZ, ZSTD, ELF = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x7fELF"
PT_NOTE, PVH_ENTRY = 4, 18


@dataclass(frozen=True, slots=True)
class Prepared:
    """What QEMU is given: a kernel and its first file system."""

    image: Path
    initramfs: Path


def prepare(kernel: Kernel) -> Prepared:
    """The prepared kernel, made if need be. NotPossible if the kernel lacks a module, or there is no room."""
    folder = cache_directory() / "prepared" / f"{kernel.release}-{_key(kernel)}"
    found = Prepared(folder / "vmlinux", folder / "initramfs")
    if not folder.is_dir():
        try:
            _make(kernel, folder)
        except OSError as error:
            raise NotPossible(
                f"kernel {kernel.release} cannot be prepared in {folder.parent}: {error.strerror}; "
                f"name another directory with {CACHE_VARIABLE}"
            ) from None
    return found if found.image.exists() else Prepared(kernel.image, found.initramfs)


def _key(kernel: Kernel) -> str:
    parts: list[str | int] = [initramfs.INIT, initramfs.MODPROBE, *initramfs.AT_START, *initramfs.ON_DEMAND]
    modules = kernel.root / "lib" / "modules" / kernel.release / "modules.dep"
    for path in (kernel.image, modules, Path(tools.program("busybox") or "busybox"), Path(__file__)):
        if path.exists():
            status = path.stat()
            parts += [str(path), status.st_size, status.st_mtime_ns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _make(kernel: Kernel, folder: Path) -> None:
    """Make it aside, then move it: others may do the same at the same time, and one of them is the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f"{kernel.release}-*"):
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as made:
        work = Path(made) / "whole"
        work.mkdir()
        (work / "initramfs").write_bytes(_first_file_system(kernel))
        if (plain := uncompressed(kernel.image.read_bytes())) is not None and has_pvh_entry(plain):
            (work / "vmlinux").write_bytes(plain)
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _first_file_system(kernel: Kernel) -> bytes:
    busybox = Path(tools.program("busybox") or "busybox").read_bytes()
    files = {
        "init": initramfs.INIT.encode(),
        f"{initramfs.HOME}/busybox": busybox,
        f"{initramfs.HOME}/modprobe": initramfs.MODPROBE.format(root=kernel.root).encode(),
    }
    for name in (*initramfs.AT_START, *initramfs.ON_DEMAND):
        order = _module_files(kernel, name)
        if order is None and name in initramfs.AT_START:
            raise NotPossible(
                f"kernel {kernel.release} has no module {name}, and its guests need it to start"
            )
        if order is None:
            continue
        for path in order:
            files.setdefault(f"{initramfs.MODULES}/{_plain_name(path)}", _plain(path))
        files[f"{initramfs.MODULES}/{name}.order"] = "".join(
            f"{_plain_name(path)}\n" for path in order
        ).encode()
    own = [initramfs.HOME, initramfs.MODULES, f"{initramfs.HOME}/host", f"{initramfs.HOME}/shared"]
    return initramfs.archive(files.items(), ["dev", "proc", "run", "sys", *own])


def _module_files(kernel: Kernel, name: str) -> list[Path] | None:
    """The files to insert for a module, in order: none if it is built in. None if there is no such module."""
    ask = ["modprobe", "-d", str(kernel.root), "-S", kernel.release, "--show-depends", name]
    try:
        said = tools.run(ask, seconds=TOOL_SECONDS)
    except NotPossible:
        return None
    return [Path(line.split()[1]) for line in said.splitlines() if line.startswith("insmod ")]


def _plain_name(path: Path) -> str:
    return path.name.partition(".ko")[0] + ".ko"


def _plain(path: Path) -> bytes:
    """A module without its compression."""
    content = path.read_bytes()
    plain = content if content.startswith(ELF) else _unpacked(content)
    if plain is None:
        raise NotPossible(
            f"{path} is compressed in a way that cannot be undone here: install zstd, or fetch again"
        )
    return plain


def _unpacked(content: bytes) -> bytes | None:
    """The ELF file in some compressed bytes; None if it cannot be had."""
    if content.startswith(XZ):
        plain = lzma.LZMADecompressor().decompress(content)
    elif content.startswith(ZSTD) and tools.program("zstd"):
        with tempfile.TemporaryDirectory() as work:
            packed, unpacked = Path(work, "packed"), Path(work, "unpacked")
            packed.write_bytes(content)
            tools.run(["zstd", "-dq", str(packed), "-o", str(unpacked)], seconds=TOOL_SECONDS)
            plain = unpacked.read_bytes()
    else:
        return None
    return plain if plain.startswith(ELF) else None


def uncompressed(image: bytes) -> bytes | None:
    """The ELF file in a bzImage (Documentation/arch/x86/boot.rst: payload_offset, payload_length)."""
    if image[0x202:0x206] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(ZSTD):
        payload = payload[:-4]  # the build has added the size
    return _unpacked(payload) if length else None


def has_pvh_entry(elf: bytes) -> bool:
    """Whether QEMU can start this ELF64 kernel: it has Xen's note of its 32-bit entry."""
    table, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for number in range(count):
        kind, _flags, at, _va, _pa, length = struct.unpack_from("<IIQQQQ", elf, table + size * number)
        end = at + length
        while kind == PT_NOTE and at + 12 <= end:
            name_size, text_size, note = struct.unpack_from("<III", elf, at)
            if note == PVH_ENTRY and elf[at + 12 : at + 16] == b"Xen\0":
                return True
            at += 12 + (name_size + 3 & ~3) + (text_size + 3 & ~3)
    return False
