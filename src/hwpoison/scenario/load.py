"""Scenario files: TOML, one ``[[scenario]]`` table each, steps as text with the expectations beside them.

::

    [[scenario]]
    name = "dirty-file-page"
    title = "A dirty page of a file is lost"
    source = "mm/memory-failure.c me_pagecache_dirty()"
    steps = '''
    file data
    open fd file=data
    write fd:0 data=new
    inject data:0 via=sysfs
      => return code=0
    fsync fd
      => errno=EIO
    '''

Steps between a line ``together`` and a line ``end`` run at the same time, as paths of execution; each begins
with the label of its path. Whoever can only run one thing after the other runs them as they are written;
``hwpoison explore`` tries every order there is::

    together
      fault: store m:0 data=x
      mce:   inject m:0 via=sysfs
    end

A file with one scenario may leave the ``[[scenario]]`` line out. ``swap`` is the number of swap slots,
``frames`` the memory; ``huge`` the pages of a huge page, which on any real machine are 512; ``breaks`` lists
the promises known to be broken, by the name of the deviation.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

from hwpoison.abi.problems import NotPossible, WrongUse, unknown_name
from hwpoison.failure.deviations import DEVIATIONS
from hwpoison.failure.profiles import NEWEST, PROFILES, PROPOSED

from .races import FILE, HUGE, race_texts, triple_texts
from .steps import Step, StepError, parse_expectation, parse_step

KEYS = ("name", "title", "source", "steps", "swap", "frames", "huge", "breaks")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. ``origin`` is the file it came from; ``breaks`` maps a deviation to its kernels."""

    name: str
    steps: tuple[Step, ...]
    title: str = ""
    source: str = ""
    swap: int = 0
    frames: int = 256
    huge: int = HUGE
    breaks: dict[str, frozenset[str]] = field(default_factory=dict)
    origin: str = ""

    @property
    def labels(self) -> list[str]:
        """The names of the paths that run at the same time, in order."""
        return list(dict.fromkeys(step.path for step in self.steps if step.path))

    def expected_breaks(self, kernel: str) -> set[str]:
        return {name for name, kernels in self.breaks.items() if kernel in kernels}


def load_file(path: Path) -> list[Scenario]:
    """All scenarios of a file. WrongUse names the file, the line and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WrongUse(f"no scenario file {str(path)!r}") from None
    except UnicodeDecodeError:
        raise WrongUse(f"{str(path)!r} is no text: expected a scenario file in TOML") from None
    except OSError as error:
        raise NotPossible(f"cannot read the scenario file {str(path)!r}: {error}") from None
    return load_text(text, str(path))


def load_text(text: str, origin: str) -> list[Scenario]:
    """As load_file(), from text."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongUse(f"{origin}: not valid TOML: {error}") from None
    tables = document.get("scenario", [document])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise WrongUse(f"{origin}: 'scenario' must be a list of tables: write [[scenario]] above each")
    beside = [key for key in document if key != "scenario"]
    if "scenario" in document and beside:
        raise WrongUse(f"{origin}: {beside[0]!r} stands above the first [[scenario]]; write it below one")
    starts = _starts_of_steps(text)
    with_steps = [table for table in tables if isinstance(table.get("steps"), str)]
    lines = dict(zip(map(id, with_steps), starts, strict=False))
    scenarios = [_scenario(table, origin, lines.get(id(table), 0)) for table in tables]
    names = [scenario.name for scenario in scenarios]
    for name in names:
        if names.count(name) > 1:
            raise WrongUse(f"{origin}: a second scenario is called {name!r}")
    return scenarios


def _starts_of_steps(text: str) -> list[int]:
    """The line numbers of the first line of each value of ``steps``; TOML readers do not tell."""
    starts = []
    for number, line in enumerate(text.splitlines(), 1):
        squeezed = line.replace(" ", "")
        if squeezed.startswith(("steps='''", 'steps="""')):
            starts.append(number + (len(squeezed) == len("steps='''")))  # TOML skips a newline just there
    return starts


def _scenario(table: dict[str, object], origin: str, start: int) -> Scenario:
    def wrong(message: str) -> WrongUse:
        name = table.get("name")
        where = f"{origin}: scenario {name!r}" if name else origin
        return WrongUse(f"{where}: {message}")

    for key in table:
        if key not in KEYS:
            raise wrong(str(unknown_name("key", key, KEYS)))
    for key, kind in (("name", str), ("steps", str)):
        if not isinstance(table.get(key), kind):
            raise wrong(f"{key!r} is missing or not a text; expected {key} = ...")
    for key in ("title", "source"):
        if not isinstance(table.get(key, ""), str):
            raise wrong(f"{key!r} = {table[key]!r} is not a text")
    numbers = {}
    for key, default, least in (("swap", 0, 0), ("frames", 256, 8), ("huge", HUGE, 2)):
        value = table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1 << 20:
            raise wrong(f"{key} = {value!r}: expected a number of pages from {least} to {1 << 20}")
        numbers[key] = value
    if numbers["huge"] & (numbers["huge"] - 1):
        raise wrong(f"huge = {numbers['huge']}: expected a power of two")
    try:
        breaks = _breaks(table.get("breaks", []))
    except WrongUse as error:
        raise wrong(str(error)) from None
    return Scenario(
        name=str(table["name"]),
        steps=_steps(str(table["steps"]), origin, start),
        title=str(table.get("title", "")),
        source=str(table.get("source", "")),
        swap=numbers["swap"],
        frames=numbers["frames"],
        huge=numbers["huge"],
        breaks=breaks,
        origin=origin,
    )


