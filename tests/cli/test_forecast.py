"""``hwpoison forecast`` as people and programs meet it, on hosts made of files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import hwpoison
from hwpoison.abi.problems import DONE, NOT_POSSIBLE, WRONG_USE
from hwpoison.cli import app
from hwpoison.cli import forecast as command
from hwpoison.forecast.simulated import FRAMES, simulated_host
from hwpoison.host.proc import Host

SCHEMA = json.loads((Path(hwpoison.__file__).parent / "forecast/schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that can be read, with a process 7 that has one page."""
    with simulated_host() as files:
        folder = files.path("proc/7")
        folder.mkdir()
        (folder / "comm").write_text("seven\n")
        (folder / "maps").write_text("1000-2000 rw-p 00000000 00:00 0\n")
        (folder / "pagemap").write_bytes(bytes(8) + ((1 << 63) | 2000).to_bytes(8, "little"))
        monkeypatch.setattr(command, "Host", lambda: files)
        yield files


@pytest.fixture
def unreadable(host: Host) -> Host:
    """The same host, but its page frames cannot be read."""
    os.unlink(host.path("proc/kpageflags"))
    return host


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """What --json - prints: one object and nothing else, as the schema says."""
    assert app.main(["forecast", *arguments, "--json", "-"]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, object] = json.loads(out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


def failure(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line on stderr of a command that ends with this code and prints nothing else."""
    assert app.main(["forecast", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_whole_host_is_shown_to_people(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["forecast"]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(rf"^all +{FRAMES:,} +16.0 MiB +100.0 %", out, re.MULTILINE)
    assert "SIMULATED" not in out


def test_the_whole_host_is_told_to_programs(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys)
    assert found["totals"]["pages"] == sum(kind["pages"] for kind in found["kinds"]) == FRAMES  # type: ignore[index]
    assert found["host"] == {"release": "7.3.0-simulated", "handler": True, "profile": "7.3"}


def test_pages_are_told_to_programs_in_the_order_asked_for(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "--pfn", "0x7d0", "--pfn", "0")
    assert [page["pfn"] for page in found["pages"]] == [2000, 0]  # type: ignore[attr-defined]
    assert set(found) == {"host", "pages"}


def test_a_process_is_told_to_programs(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--pid", "7")
    assert found["process"]["comm"] == "seven"  # type: ignore[index]
    assert found["totals"]["pages"] == 1  # type: ignore[index]


@pytest.mark.parametrize("arguments", [("--pfn", "2000"), ("--pid", "7"), ("--kernel", "6.1")])
def test_each_form_can_be_read_by_people(
    host: Host, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["forecast", *arguments]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert "judged by the handler of" in out


def test_json_goes_to_a_file_and_nowhere_else(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "forecast.json"
    assert app.main(["forecast", "--json", str(target)]) == DONE
    assert capsys.readouterr() == ("", "")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(target.read_text()))


def test_the_kernel_that_judges_can_be_chosen(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    pages = {}
    for kernel in ("7.3", "6.1"):
        found = answer(capsys, "--pfn", "0", "--kernel", kernel)
        assert found["host"]["profile"] == kernel  # type: ignore[index]
        pages[kernel] = found["pages"][0]["page_type"]  # type: ignore[index]
    assert pages == {"7.3": "reserved kernel page", "6.1": "unknown page"}


def test_without_permission_a_made_up_host_is_shown_and_labelled(
    unreadable: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["forecast"]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    assert "SIMULATED HOST, not this machine: /proc/kpageflags cannot be read" in " ".join(out.split())


@pytest.mark.parametrize("arguments", [("--json", "-"), ("--pfn", "3"), ("--pfn", "3", "--json", "-")])
def test_without_permission_nothing_is_made_up_for_who_asks_for_facts(
    unreadable: Host, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "kpageflags cannot be read" in failure(capsys, NOT_POSSIBLE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pfn", "abc"), "'abc' is not a page frame number"),
        (("--pfn", "1.5"), "'1.5' is not a page frame number"),
        (("--pfn", ""), "'' is not a page frame number"),
        (("--pfn", "4096"), "it has frames 0 to 4095"),
        (("--pfn", "0", "--pfn", "-7"), "frame -7"),
        (("--pid", "99"), "no process 99"),
        (("--pid", "many"), "'many' is not a process number"),
        (("--pid", "7", "--pfn", "0"), "exclude each other"),
        (("--kernel", "6.13"), "did you mean"),
    ],
)
def test_wrong_use_is_told_with_the_value(
    host: Host, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in failure(capsys, WRONG_USE, *arguments)


def test_a_truncated_flags_file_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(host.path("proc/kpageflags"), 8 * FRAMES - 3)
    assert "bytes into an entry" in failure(capsys, WRONG_USE)


def test_a_host_with_large_base_pages_is_told(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Host", lambda: Host(host.root, 65536))
    assert "65536 bytes" in failure(capsys, NOT_POSSIBLE)


def test_a_file_that_cannot_be_written_is_told(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be written" in failure(capsys, NOT_POSSIBLE, "--json", str(tmp_path / "no" / "such"))
