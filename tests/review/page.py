"""docs/review.md: the stories of stories.md, each with its run and its tests (``make docs``)."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby
from pathlib import Path

from hwpoison.abi.exploration import Moment, Telling

from .. import undone
from ..undone import Outcome, Undone
from .rows import ROWS

HERE = Path(__file__).parent
DOCUMENT = "docs/review.md"
HEADER = (
    "<!-- Printed by `make docs` from tests/review; edit its stories.md and rows.py, not this file. -->\n"
)
SECTION = re.compile(r"^## (R\d+): ", re.MULTILINE)
MARKS = {"race": "*", "certain": "!"}
RACES, PLAIN = (
    "test_some_order_fails_with_the_postings_way",
    "test_a_plain_run_fails_with_the_postings_way_and_not_with_ours",
)


@cache
def shown(row: Undone) -> Outcome:
    """The failure of a race, found once."""
    return undone.shows(row)


def sections() -> dict[str, str]:
    """Remark → its story; "" → what stands before the first."""
    parts = SECTION.split((HERE / "stories.md").read_text(encoding="utf-8"))
    stories = {name: f"## {name}: {text}" for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {"": parts[0], **stories}


def render() -> str:
    rows = {row.name: row for row in ROWS}
    parts = [HEADER]
    for name, story in sections().items():
        parts.append(story.rstrip() + "\n")
        if name in rows:
            parts.append(f"\nUndone: {rows[name].title}.\n\n```text\n{told(rows[name])}```\n")
        if name:
            parts.append(f"\n{tests_of(name)}\n\n")
        else:
            parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def tests_of(name: str) -> str:
    found = [
        f"`{path.name}::{test}`"
        for path in sorted(HERE.glob("test_*.py"))
        for test in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        if name.lower() in test.split("_")
    ]
    for row in ROWS:
        if row.name == name:
            found.insert(0, f"`test_rows.py::{RACES if row.races else PLAIN}[{name}]`")
    return f"Test{'s' * (len(found) > 1)}: {', '.join(found)}"


def told(row: Undone) -> str:
    """A race as its shortest run; a plain scenario from its first error on, with what was seen."""
    if row.races:
        outcome = shown(row)
        if outcome.telling is None:
            return f"{outcome.failure}\n"
        return f"{outcome.failure}\n\n{brief(outcome.telling)}\n$ {outcome.command}\n"
    done = undone.run(row)
    lines = []
    for step in done.run.story:
        lines.append(step.step)
        lines += [f"  {seen.text()[3:]}" for seen in step.seen if seen.value.get("data") != "ok"]
    (wrong, *_) = [line for line in done.wrong if re.search(row.breaks, line)]
    return "\n".join([*lines, "", re.sub(r"^R\d+:\d+: ", "", wrong), "", f"$ {row.command()}", ""])


def brief(telling: Telling) -> str:
    """Columns, one a path; of each stretch the first event, the last, and those that matter."""
    paths = list(dict.fromkeys(moment.path for moment in telling.moments))
    lines: list[tuple[str, str, str]] = []  # mark, path, text
    for path, moments in groupby(telling.moments, key=lambda moment: moment.path):
        lines += [(mark, path, text) for mark, text in _stretch(list(moments))]
    width = {path: max(len(text) for _, of, text in lines if of == path) + 2 for path in paths}
    width = {path: max(width[path], len(path) + 2) for path in paths}
    rows = [("", dict(zip(paths, paths, strict=True)))] + [(mark, {path: text}) for mark, path, text in lines]
    shown = [
        f"{mark:>3} " + "".join(texts.get(path, "").ljust(width[path]) for path in paths)
        for mark, texts in rows
    ]
    return "".join(line.rstrip() + "\n" for line in shown)


def _stretch(moments: list[Moment]) -> list[tuple[str, str]]:
    kept = [n for n, m in enumerate(moments) if n in (0, len(moments) - 1) or m.role]
    found: list[tuple[str, str]] = []
    for n, (at, before) in enumerate(zip(kept, [-1, *kept], strict=False)):
        left_out = at - before - 1
        if n and left_out == 1:
            kept_one = moments[at - 1]
            found.append(("", kept_one.label))
        elif n and left_out:
            found.append(("", f"… {left_out} more"))
        mark = MARKS.get(moments[at].role, ">>>" if moments[at].preempts else "")
        found.append((mark, moments[at].label))
    return found


def main() -> None:
    """Write the document into the checkout."""
    (HERE.parent.parent / DOCUMENT).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
