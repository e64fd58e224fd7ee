"""A kernel prepared for quick starts: made once, made again when anything changes, refused in a sentence."""

from __future__ import annotations

import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hwpoison.abi.problems import NotPossible
from hwpoison.lab import bundle, images, initramfs, keep, prepared, tools
from hwpoison.lab.kernels import Kernel
from hwpoison.lab.prepared import prepare

from .conftest import Program

MODULE = b"\x7fELF module"


def elf(*notes: tuple[int, bytes]) -> bytes:
    """An ELF64 file with one segment of notes."""
    text = b"".join(
        struct.pack("<III", len(name), 4, kind) + name.ljust(4, b"\0") + bytes(4) for kind, name in notes
    )
    header = struct.pack("<16sHHIQQQIHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1).ljust(
        64, b"\0"
    )
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(text), len(text), 4) + text


def with_payload(image: bytes, payload: bytes) -> bytes:
    """A bzImage with this compressed kernel behind its first 4096 bytes."""
    head = bytearray(image[:4096])
    struct.pack_into("<II", head, 0x248, 4096 - 1024, len(payload))
    return bytes(head) + payload


@pytest.fixture
def modprobe(program: Program, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each module is one file of its name, in the kernel's own directory."""
    home = kernel.root / "lib" / "modules" / kernel.release / "kernel"
    home.mkdir()
    for name in (*initramfs.AT_START, *initramfs.ON_DEMAND):
        (home / f"{name}.ko.xz").write_bytes(lzma.compress(MODULE))
    script = f'for name; do :; done; [ -e {home}/$name.ko.xz ] || exit 1; echo "insmod {home}/$name.ko.xz "'
    program("modprobe", script)
    program("busybox", "exit 0")
    for archive in ("bundle", "images"):
        monkeypatch.setattr(prepared, archive, lambda: Path("/dev/null"))
    return home


def unpack(archive: Path, where: Path) -> Path:
    busybox = next((path for path in ("/usr/bin/busybox", "/bin/busybox") if Path(path).exists()), None)
    if busybox is None:
        pytest.skip("there is no busybox to unpack the archive with")
    where.mkdir()
    with archive.open("rb") as stream:
        subprocess.run([busybox, "cpio", "-id"], stdin=stream, cwd=where, check=True, capture_output=True)
    return where


def test_the_first_file_system_holds_plain_modules_and_their_order(
    modprobe: Path, kernel: Kernel, tmp_path: Path
) -> None:
    found = unpack(prepare(kernel).archives[0], tmp_path / "unpacked")
    assert (found / "init").read_text() == initramfs.INIT
    assert (found / "init").stat().st_mode & 0o111
    assert (found / initramfs.MODULES / "ext4.order").read_text() == "ext4.ko\n"
    assert (found / initramfs.MODULES / "ext4.ko").read_bytes() == MODULE
    assert str(kernel.root) in (found / initramfs.HOME / "modprobe").read_text()


def test_a_kernel_is_prepared_once_until_its_image_changes(modprobe: Path, kernel: Kernel) -> None:
    first = prepare(kernel)
    stamp = first.archives[0].stat().st_mtime_ns
    assert prepare(kernel) == first
    assert first.archives[0].stat().st_mtime_ns == stamp
    kernel.image.write_bytes(kernel.image.read_bytes() + b"\0")
    assert prepare(kernel) != first


def test_an_image_is_unpacked_when_qemu_can_start_what_is_in_it(modprobe: Path, kernel: Kernel) -> None:
    inside = elf((18, b"Xen\0"))
    kernel.image.write_bytes(with_payload(kernel.image.read_bytes(), lzma.compress(inside)))
    assert prepare(kernel).image.read_bytes() == inside


@pytest.mark.parametrize(
    "payload", [lzma.compress(elf((1, b"GNU\0"))), b"\x1f\x8b gzip", lzma.compress(b"x")]
)
def test_an_image_that_qemu_could_not_start_unpacked_stays_as_it_is(
    modprobe: Path, kernel: Kernel, payload: bytes
) -> None:
    kernel.image.write_bytes(with_payload(kernel.image.read_bytes(), payload))
    assert prepare(kernel).image == kernel.image


def test_the_entry_is_found_behind_other_notes() -> None:
    assert prepared.has_pvh_entry(elf((1, b"GNU\0"), (18, b"Xen\0")))
    assert not prepared.has_pvh_entry(elf((1, b"GNU\0"), (18, b"GNU\0")))


def test_a_kernel_that_could_not_start_a_command_is_refused(modprobe: Path, kernel: Kernel) -> None:
    (modprobe / "9p.ko.xz").unlink()
    with pytest.raises(NotPossible, match="has no module 9p, and its guests need it"):
        prepare(kernel)
    assert list((kernel.root.parent / "prepared").glob("*")) == []


def test_a_file_system_without_a_driver_is_left_out(modprobe: Path, kernel: Kernel, tmp_path: Path) -> None:
    (modprobe / "f2fs.ko.xz").unlink()
    found = unpack(prepare(kernel).archives[0], tmp_path / "unpacked")
    assert not (found / initramfs.MODULES / "f2fs.order").exists()


def test_zstd_is_undone_by_its_program_or_named(
    modprobe: Path, kernel: Kernel, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modprobe / "9p.ko.xz").write_bytes(b"\x28\xb5\x2f\xfd packed")
    program("zstd", r"printf '\177ELF unpacked' > $4")
    assert prepare(kernel).archives[0].read_bytes().count(b"\x7fELF unpacked") == 1
    monkeypatch.setattr(prepared.tools, "program", lambda name: None if name == "zstd" else "/bin/true")
    kernel.image.touch()
    with pytest.raises(NotPossible, match=r"9p\.ko\.xz is compressed .* install zstd"):
        prepare(kernel)


def test_a_cache_that_cannot_be_written_is_named(modprobe: Path, kernel: Kernel) -> None:
    (kernel.root.parent / "prepared").write_text("in the way")
    with pytest.raises(NotPossible, match=r"cannot be kept in .*HWPOISON_KERNELS"):
        prepare(kernel)


def test_a_preparation_of_another_time_is_removed(
    modprobe: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = prepare(kernel).archives[0]
    kernel.image.touch()
    kernel.image.write_bytes(kernel.image.read_bytes() + b"\0")
    half = old.with_name(".making-killed")
    half.touch()
    monkeypatch.setattr(keep, "KEPT_SECONDS", -1.0)
    assert prepare(kernel).archives[0] != old
    assert not old.exists()
    assert not half.exists()


def test_the_agent_is_compiled_with_all_that_it_imports(cache: Path, tmp_path: Path) -> None:
    found = unpack(bundle.bundle(), tmp_path / "unpacked") / initramfs.PYTHON
    asked = "import hwpoison.lab.agent.__main__ as main, json; print(main.__file__, json.__file__)"
    environment = {"PYTHONPATH": str(found), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    places = ran.stdout.split()
    assert places == [f"{found}/hwpoison/lab/agent/__main__.pyc", f"{found}/json/__init__.pyc"]


def test_an_image_is_what_is_not_zeros(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as stream:
        stream.truncate(64 * 4096)
        for block, content in (
            (3, b"a" * 4096),
            (4, b"b" + bytes(4095)),
            (5, bytes(4096)),
            (63, b"c" * 4096),
        ):
            os.pwrite(stream.fileno(), content, block * 4096)
    with disk.open("rb") as stream:
        found = list(images.runs(stream.fileno()))
    assert [(at // 4096, len(run) // 4096) for at, run in found] == [(3, 2), (63, 1)]
    assert found[0][1] == b"a" * 4096 + b"b" + bytes(4095)


def test_file_systems_whose_programs_are_missing_are_left_out(
    cache: Path, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("mkfs.there", 'printf x | dd of="$1" bs=4096 seek=2 conv=notrunc 2>/dev/null')
    monkeypatch.setattr(images, "MAKE", {"one": "mkfs.there {disk}", "two": "mkfs.missing {disk}"})
    found = unpack(images.images(), tmp_path / "unpacked") / initramfs.IMAGES
    assert [path.name for path in found.iterdir()] == ["one"]
    assert (found / "one").read_bytes() == struct.pack("<QQ", 8192, 4096) + b"x".ljust(4096, b"\0")


def test_the_script_of_the_first_file_system_is_one_that_a_shell_can_read(tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_text(initramfs.INIT)
    shell = ["busybox", "sh"] if tools.program("busybox") else ["sh"]
    checked = subprocess.run([*shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
