"""The race catalogue: every rival against every victim that it can meet (races.toml), as scenarios.

A race is called ``VICTIM+RIVAL``: the page that is struck, and what another path does meanwhile. With two
rivals, ``VICTIM+RIVAL+RIVAL``, the second is another thread of the same process.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib import resources
from typing import Any

FILE = "races.toml"
TWIN = "twin"
HUGE = 512
"""Pages of a huge page, on any real machine. A victim that has one wants fewer, and a rival fewer still."""
OTHER = re.compile(r"\bother\b")


def race_texts() -> Iterator[str]:
    """Each race as the text of a scenario file."""
    tables = _tables()
    for victim in tables["victim"]:
        for rival in tables["rival"]:
            if set(rival["needs"].split()) & set(victim["kinds"]):
                yield _race(victim, [rival], tables["weakness"])


def triple_texts() -> Iterator[str]:
    """Those of three paths: the handler and two threads of one process."""
    tables = _tables()
    victims = {victim["name"]: victim for victim in tables["victim"]}
    rivals = {rival["name"]: rival for rival in tables["rival"]}
    for triple in tables["triple"]:
        first, second = (rivals[name] for name in triple["rivals"])
        yield _race(victims[triple["victim"]], [first, second], tables["weakness"])


def triple_bounds() -> dict[str, int | None]:
    """How many preemptions each of them is explored with; None: every order."""
    return {"+".join((t["victim"], *t["rivals"])): t.get("bound") for t in _tables()["triple"]}


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((resources.files("hwpoison.scenario") / FILE).read_text(encoding="utf-8"))


def _race(victim: dict[str, Any], rivals: list[dict[str, Any]], weaknesses: list[dict[str, Any]]) -> str:
    pairs = [f"{victim['name']}+{rival['name']}" for rival in rivals]
    name = "+".join((victim["name"], *(rival["name"] for rival in rivals)))
    breaks = [
        weak["name"]
        for weak in weaknesses
        if any(fnmatch(shown, race) for race in weak["races"] for shown in (name, *pairs))
    ]
    huge = victim.get("huge", HUGE)
    if huge < HUGE:
        huge = min(part.get("huge", huge) for part in (victim, *rivals))
    words = {"area": victim.get("area", ""), "struck": victim["struck"], "size": victim.get("size", "1")}
    words["huge"] = str(huge)
    before = [rival.get("before", "").format_map(words) for rival in rivals]
    steps = []
    for number, rival in enumerate(rivals):
        does = rival["steps"].format_map(words).strip()
        if number:
            does = OTHER.sub(TWIN, does)
        steps += [f"{rival['name']}: {line}" for line in does.splitlines()]
    if any(TWIN in step for step in steps):
        before.append(f"thread other as={TWIN}")
    lines = [
        "[[scenario]]",
        f'name = "{name}"',
        f'title = "{victim["title"]}, against {" and ".join(rival["title"] for rival in rivals)}"',
        'source = "mm/memory-failure.c memory_failure()"',
        f"breaks = {breaks!r}",
        "swap = 4",
        f"frames = {max(part.get('frames', 64) for part in (victim, *rivals))}",
        f"huge = {huge}",
        "steps = '''",
        *victim["steps"].format_map(words).strip().splitlines(),
        *(line for text in before for line in text.strip().splitlines()),
        "together",
        *steps,
        f"mce: inject {victim['struck']}:0 via=sysfs",
        "end",
        "'''",
    ]
    return "\n".join(lines) + "\n"
