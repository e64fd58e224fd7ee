"""The race catalogue: every rival against every victim that it can meet (races.toml), as scenarios.

A race is called ``VICTIM+RIVAL``: the page that is struck, and what another path does meanwhile.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import resources
from typing import Any

FILE = "races.toml"


def race_texts() -> Iterator[str]:
    """Each race as the text of a scenario file."""
    text = (resources.files("hwpoison.scenario") / FILE).read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    weaknesses = tables.get("weakness", [])
    for victim in tables["victim"]:
        for rival in tables["rival"]:
            if set(rival["needs"].split()) & set(victim["kinds"]):
                yield _race(victim, rival, weaknesses)


def _race(victim: dict[str, Any], rival: dict[str, str], weaknesses: list[dict[str, Any]]) -> str:
    name = f"{victim['name']}+{rival['name']}"
    breaks = [weak["name"] for weak in weaknesses if any(fnmatch(name, race) for race in weak["races"])]
    words = {"area": victim.get("area", ""), "struck": victim["struck"], "size": victim.get("size", "1")}
    before = rival.get("before", "").format_map(words)
    steps = [f"{rival['name']}: {line}" for line in rival["steps"].format_map(words).strip().splitlines()]
    lines = [
        "[[scenario]]",
        f'name = "{name}"',
        f'title = "{victim["title"]}, against {rival["title"]}"',
        'source = "mm/memory-failure.c memory_failure()"',
        f"breaks = {breaks!r}",
        "swap = 4",
        f"frames = {victim.get('frames', 64)}",
        f"huge = {victim.get('huge', 512)}",
        "steps = '''",
        *victim["steps"].strip().splitlines(),
        *before.strip().splitlines(),
        "together",
        *steps,
        f"mce: inject {victim['struck']}:0 via=sysfs",
        "end",
        "'''",
    ]
    return "\n".join(lines) + "\n"
