"""Real kernels: which ones are known, which are on this machine, and whether one can serve as a witness.

A kernel is an image with its modules under the same root: ``ROOT/boot/vmlinuz-RELEASE`` or
``ROOT/usr/lib/modules/RELEASE/vmlinuz``, and ``ROOT/lib/modules/RELEASE``. The image says itself which
release it is and how long it should be (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from hwpoison.abi.problems import NotPossible, WrongUse, unknown_name

CACHE_VARIABLE = "HWPOISON_KERNELS"
REQUIRED_OPTIONS = ("CONFIG_MEMORY_FAILURE=y", "CONFIG_X86_MCE=y", "CONFIG_HWPOISON_INJECT=")
INJECTOR = "/hwpoison-inject.ko"
HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Known:
    """A series of kernels that can be fetched: its suite (empty: the machine's own) and its packages.

    ``packages`` are patterns of whole package names with one group, the release. The newest release that the
    first one finds is taken, and all of its packages.
    """

    name: str
    suite: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on disk. ``root`` is the directory that holds its ``lib/modules/RELEASE``."""

    name: str
    release: str
    image: Path
    root: Path


def _split(version: str) -> tuple[str, ...]:
    """Newer Debian packages: image, modules, and the files that describe it."""
    release = rf"({re.escape(version)}[^-]*-amd64)"
    return (f"linux-binary-{release}", f"linux-modules-{release}", f"linux-base-{release}")


# The cloud flavour ("-cloud-amd64") matches none: it is built without X86_MCE, so it has no handler.
KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        Known("6.1", "", (r"linux-image-(6\.1\.0-\d+-amd64)",)),
        Known("6.12", "", (r"linux-image-(6\.12\.[^-]*-amd64)",)),
        Known("7.2", "unstable", _split("7.2")),
        Known("7.3", "experimental", _split("7.3")),
    )
}


def cache_directory() -> Path:
    """Where fetched kernels are: ``$HWPOISON_KERNELS``, or below the user's cache directory."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwpoison" / "kernels"


def find(name: str) -> Kernel:
    """The kernel of a known series, from the cache, or the one whose image has this path.

    Raises WrongUse for a name that is neither, NotPossible for one that is not there or cannot be used.
    """
    if name in KNOWN:
        if kernel := present(name):
            return kernel
        raise NotPossible(f"kernel {name} is not on this machine: get it with hwpoison kernels fetch {name}")
    if os.sep in name or Path(name).exists():
        return at_path(Path(name))
    raise WrongUse(f"{unknown_name('kernel', name, KNOWN)}; or the path of an image")


def present(name: str) -> Kernel | None:
    """The fetched kernel of a known series, None if there is none."""
    return kernel_in(cache_directory() / name, name)


def kernel_in(root: Path, name: str) -> Kernel | None:
    """The kernel under a root, if there is an image with its modules."""
    for modules in sorted((root / "lib" / "modules").glob("*/modules.dep"), reverse=True):
        release = modules.parent.name
        for image in (root / "boot" / f"vmlinuz-{release}", modules.parent / "vmlinuz"):
            if image.is_file():
                return Kernel(name, release, image, root)
    return None


def at_path(image: Path) -> Kernel:
    """The kernel with this image; its modules are looked for in the directories above it."""
    image = image.absolute()
    release = image_release(image)
    for root in image.parents:
        held = next((root / top for top in ("lib", "usr/lib") if (root / top / "modules").is_dir()), None)
        if held is not None and (held / "modules" / release / "modules.dep").is_file():
            kernel = Kernel(release, release, image, held.parent)
            check_configuration(kernel)
            return kernel
        if held is not None:
            break  # what is further up belongs to another kernel
    raise NotPossible(
        f"{image} is kernel {release}, but its modules are not beside it: expected a directory "
        f"lib/modules/{release} with a modules.dep (made by depmod) in a directory above the image"
    )


def image_release(image: Path) -> str:
    """The release that an x86 kernel image says it is; NotPossible for anything else, or for half of one."""
    try:
        with image.open("rb") as stream:
            header = stream.read(HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise NotPossible(f"the kernel image {image} cannot be read: {error.strerror}") from None
    if len(header) < HEADER_BYTES or header[0x202:0x206] != b"HdrS":
        raise NotPossible(
            f"{image} is not an x86 kernel image: expected a bzImage, as in /boot/vmlinuz-RELEASE"
        )
    sectors, paragraphs = header[0x1F1] or 4, struct.unpack_from("<I", header, 0x1F4)[0]
    expected = (sectors + 1) * 512 + paragraphs * 16
    if size < expected:
        raise NotPossible(f"the kernel image {image} has {size} bytes of {expected}: copy or fetch it again")
    (place,) = struct.unpack_from("<H", header, 0x20E)
    with image.open("rb") as stream:
        stream.seek(place + 0x200)
        words = stream.read(256).partition(b"\0")[0].decode("ascii", "replace").split()
    if not place or not words:
        raise NotPossible(f"the kernel image {image} does not say which release it is; take another")
    return words[0]


def check_configuration(kernel: Kernel) -> None:
    """Refuse a kernel without what the lab needs; its configuration says so, or else its list of modules."""
    modules = kernel.root / "lib" / "modules" / kernel.release
    places = (kernel.image.parent / f"config-{kernel.release}", modules / "config")
    configuration = next((place for place in places if place.is_file()), None)
    if configuration is not None:
        lines = configuration.read_text(errors="replace").splitlines()
        lacks = [option for option in REQUIRED_OPTIONS if not any(line.startswith(option) for line in lines)]
    else:
        names = (modules / "modules.dep").read_text(errors="replace") + _builtin(modules)
        lacks = [] if INJECTOR in names else [REQUIRED_OPTIONS[-1]]
    if lacks:
        raise NotPossible(
            f"kernel {kernel.release} was built without {', '.join(option.rstrip('=') for option in lacks)}: "
            "it has no memory error handler to watch; take a flavour that is not for the cloud"
        )


def _builtin(modules: Path) -> str:
    try:
        return (modules / "modules.builtin").read_text(errors="replace")
    except OSError:
        return ""
