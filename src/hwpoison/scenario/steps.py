"""The steps of a scenario: one line each, checked against one table.

A line is ``VERB SUBJECT [key=value ...]``; SUBJECT names a thing of the scenario, or a page of it as
``NAME:2`` (third page of an area, a file or an open file). VERBS is the whole language: it parses,
it explains mistakes, it is printed as the manual, and each witness has one method a verb.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from hwpoison.abi.problems import Problem, WrongUse, unknown_name
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, SiCode, Signal

YES_NO = ("no", "yes")
POLICIES = ("default", "early", "late", "clear")
SIGBUS_ACTIONS = ("default", "handler", "ignore", "blocked")
FRAME_KINDS = ("slab", "vmalloc", "reserved", "pagetable", "balloon", "free", "driver", "nostruct")
WAYS_IN = ("madvise", "debugfs", "sysfs", "scrub")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One ``key=value``. No ``default``: it must be given, unless ``optional``."""

    name: str
    help: str
    choices: tuple[str, ...] = ()
    number: bool = False
    default: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One kind of step. ``subject`` says in words what stands after the verb; ``page``: it is NAME:number."""

    name: str
    subject: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    page: bool = False
    choices: tuple[str, ...] = ()

    def usage(self) -> str:
        words = [self.name, self.subject.upper().replace(" ", "-") + (":PAGE" if self.page else "")]
        for parameter in self.parameters:
            text = f"{parameter.name}={'|'.join(parameter.choices) or parameter.name.upper()}"
            words.append(text if parameter.default is None and not parameter.optional else f"[{text}]")
        return " ".join(words)


TASK = Parameter("task", "who does it; the area's first owner if not given", optional=True)
AS = Parameter("as", "the new thing's name")
DATA = Parameter("data", "what the page is filled with: a word")
POLICY = Parameter("policy", "its memory error policy (prctl PR_MCE_KILL)", POLICIES, default="default")
SIGBUS = Parameter("sigbus", "what it does on SIGBUS", SIGBUS_ACTIONS, default="default")

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("task", "new task", "a process with one thread and no memory yet", (SIGBUS, POLICY)),
        Verb("fork", "task", "fork(2)", (AS,)),
        Verb("thread", "task", "a second thread of the process", (AS, POLICY)),
        Verb("clone", "task", "another process in the same memory: clone(CLONE_VM)", (AS,)),
        Verb("exec", "task", "execve(2): new, empty memory"),
        Verb("exit", "task", "exit_group(2)"),
        Verb("prctl", "task", "change the memory error policy of a thread", (POLICY,)),
        Verb(
            "sigbus",
            "task",
            "change what it does on SIGBUS",
            (Parameter("action", "the action", SIGBUS_ACTIONS),),
        ),
        Verb(
            "sysctl",
            "knob",
            "set a knob of /proc/sys/vm",
            (Parameter("value", "0 or 1", ("0", "1")),),
            choices=(
                "memory_failure_early_kill",
                "memory_failure_recovery",
                "panic_on_unrecoverable_memory_failure",
            ),
        ),
        Verb(
            "file",
            "new file",
            "a file; on a disk, with old data in every page",
            (
                Parameter("fs", "its file system", default="ext4"),
                Parameter("pages", "its size", number=True, default="1"),
                Parameter("kind", "what it is", ("regular", "directory"), default="regular"),
            ),
        ),
        Verb("open", "new open file", "open(2)", (Parameter("file", "the file"),)),
        Verb("close", "open file", "close(2)"),
        Verb(
            "map",
            "new area",
            "mmap(2): anonymous without file=",
            (
                Parameter("task", "whose memory"),
                Parameter("file", "an open file", optional=True),
                Parameter("frame", "a frame of the kernel's, mapped by a driver", optional=True),
                Parameter("pages", "how many", number=True, default="1"),
                Parameter("first", "first page of the file", number=True, default="0"),
                Parameter("shared", "MAP_SHARED", YES_NO, default="no"),
            ),
        ),
        Verb("unmap", "area", "munmap(2)", (TASK,)),
        Verb("load", "area", "read memory", (TASK,), page=True),
        Verb("store", "area", "write memory", (TASK, DATA), page=True),
        Verb("lock", "area", "mlock(2)", (TASK,)),
        Verb("unlock", "area", "munlock(2)", (TASK,)),
        Verb("read", "open file", "read(2) of a page", page=True),
        Verb("write", "open file", "write(2) of a page", (DATA,), page=True),
        Verb("fsync", "open file", "fsync(2)"),
        Verb("truncate", "file", "ftruncate(2)", (Parameter("pages", "the new size", number=True),)),
        Verb(
            "punch",
            "file",
            "fallocate(2) FALLOC_FL_PUNCH_HOLE",
            (Parameter("pages", "how many", number=True, default="1"),),
            page=True,
        ),
        Verb("drop", "file", "drop the clean pages of a file from the page cache"),
        Verb(
            "disk",
            "state",
            "hold back writes, let them go, make them fail, or mend the disk",
            choices=("hold", "release", "fail", "mend"),
        ),
        Verb(
            "swapout",
            "area",
            "reclaim a page to swap; keep=yes leaves it in the swap cache",
            (TASK, Parameter("keep", "in the swap cache", YES_NO, default="no")),
            page=True,
        ),
        Verb("swapoff", "area of swap", "swapoff(2)", choices=("swap",)),
        Verb("pin", "area", "pin a page for a device (get_user_pages, FOLL_PIN)", (TASK, AS), page=True),
        Verb(
            "hold", "area or file", "a reference in flight, as of a read(2) under way", (TASK, AS), page=True
        ),
        Verb("release", "pin or hold", "end a pin or a hold"),
        Verb("dma", "pin or hold", "the device, or the reader of the pipe, takes the bytes"),
        Verb("busy", "file", "the journal needs the buffers of this page", page=True),
        Verb(
            "frame",
            "new frame",
            "name a page frame of the kernel's",
            (Parameter("kind", "whose", FRAME_KINDS),),
        ),
        Verb(
            "filter",
            "state",
            "the injection filter: only pages with these flags",
            (
                Parameter("mask", "flag names, comma separated", default=""),
                Parameter("value", "flag names, comma separated", default=""),
            ),
            choices=("on", "off"),
        ),
        Verb(
            "nomemory",
            "who",
            "the next small allocations of the handler fail",
            (Parameter("times", "how many", number=True, default="1"),),
            choices=("handler",),
        ),
        Verb(
            "inject",
            "area, file, frame or hold",
            "an error that is reported to the handler",
            (Parameter("via", "how it comes in", WAYS_IN), TASK),
            page=True,
        ),
        Verb("break", "area, file or frame", "a real error that nobody has noticed yet", (TASK,), page=True),
        Verb(
            "look",
            "area or file",
            "see the page table entry, or the page cache and the disk",
            (TASK,),
            page=True,
        ),
        Verb("counters", "which", "read HardwareCorrupted and the node's counters", choices=("all",)),
    )
}


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
    """One step. ``page`` is the number after the colon; ``line`` where it stands in its file."""

    verb: str
    subject: str
    page: int = 0
    args: dict[str, str] = field(default_factory=dict)
    line: int = 0
    expects: tuple[Expectation, ...] = ()
    written: str = field(default="", compare=False)

    def number(self, name: str) -> int:
        return int(self.args[name])

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
    "page": {"cached": YES_OR_NO, "dirty": YES_OR_NO, "bad": YES_OR_NO},
    "pte": {"entry": ("present", "poison", "swap", "none"), "bad": YES_OR_NO},
    "disk": {"data": ()},
    "panic": {"text": ()},
}
"""Kinds of observations, what each tells, and the words it may be told in (none listed: any)."""


def parse_expectation(line: str, number: int, kernels: tuple[str, ...]) -> Expectation:
    """The text after ``=>``: ``[6.1 6.12] KIND WHO key=value ...``; a bare key=value is of kind "call"."""
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
            if name not in kernels:
                raise StepError(str(unknown_name("kernel", name, kernels)))
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
