"""The steps of a scenario: one line each, checked against one table.

A line is ``VERB SUBJECT [key=value ...]``; SUBJECT names a thing of the scenario, or a page of it as
``NAME:2`` (third page of an area, a file or an open file).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from hwpoison.abi.problems import Problem, WrongUse, unknown_name
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, SiCode, Signal

from .verbs import VERBS, Parameter, Verb


@dataclass(frozen=True, slots=True)
class Expectation:
    """One ``=>`` line: something that must be seen at its step, on the kernels it is for (None: all)."""

    kind: str
    who: str | None
    values: dict[str, str]
    kernels: frozenset[str] | None = None
    line: int = 0

    def applies_to(self, kernel: str) -> bool:
        return self.kernels is None or kernel in self.kernels

    def text(self) -> str:
        values = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.values.items())
        return " ".join(word for word in (self.kind, self.who or "", values) if word)


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``page`` is the number after the colon; ``line`` where it stands in its file.

    ``path`` names the path of execution that takes it, if it stands between ``together`` and ``end``.
    """

    verb: str
    subject: str
    page: int = 0
    args: dict[str, str] = field(default_factory=dict)
    line: int = 0
    expects: tuple[Expectation, ...] = ()
    written: str = field(default="", compare=False)
    path: str = field(default="", compare=False)

    def number(self, name: str, default: int | None = None) -> int:
        """A parameter that is a number; ``default`` if it may be left out, and is."""
        return int(self.args[name]) if default is None or name in self.args else default

    def get(self, name: str) -> str | None:
        return self.args.get(name)

    def text(self) -> str:
        """The line as it was written, or as it could be: defaults left out."""
        if self.written:
            return self.written
        verb = VERBS[self.verb]
        defaults = {parameter.name: parameter.default for parameter in verb.parameters}
        words = [self.verb, f"{self.subject}:{self.page}" if verb.page else self.subject]
        words += [f"{k}={shlex.quote(v)}" for k, v in self.args.items() if v != defaults.get(k)]
        return " ".join(words)


def fate(before: int | None, after: int | None) -> str:
    """What became of a page by its frame numbers, in the words of ``compact``."""
    return "nothing" if before is None else "stays" if before == after else "moved"


class StepError(Problem):
    """A line that is not a step; ``text`` says what was expected."""

    exit_code = WrongUse.exit_code


def parse_step(line: str, number: int = 0) -> Step:
    """One line as a Step; StepError says what is wrong with it."""
    words = _words(line)
    if not words:
        raise StepError(f"{line!r} is empty; expected VERB SUBJECT [key=value ...]")
    try:
        verb = VERBS[words[0]]
    except KeyError:
        raise StepError(str(unknown_name("step", words[0], VERBS))) from None
    if len(words) < 2 or "=" in words[1]:
        raise StepError(f"{words[0]!r} needs a subject; expected: {verb.usage()}")
    subject, page = _subject(verb, words[1])
    return Step(verb.name, subject, page, _arguments(verb, words[2:]), number, written=line)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise StepError(f"cannot read {line!r}: {error}") from None


def _subject(verb: Verb, word: str) -> tuple[str, int]:
    name, colon, digits = word.partition(":")
    if verb.choices and word not in verb.choices:
        raise StepError(str(unknown_name(f"{verb.subject} of {verb.name!r}", word, verb.choices)))
    if not verb.page:
        if colon:
            raise StepError(
                f"{word!r} names a page, but {verb.name!r} wants a name; expected: {verb.usage()}"
            )
        return word, 0
    if colon and not digits.isdecimal():
        raise StepError(f"the page in {word!r} is not a number; expected: {verb.usage()}")
    return name, int(digits) if colon else 0


