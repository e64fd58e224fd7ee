"""What a guest is started from, made once so that it starts quickly.

The image without its compression, which an emulated machine takes seconds to undo (QEMU starts it by the
entry that Xen's PVH describes: a note in the ELF file), and a first file system with the kernel's modules
unpacked, the agent's Python compiled, and file systems for the disks.
"""

from __future__ import annotations

import lzma
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hwpoison.abi.problems import NotPossible

from . import initramfs, tools
from .bundle import bundle
from .images import images
from .keep import kept, state
from .kernels import Kernel

TOOL_SECONDS = 60.0
XZ, ZSTD, ELF = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x7fELF"
PT_NOTE, PVH_ENTRY = 4, 18


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kernel for QEMU, and the archives that make up the first file system, one behind the other."""

    image: Path
    archives: tuple[Path, ...]


def prepare(kernel: Kernel) -> Prepared:
    """The prepared kernel, made if need be. NotPossible if it lacks a module, or there is no room."""
    modules = kernel.root / "lib" / "modules" / kernel.release / "modules.dep"
    recipe = (initramfs.INIT, initramfs.MODPROBE, initramfs.AT_START, initramfs.ON_DEMAND)
    depends_on = [state(path) for path in (kernel.image, modules, _busybox())]
    first = kept(f"initramfs-{kernel.release}", [*depends_on, *recipe], lambda: _first_file_system(kernel))
    plain = kept(f"vmlinux-{kernel.release}", depends_on[:1], lambda: _startable(kernel.image.read_bytes()))
    return Prepared(plain if plain.stat().st_size else kernel.image, (first, bundle(), images()))


def _busybox() -> Path:
    return Path(tools.program("busybox") or "busybox")


def _startable(image: bytes) -> bytes:
    """The kernel in an image, if QEMU can start it; nothing if the image has to be taken as it is."""
    plain = uncompressed(image)
    return plain if plain is not None and has_pvh_entry(plain) else b""


def _first_file_system(kernel: Kernel) -> bytes:
    files = {
        "init": initramfs.INIT.encode(),
        f"{initramfs.HOME}/busybox": _busybox().read_bytes(),
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
