"""No file names a path of one machine, or the host of a package registry: others have neither."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# Put together from pieces, so that this file does not find itself.
FOLDERS = ["/" + start for start in (r"work(?![\w-])", "root/", "farm/", r"home/\w", r"Users/\w")]
HOSTS = [
    ".".join(pieces)
    for pieces in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("anaconda", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
    )
]
FORBIDDEN = re.compile(
    rf"(?<![\w.~-])(?:{'|'.join(FOLDERS)})"
    rf"|\b(?:{'|'.join(re.escape(host) for host in HOSTS)})\b"
)


def project_files(root: Path) -> list[Path]:
    """Files that are tracked, or will be with the next ``git add``."""
    # CI may run as another user than the one who cloned, which git refuses unless told.
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    listing = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert listing.returncode == 0, f"needs a git checkout to know the project's files: {listing.stderr}"
    return [path for name in listing.stdout.split("\0") if name and (path := root / name).is_file()]


def test_no_file_names_a_machine_or_a_registry(root: Path) -> None:
    found = []
    for path in project_files(root):
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for number, line in enumerate(text.splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {match.group()}")
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["see " + "/" + "work/x", "in " + "/" + "work.", "'" + "/" + "home/me'", f"https://files.{HOSTS[1]}/p"],
)
def test_a_forbidden_place_is_found(text: str) -> None:
    assert FORBIDDEN.search(text)


@pytest.mark.parametrize(
    "text", ["kernel/workqueue.c", "mm/work/x", "a root/ of", "/home/<user>", "/workers", "/work-in"]
)
def test_words_that_only_look_alike_are_let_through(text: str) -> None:
    assert not FORBIDDEN.search(text)
