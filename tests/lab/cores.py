"""Made-up core files of a kernel."""

from __future__ import annotations

import struct
from pathlib import Path


def kcore(directory: Path, *segments: tuple[int, int, int]) -> Path:
    """A file like /proc/kcore with these segments: (virtual address, physical address, length)."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    table = [
        struct.pack("<IIQQQQQQ", 1, 7, 0, virtual, physical, size, size, 4096)
        for virtual, physical, size in segments
    ]
    path = directory / "kcore"
    path.write_bytes(header + b"".join(table))
    return path
