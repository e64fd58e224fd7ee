"""Documents that are printed from the tables of the code: ``make docs`` writes them, a test compares them.

Whatever a reader could also find in a table is not written by hand, so it cannot become untrue.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from hwpoison.abi import pageflags as pg
from hwpoison.failure import profiles, states
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.mm.lockless import LOCKLESS
from hwpoison.mm.lockorder import CHAINS, SOURCE
from hwpoison.scenario.load import catalogue
from hwpoison.scenario.verbs import VERBS

HEADER = "<!-- Printed from the code by `make docs`; edit the tables, not this file. -->\n"


def render() -> dict[str, str]:
    """Path in the checkout → text of every generated document."""
    return {
        "docs/page-states.md": page_states(),
        "docs/scenarios.md": scenarios(),
        "docs/locks.md": locks(),
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def flags(word: int) -> str:
    return " ".join(pg.names(word)) or "-"


def page_states() -> str:
    """The state tables side by side, what differs between kernels, and the known weaknesses."""
    parts = [HEADER, "# The page state table\n\n", (inspect.getdoc(states) or "") + "\n\n"]
    newest = profiles.NEWEST
    parts.append(f"## Rows of {newest.name}\n\n")
    parts.append(
        table(
            ("row", "flags looked at", "must be", "type in the log", "who answers"),
            [
                (str(n), flags(row.mask), flags(row.want), row.type.log, _responder(row.respond))
                for n, row in enumerate(newest.states, 1)
            ],
        )
    )
    parts.append("\n## What differs between the kernels\n\n")
    parts.append(table(("field", *PROFILES, "what it means, and where seen"), _differences()))
    parts.append("\n## Known weaknesses\n\n")
    parts.append(
        table(
            ("name", "promise", "what happens", "source"),
            [(name, str(d.promise), d.text, d.source) for name, d in DEVIATIONS.items()],
        )
    )
    return "".join(parts)


def _responder(respond: object) -> str:
    return f"{getattr(respond, '__module__', '')}.{getattr(respond, '__name__', '')}".removeprefix(
        "hwpoison."
    )


def _differences() -> list[tuple[str, ...]]:
    """One row for each field in which the profiles differ; the extra rows of a state table are named."""
    meaning = {**field_docs(Profile), **field_docs(type(profiles.NEWEST.traits))}
    rows = [
        ("states", *(_extra_rows(p) for p in PROFILES.values()), "rows beside those of the newest kernel")
    ]
    for field in fields(Profile):
        if field.name in ("name", "states", "traits"):
            continue
        values = [str(_plain(getattr(profile, field.name))) for profile in PROFILES.values()]
        rows.append((field.name, *values, meaning[field.name]))
    for field in fields(profiles.NEWEST.traits):
        values = [str(getattr(profile.traits, field.name)) for profile in PROFILES.values()]
        rows.append((field.name, *values, meaning[field.name]))
    return [row for row in rows if len(set(row[1:-1])) > 1]


def _extra_rows(profile: Profile) -> str:
    common = set(profiles.NEWEST.states)
    return ", ".join(row.type.log for row in profile.states if row not in common) or "-"


def _plain(value: object) -> object:
    return getattr(value, "log", None) or getattr(value, "text", value)


def field_docs(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a class."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    if not isinstance(tree, ast.ClassDef):
        return {}
    found = {}
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = str(after.value.value) if is_text else ""  # type: ignore[attr-defined]
            found[node.target.id] = " ".join(text.split())
    return found


def scenarios() -> str:
    """The language of scenario files and the catalogue."""
    parts = [HEADER, "# Scenarios\n\n## The steps of a scenario file\n\n"]
    parts.append(table(("step", "what it does"), [(f"`{v.usage()}`", v.help) for v in VERBS.values()]))
    parts.append("\n## The catalogue\n")
    family = ""
    rows: list[tuple[str, str, str]] = []
    for scenario in catalogue().values():
        if scenario.origin != family:
            parts.append(_family(family, rows))
            family, rows = scenario.origin, []
        rows.append((f"`{scenario.name}`", scenario.title, scenario.source))
    parts.append(_family(family, rows))
    return "".join(parts)


def _family(origin: str, rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    return f"\n### {origin.removesuffix('.toml')}\n\n" + table(("name", "what happens", "source"), rows)


def locks() -> str:
    """The lock order, and what needs no lock."""
    parts = [HEADER, "# The lock order\n\n", f"Source: {SOURCE}. Each chain from the outermost lock in;\n"]
    parts.append("every acquisition in the model is checked against it (mm/lockorder.py).\n\n")
    parts += [f"* {' → '.join(chain)}\n" for chain in CHAINS]
    parts.append(
        "\n# What is touched without a lock\n\nThe explorer tells of anything else that two paths touch "
    )
    parts.append("with no lock of both (explore/dataraces.py).\n\n")
    parts.append(table(("of the model", "how, or why that is right"), list(LOCKLESS.items())))
    return "".join(parts)


def main() -> None:
    """Write every document into the checkout that this package is installed from."""
    root = Path(__file__).resolve().parents[2]
    for path, text in render().items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
