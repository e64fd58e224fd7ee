"""The first file system of a guest: a static busybox, modules for the lab, and what starts a command.

Everything that a guest does before its command is in INIT, a shell script. Nothing is unpacked or searched
for there: under emulation each process and each compressed byte counts. The host's own file system is
brought in read-only under its own paths, so the host's Python and the project run inside as they are;
only ``/dev``, ``/proc``, ``/run`` and ``/sys`` are the guest's own.

The archive is a cpio of the kind "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

from collections.abc import Iterable

HOME = "hwpoison"  # the directory that is ours in the guest
MODULES = f"{HOME}/modules"  # NAME.order lists the files to insert for a module, in that order
PYTHON = f"{HOME}/python"  # the agent and what it imports (bundle.py)
IMAGES = f"{HOME}/images"  # file systems (images.py)
AT_START = ("virtio_pci", "9pnet_virtio", "9p")
ON_DEMAND = (
    *("hwpoison-inject", "mce-inject", "brd", "dm-mod", "dm-delay", "dm-flakey", "virtio_balloon"),
    *("ext4", "xfs", "f2fs", "vfat"),
    *("nd_e820", "nd_pmem", "dax_pmem", "device_dax"),  # persistent memory
    *("nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"),  # vfat asks for them
)
ROOT_TAG, SHARED_TAG = "root", "shared"  # of the two 9p file systems
COMMAND, OUTPUT, PLACE = "command", "output", "place"  # files in the shared directory; PLACE holds its path
ENDED = "hwpoison: the command ended with code"

INIT = f"""#!/{HOME}/busybox sh
busybox=/{HOME}/busybox
nine="trans=virtio,version=9p2000.L,msize=512000"
for kind in proc sysfs devtmpfs; do
    case $kind in sysfs) at=/sys ;; devtmpfs) at=/dev ;; *) at=/$kind ;; esac
    $busybox mount -t $kind $kind $at
done
for name in {" ".join(AT_START)}; do
    while read -r file; do
        $busybox insmod /{MODULES}/$file
    done < /{MODULES}/$name.order
done 2> /dev/null
echo /{HOME}/modprobe > /proc/sys/kernel/modprobe
$busybox mount -t 9p -o ro,cache=loose,$nine {ROOT_TAG} /{HOME}/host
$busybox mount -t 9p -o $nine {SHARED_TAG} /{HOME}/shared || $busybox poweroff -f
for entry in /{HOME}/host/*; do
    name=${{entry##*/}}
    case $name in dev|init|proc|run|sys|{HOME}) continue ;; esac
    if [ -L $entry ]; then
        links="$links $entry"
    elif [ -d $entry ]; then
        directories="$directories /$name"
    fi
done
[ -z "$links" ] || $busybox cp -d $links /
$busybox mkdir -p $directories
for name in $directories; do $busybox mount -o bind /{HOME}/host$name $name; done
read -r place < /{HOME}/shared/{PLACE}
$busybox mkdir -p "$place"
$busybox mount -o bind /{HOME}/shared "$place"
cd "$place"
/bin/sh ./{COMMAND} > ./{OUTPUT} 2>&1 < /dev/null
echo "<1>{ENDED} $?" > /dev/kmsg
$busybox poweroff -f
"""

# For what the kernel itself asks for; it looks where the kernel's package is.
MODPROBE = f"#!/{HOME}/busybox sh\nexec /sbin/modprobe -d '{{root}}' \"$@\"\n"

_HEADER = "070701" + "%08x" * 13
_DIRECTORY, _FILE = 0o040755, 0o100755


def archive(files: Iterable[tuple[str, bytes]], directories: Iterable[str]) -> bytes:
    """A cpio archive; directories come first, each after the one that it is in."""
    out = bytearray()
    for number, name in enumerate(directories, 1):
        _member(out, number, name, _DIRECTORY, b"")
    for number, (name, content) in enumerate(files, 1000):
        _member(out, number, name, _FILE, content)
    _member(out, 0, "TRAILER!!!", 0, b"")
    return bytes(out)


def _member(out: bytearray, number: int, name: str, mode: int, content: bytes) -> None:
    words = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    out += (_HEADER % words).encode() + name.encode() + b"\0"
    out += bytes(-len(out) % 4) + content
    out += bytes(-len(out) % 4)