def _breaks(value: object) -> dict[str, frozenset[str]]:
    """``["stale-read", "forgotten-victim 6.1 6.12"]``: deviation, and the kernels if not all."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise WrongUse(f"breaks = {value!r}: expected a list of texts")
    result = {}
    for entry in value:
        name, *kernels = entry.split() or [""]
        if name not in DEVIATIONS:
            raise unknown_name("deviation", name, DEVIATIONS)
        for kernel in kernels:
            if kernel not in PROFILES:
                raise unknown_name("kernel", kernel, PROFILES)
        result[name] = frozenset(kernels or PROFILES)
        if NEWEST.name in result[name] and name not in PROPOSED.mends:
            result[name] |= {PROPOSED.name}
    return result


TOGETHER, END = "together", "end"
PATH = re.compile(r"([a-z][a-z0-9_-]*):\s+(.*)")


def _steps(text: str, origin: str, start: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    kernels = tuple(PROFILES)
    block: bool | None = None  # before "together", inside, after "end"
    for offset, line in enumerate(text.splitlines()):
        number = start + offset
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            if stripped.split("#")[0].strip() in (TOGETHER, END):
                block = _block(stripped.split()[0], block)
            elif stripped.startswith("=>"):
                if not steps:
                    raise StepError("'=>' stands before the first step")
                expected = parse_expectation(stripped[2:], number, kernels, (PROPOSED.name,))
                steps[-1] = replace(steps[-1], expects=(*steps[-1].expects, expected))
            else:
                steps.append(_step(stripped, number, inside=block is True))
        except StepError as error:
            raise WrongUse(f"{origin}:{number}: {error}") from None
    where = f"{origin}{f':{start}' if start else ''}"
    if block is True:
        raise WrongUse(f"{where}: {TOGETHER!r} is not closed; expected a line {END!r}")
    if block is False and len({step.path for step in steps if step.path}) < 2:
        raise WrongUse(
            f"{where}: {TOGETHER!r} wants two paths or more; write LABEL: STEP with different labels"
        )
    if not steps:
        raise WrongUse(f"{where}: there is no step; expected at least one")
    return tuple(steps)


def _block(word: str, block: bool | None) -> bool:
    """The state after ``together`` or ``end``."""
    if word == TOGETHER and block is None:
        return True
    if word == END and block is True:
        return False
    if word == TOGETHER:
        raise StepError(f"a second {TOGETHER!r}; a scenario has one place where paths run at the same time")
    raise StepError(f"{END!r} without {TOGETHER!r} before it")


def _step(line: str, number: int, *, inside: bool) -> Step:
    """One line; between ``together`` and ``end`` with the label of its path before it."""
    labelled = PATH.fullmatch(line)
    if not inside:
        if labelled:
            raise StepError(f"{labelled[1]!r} is a label, but {TOGETHER!r} does not stand before this line")
        return parse_step(line, number)
    if not labelled:
        raise StepError(f"{line!r} has no label; between {TOGETHER!r} and {END!r} expected LABEL: STEP")
    return replace(parse_step(labelled[2], number), path=labelled[1])


@cache
def catalogue() -> dict[str, Scenario]:
    """The scenarios that come with the package, by name, in the order of their files."""
    found: dict[str, Scenario] = {}
    folder = resources.files("hwpoison.scenario") / "catalogue"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            for scenario in load_text(entry.read_text(encoding="utf-8"), entry.name):
                if scenario.name in found:
                    raise WrongUse(f"{entry.name}: a second scenario is called {scenario.name!r}")
                found[scenario.name] = scenario
    return found


@cache
def races() -> dict[str, Scenario]:
    """The races that come with the package, by name."""
    return {race.name: race for race in load_text("".join(race_texts()), FILE)}


@cache
def triples() -> dict[str, Scenario]:
    """Races of three paths, by name."""
    return {race.name: race for race in load_text("".join(triple_texts()), FILE)}


def find(name: str) -> list[Scenario]:
    """The scenario or the race of the catalogue with this name, or those of the file with this path."""
    scenarios = catalogue() | (races() | triples() if "+" in name else {})
    if name in scenarios:
        return [scenarios[name]]
    if name.endswith(".toml") or "/" in name or Path(name).exists():
        return load_file(Path(name))
    raise unknown_name("scenario", name, scenarios)