def _arguments(verb: Verb, words: list[str]) -> dict[str, str]:
    known = {parameter.name: parameter for parameter in verb.parameters}
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise StepError(f"{word!r} is not key=value; expected: {verb.usage()}")
        if key not in known:
            if not known:
                raise StepError(f"{verb.name!r} takes no arguments, got {word!r}")
            raise StepError(str(unknown_name(f"argument of {verb.name!r}", key, known)))
        if key in given:
            raise StepError(f"{key!r} is given twice")
        given[key] = _value(verb, known[key], value)
    result = {}
    for parameter in verb.parameters:
        if parameter.name in given:
            result[parameter.name] = given[parameter.name]
        elif parameter.default is not None:
            result[parameter.name] = parameter.default
        elif not parameter.optional:
            raise StepError(f"{verb.name!r} needs {parameter.name}=; expected: {verb.usage()}")
    return result


def _value(verb: Verb, parameter: Parameter, value: str) -> str:
    if parameter.number and not (value.isdecimal() and int(value) < 1 << 20):
        raise StepError(f"{parameter.name}={value!r} of {verb.name!r}: expected a number below {1 << 20}")
    if parameter.choices and value not in parameter.choices:
        expected = " or ".join(parameter.choices)
        raise StepError(f"{parameter.name}={value!r} of {verb.name!r}: expected {expected}")
    return value


YES_OR_NO = ("yes", "no")
EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    "signal": {"code": tuple(code.name for code in SiCode), "page": (), "lsb": ()},
    "died": {"signal": tuple(signal.name for signal in Signal)},
    "call": {"data": (), "errno": tuple(error.name for error in Errno)},
    "return": {"code": ("0", *(f"-{error.name}" for error in Errno))},
    "verdict": {
        "type": tuple(page_type.log for page_type in PageType),
        "result": tuple(result.text for result in MfResult),
    },
    "counter": {name: () for name in ("HardwareCorrupted", *(result.name.lower() for result in MfResult))},
    "page": {"cached": YES_OR_NO, "dirty": YES_OR_NO, "bad": YES_OR_NO, "order": ()},
    "pte": {"entry": ("present", "poison", "swap", "none"), "bad": YES_OR_NO, "order": ()},
    "pool": {"nr": (), "free": (), "reserved": (), "surplus": ()},
    "disk": {"data": ()},
    "panic": {"text": ()},
}
"""Kinds of observations, what each tells, and the words it may be told in (none listed: any)."""


def parse_expectation(
    line: str, number: int, kernels: tuple[str, ...], proposals: tuple[str, ...] = ()
) -> Expectation:
    """The text after ``=>``: ``[6.1 6.12] KIND WHO key=value ...``; a bare key=value is of kind "call".

    ``[not ...]`` is about real kernels: a proposal has to be named.
    """
    only: frozenset[str] | None = None
    line = line.strip()
    if line.startswith("["):
        inside, closed, line = line[1:].partition("]")
        if not closed:
            raise StepError("'[' is not closed; expected [KERNEL ...] or [not KERNEL ...]")
        names = inside.split()
        inverted = names[:1] == ["not"]
        names = names[inverted:]
        for name in names:
            if name not in kernels + proposals:
                raise StepError(str(unknown_name("kernel", name, kernels + proposals)))
        only = frozenset(kernels) - frozenset(names) if inverted else frozenset(names)
    words = _words(line)
    if not words:
        raise StepError("nothing stands after '=>'; expected [KERNEL ...] KIND WHO key=value ...")
    kind = "call"
    if words and "=" not in words[0]:
        kind = words.pop(0)
        if kind not in EXPECTED:
            raise StepError(str(unknown_name("kind of observation", kind, EXPECTED)))
    who = words.pop(0) if words and "=" not in words[0] else None
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise StepError(f"{word!r} is not key=value")
        if key not in EXPECTED[kind]:
            raise StepError(str(unknown_name(f"part of a {kind!r}", key, EXPECTED[kind])))
        choices = EXPECTED[kind][key]
        if choices and value not in choices:
            raise StepError(str(unknown_name(f"{key} of a {kind!r}", value, choices)))
        values[key] = value
    return Expectation(kind, who, values, only, number)
