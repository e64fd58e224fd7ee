"""``hwpoison explain`` as people meet it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hwpoison.abi.problems import DONE, NOT_POSSIBLE, WRONG_USE
from hwpoison.cli import app
from hwpoison.cli import explain as command
from hwpoison.forecast.simulated import simulated_host
from hwpoison.host.proc import Host


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with simulated_host() as files:
        monkeypatch.setattr(command, "Host", lambda: files)
        yield files


@pytest.mark.parametrize("words", [["dirty", "LRU", "page"], ["dirty LRU page"], ["dirty lru"]])
def test_a_page_type_needs_no_quotes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["explain", *words]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith('"dirty LRU page"\n')
    assert "7.3, 7.2, 6.12, 6.1" in out


@pytest.mark.parametrize("state", ["UPTODATE,LRU,DIRTY", "___UDl______"])
def test_a_state_is_explained_by_its_flags(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["explain", state]) == DONE
    out, _ = capsys.readouterr()
    assert out.startswith("UPTODATE DIRTY LRU\n")
    assert "Step by step" in out


def test_a_page_is_explained_by_its_number(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["explain", "0x1"]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert "page 1 (0x1): reserved" in out
    assert "Step by step" in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["dirti lru"], "did you mean dirty LRU page"),
        (["SLAP"], "SLAB"),
        (["12x"], "'12x' is not a page frame number"),
        (["5000"], "it has frames 0 to 4095"),
        (["1", "2"], "'1 2' is not a page frame number"),
        (["0x1", "--kernel", "9"], "unknown kernel profile '9'"),
    ],
)
def test_what_cannot_be_explained_is_told_with_a_way_out(
    host: Host, words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["explain", *words]) == WRONG_USE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert hint in err


def test_a_page_of_a_host_that_cannot_be_read_is_not_explained(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(host.path("proc/kpageflags"))
    assert app.main(["explain", "1"]) == NOT_POSSIBLE
    assert "kpageflags cannot be read" in capsys.readouterr().err
