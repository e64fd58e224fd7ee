"""A scenario as the text of its file: what load.py reads."""

from __future__ import annotations

import json

from .load import Scenario


def to_toml(scenario: Scenario) -> str:
    """One ``[[scenario]]`` table. Steps are written as they could be: defaults left out."""
    lines = ["[[scenario]]", f"name = {json.dumps(scenario.name)}"]
    for key in ("title", "source"):
        if text := getattr(scenario, key):
            lines.append(f"{key} = {json.dumps(text, ensure_ascii=False)}")
    if scenario.swap:
        lines.append(f"swap = {scenario.swap}")
    lines += [f"frames = {scenario.frames}", "steps = '''"]
    for step in scenario.steps:
        lines.append(step.text())
        lines += [f"  => {expected.text()}" for expected in step.expects]
    return "\n".join([*lines, "'''", ""])
