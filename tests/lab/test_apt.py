"""The machine's package archives: which mirror, whose keys, which package is the newest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpoison.lab.apt import signed_by, version_key

MIRROR = "http://mirror.example/debian/"
SOURCES = """\
# the machine's own
Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Signed-By: /keys/security.gpg

Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL
Components: main
"""


def test_the_keys_are_those_of_the_mirrors_own_entry(tmp_path: Path) -> None:
    file = tmp_path / "debian.sources"
    file.write_text(SOURCES)
    assert signed_by(file, "http://mirror.example/debian-security/") == "Signed-By: /keys/security.gpg\n"


def test_keys_may_stand_in_the_entry_itself(tmp_path: Path) -> None:
    file = tmp_path / "debian.sources"
    file.write_text(SOURCES)
    assert signed_by(file, MIRROR).splitlines() == [
        "Signed-By:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mQINBGPL",
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (
            f"deb [arch=amd64 signed-by=/keys/debian.gpg] {MIRROR} bookworm main",
            "Signed-By: /keys/debian.gpg\n",
        ),
        (f"deb {MIRROR} bookworm main", ""),
        ("deb [signed-by=/keys/other.gpg] http://other.example/x stable main", ""),
    ],
)
def test_an_entry_of_one_line_names_its_keys_in_brackets(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "sources.list"
    file.write_text(f"# deb-src\n{text}\n")
    assert signed_by(file, MIRROR) == field


def test_without_an_entry_the_keys_are_the_machines(tmp_path: Path) -> None:
    assert signed_by(tmp_path / "nothing.sources", MIRROR) == ""


def test_numbers_in_versions_are_compared_as_numbers() -> None:
    releases = ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-56-amd64"]
    assert max(releases, key=version_key) == "6.1.0-56-amd64"
    assert version_key("6.12.9+deb12-amd64") < version_key("6.12.117+deb12-amd64")
