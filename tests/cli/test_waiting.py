"""The bar shows itself only to people, and only if they have to wait."""

from __future__ import annotations

import sys

import pytest

from hwpoison.cli import waiting as module
from hwpoison.cli.waiting import Waiting


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    with Waiting("counting sheep") as waiting:
        for done in range(3):
            waiting(done, 2)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_nothing_is_shown_to_a_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", -1)
    assert shown(capsys) == ""


def test_nothing_is_shown_while_it_is_quick(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(module, "PATIENCE_S", 1000)
    assert shown(capsys) == ""


def test_whoever_waits_at_a_terminal_sees_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "PATIENCE_S", -1)
    assert "counting sheep" in shown(capsys)
