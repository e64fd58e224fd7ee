"""The command line as people meet it: what it prints, where, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hwpoison
import hwpoison.cli
from hwpoison.abi.problems import DONE, FINDING, NOT_POSSIBLE, WRONG_USE
from hwpoison.cli import app

REAL_COMMANDS = app.COMMANDS  # the tests below put others in their place

STANDIN = '''"""A command for these tests: it ends in the way it is told to."""

from typing import Annotated

import typer

from hwpoison.abi.problems import NotPossible, WrongUse

ENDS = {
    "wrong use": WrongUse("no scenario 'x':\\ndid you mean y?"),
    "not possible": NotPossible("needs root"),
    "a finding": typer.Exit(1),
    "interrupt": KeyboardInterrupt(),
    "a bug": ZeroDivisionError("division by zero"),
}


def standin(
    end: Annotated[str, typer.Argument(help="How it ends.")],
    pages: Annotated[int, typer.Option(min=1, max=8, help="How many pages [of 4 KiB].")] = 1,
) -> None:
    """Stand in for a command.

    A second paragraph.
    """
    if end in ENDS:
        raise ENDS[end]
    print(end, pages)
'''

BROKEN = '''"""A command that cannot be imported."""

raise ImportError("nobody asked for this command")


def broken() -> None:
    """Never get this far."""
'''


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands of our own in the place of the real ones."""
    (tmp_path / "standin.py").write_text(STANDIN, encoding="utf-8")
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.setattr(app, "COMMANDS", ("standin", "broken"))
    monkeypatch.setattr(app, "FOLDER", tmp_path)
    monkeypatch.setattr(hwpoison.cli, "__path__", [*hwpoison.cli.__path__, str(tmp_path)])
    for name in ("standin", "broken"):
        monkeypatch.delitem(sys.modules, f"hwpoison.cli.{name}", raising=False)


def test_a_command_gets_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["standin", "well", "--pages", "3"]) == DONE
    assert capsys.readouterr() == ("well 3\n", "")


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        ("wrong use", WRONG_USE, "hwpoison: no scenario 'x': did you mean y?\n"),
        ("not possible", NOT_POSSIBLE, "hwpoison: needs root\n"),
        ("interrupt", 130, "hwpoison: interrupted\n"),
        ("a finding", FINDING, ""),
    ],
)
def test_the_end_of_a_command_is_a_code_and_at_most_one_line(
    end: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["standin", end]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["standim"], "Did you mean 'standin'?"),
        (["standin"], "'end'"),
        (["standin", "well", "--pages", "9"], "'--pages'"),
        (["standin", "well", "--pages", "many"], "'--pages'"),
        (["standin", "well", "extra"], "extra"),
        (["--frob"], "--frob"),
    ],
)
def test_wrong_use_is_told_in_one_line_that_names_what_was_wrong(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == WRONG_USE
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("hwpoison: ")) == ("", 1, True)
    assert words in err
    assert "--help)" in err


def test_a_bug_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        app.main(["standin", "a bug"])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_help_lists_all_commands_without_importing_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert "Stand in for a command." in out
    assert "Never get this far." in out
    assert "A second paragraph." not in out
    assert "hwpoison.cli.standin" not in sys.modules


def test_the_help_of_a_command_shows_its_options_and_keeps_brackets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.main(["standin", "--help"]) == DONE
    out, _ = capsys.readouterr()
    assert "A second paragraph." in out
    assert "How it ends." in out
    assert "How many pages [of 4 KiB]." in out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--version"]) == DONE
    assert capsys.readouterr().out == f"hwpoison {hwpoison.__version__}\n"


def test_a_reader_that_leaves_early_ends_the_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = hwpoison_process("--version", stdout=writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (app.NOBODY_READS, "")


def test_the_help_page_does_not_wait_for_numpy() -> None:
    ended = hwpoison_process("--help", python=("-X", "importtime"))
    assert ended.returncode == DONE, ended.stderr
    assert " typer" in ended.stderr
    assert "numpy" not in ended.stderr


@pytest.mark.parametrize("name", REAL_COMMANDS)
def test_every_real_command_explains_itself(name: str) -> None:
    ended = hwpoison_process(name, "--help")
    assert (ended.returncode, ended.stderr) == (DONE, "")
    assert f"hwpoison {name}" in ended.stdout


def hwpoison_process(
    *arguments: str, python: tuple[str, ...] = (), stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """The real command line, in a process of its own."""
    command = [sys.executable, *python, "-m", "hwpoison", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
