"""The matrix of scenarios and kernels, as a table and for programs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hwpoison.report.live import Live
from hwpoison.report.matrix import Cell, Contrast, Matrix, Status, as_json, print_matrix

CONTRAST = Contrast(4, "load m:0", "signal A", "code=BUS_MCEERR_AR", "")
MATRIX = Matrix(
    {"6.1": "6.1.0-56-amd64", "7.3": "7.3-amd64"},
    {
        "anonymous": {"6.1": Cell("same"), "7.3": Cell("differs", contrasts=(CONTRAST,))},
        "[odd] name": {"6.1": Cell("cannot", "no [driver]"), "7.3": Cell("cannot", "no [driver]")},
        "swapped": {
            "6.1": Cell("failed", "silent", last_lines=("[ 1.0] stuck",)),
            "7.3": Cell("cannot", "x"),
        },
    },
)


def printed(matrix: Matrix) -> str:
    out = io.StringIO()
    print_matrix(matrix, Console(file=out, width=120, highlight=False))
    return out.getvalue()


def test_every_cell_is_shown() -> None:
    rows = [line.split() for line in printed(MATRIX).splitlines()[:4]]
    assert rows == [
        ["scenario", "6.1", "7.3"],
        ["anonymous", "same", "differs"],
        ["[odd]", "name", "cannot", "cannot"],
        ["swapped", "failed", "cannot"],
    ]


def test_what_differs_is_shown_side_by_side() -> None:
    lines = printed(MATRIX).splitlines()
    at = lines.index("anonymous on 7.3: different")
    assert lines[at + 1].split() == ["step", "model", "kernel"]
    assert lines[at + 2].split() == ["4", "load", "m:0", "signal", "A", "code=BUS_MCEERR_AR", "-"]


def test_reasons_are_shown_once_with_all_they_are_for() -> None:
    text = printed(MATRIX)
    assert "  no [driver]: [odd] name\n" in text
    assert "  x: swapped (7.3)\n" in text
    assert "  [ 1.0] stuck\n" in text


def test_each_kernel_has_its_sum() -> None:
    assert printed(MATRIX).splitlines()[-2:] == [
        "6.1 (6.1.0-56-amd64): 1 the same, 1 cannot be set up, 1 without an answer",
        "7.3 (7.3-amd64): 1 different, 2 cannot be set up",
    ]


@pytest.mark.parametrize(
    ("status", "finding"),
    [("same", False), ("known", False), ("cannot", False), ("differs", True), ("failed", True)],
)
def test_a_finding_is_what_nobody_knew(status: Status, finding: bool) -> None:
    assert Matrix({"6.1": "r"}, {"x": {"6.1": Cell(status)}}).findings is finding


def test_programs_get_every_cell() -> None:
    found = as_json(MATRIX)
    assert found["kernels"] == MATRIX.kernels
    assert found["scenarios"]["anonymous"] == {  # type: ignore[index]
        "6.1": {"status": "same"},
        "7.3": {
            "status": "differs",
            "differences": [{"step": 4, "about": "signal A", "model": "code=BUS_MCEERR_AR", "kernel": ""}],
        },
    }


def test_without_a_terminal_there_is_a_line_for_each_stage() -> None:
    out = io.StringIO()
    with Live(Console(file=out)) as live:
        live.say("142 [odd] scenarios")
        for done in range(10):
            live("6.1", done, 10, f"scenario {done}", stage="boot 1")
        live("6.1", 10, 10, "scenario 9", stage="boot 2")
    assert out.getvalue() == "142 [odd] scenarios\n6.1: boot 1\n6.1: boot 2\n"


def test_on_a_terminal_each_has_a_bar() -> None:
    out = io.StringIO()
    with Live(Console(file=out, force_terminal=True, width=100)) as live:
        live("6.1", 3, 10, "again", stage="boot 1")
        live("7.3", 4, 10, "[odd] name", stage="boot 1")
    text = out.getvalue()
    assert "3/10" in text
    assert "[odd] name" in text
    assert "boot 1" not in text
