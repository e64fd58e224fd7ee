"""Things that take a while to make, kept beside the fetched kernels.

The name of each ends in a digest of everything that it depends on, so none is ever stale, and checkouts and
kernels that differ do not get into each other's way.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from hwpoison.abi.problems import NotPossible

from .kernels import CACHE_VARIABLE, cache_directory

KEPT_SECONDS = 86400.0  # what was made before that for another state is removed


def kept(name: str, depends_on: Iterable[object], make: Callable[[], bytes]) -> Path:
    """The file with the bytes that ``make`` once made. NotPossible if it cannot be kept."""
    digest = hashlib.sha256(repr(list(depends_on)).encode()).hexdigest()[:12]
    folder = cache_directory() / "prepared"
    path = folder / f"{name}-{digest}"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for old in (
                *folder.glob(f"{name}-*"),
                *folder.glob(".making-*"),
            ):  # or left by one that was killed
                if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                    old.unlink(missing_ok=True)
            content = make()
            with tempfile.NamedTemporaryFile(prefix=".making-", dir=folder) as made:
                made.write(content)
                made.flush()
                with suppress(FileExistsError):  # somebody else has made the same meanwhile
                    os.link(made.name, path)  # never there by half
    except OSError as error:
        raise NotPossible(
            f"{name} cannot be kept in {folder}: {error.strerror}; "
            f"name another directory with {CACHE_VARIABLE}"
        ) from None
    return path


def state(path: Path) -> tuple[str, int, int]:
    """What stands for the contents of a file, whether or not it is there."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_size, status.st_mtime_ns
