"""A page type or a page state in plain words: the rules about it, and what really comes out on each kernel.

The words of a rule are those of the table and of the function that answers for the page; the rest is a run
of the handler on a machine with such a page, for each kernel profile.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Explanation, StateLine
from hwpoison.abi.problems import unknown_name
from hwpoison.abi.results import PageType
from hwpoison.failure.profiles import PROFILES, profile_named
from hwpoison.failure.states import PageState

from .examples import EXAMPLES
from .kinds import SEVERAL, Kind, fold
from .oracle import Oracle

_TYPES = {page_type.log.removesuffix(" page").lower(): page_type for page_type in PageType}
NOT_MODELLED = (
    "No page state of the forecast comes to this: /proc does not show such pages, or it takes a race."
)


def explain(text: str, kernel: str | None = None) -> Explanation:
    """Explain a page type by its name in the kernel's log, or a page by the names or letters of its flags.

    ``kernel``: one profile instead of all. Raises WrongUse, with the nearest names, if the text is neither.
    """
    profiles = PROFILES.values() if kernel is None else [profile_named(kernel)]
    oracles = [Oracle(profile) for profile in profiles]
    page_type = _TYPES.get(" ".join(text.lower().split()).removesuffix(" page"))
    if page_type is not None:
        return _of_type(page_type, oracles)
    flags = parse_flags(text)
    if flags is None:
        raise unknown_name("page state", text, [*(t.log for t in PageType), *pg.BY_NAME])
    return _of_flags(flags, oracles)


def parse_flags(text: str) -> int | None:
    """The word of a page from the names of its flags (any separator), or from page-types letters."""
    names = [name for name in re.split(r"[\s,;|+]+", text.upper()) if name]
    if names and all(name in pg.BY_NAME for name in names):
        return pg.parse(names)
    return _parse_letters(text.replace("_", ""))


def _parse_letters(letters: str) -> int | None:
    """Letters in the order in which page-types prints them; another order is a word that is misspelt."""
    word, rest = 0, iter(pg.PAGE_FLAGS)
    for letter in letters:
        flag = next((flag for flag in rest if flag.letter == letter), None)
        if flag is None:
            return None
        word |= flag.mask
    return word or None


def _of_type(page_type: PageType, oracles: list[Oracle]) -> Explanation:
    """All examples that some kernel calls so, in the usual situation; if there is none, in another one."""
    found = [(kind, oracle) for kind in EXAMPLES for oracle in oracles if _calls(oracle, kind, page_type)]
    kinds = list(dict.fromkeys(kind for kind, _oracle in found))
    rules = [_rule(row, where) for row, where in _rows(lambda row: row.type is page_type).items()]
    if not rules:
        rules.append(f"In no state table of {', '.join(PROFILES)}: decided before the table, if at all.")
    if not kinds:
        rules += _in_other_situations(page_type, oracles) or [NOT_MODELLED]
    states = tuple(_line(kind, oracles) for kind in kinds)
    notes = tuple(found[0][1].notes(found[0][0])) if found else ()
    return Explanation(f'"{page_type.log}"', tuple(rules), states, notes)


def _calls(oracle: Oracle, kind: Kind, page_type: PageType) -> bool:
    usual = next(oracle.outcomes(kind), None)  # each further one is another run
    return usual is not None and usual[1].page_type is page_type


def _in_other_situations(page_type: PageType, oracles: list[Oracle]) -> list[str]:
    where: dict[str, list[str]] = {}
    for oracle in oracles:
        for kind in EXAMPLES:
            for when, verdict in oracle.outcomes(kind):
                if when and verdict.page_type is page_type:
                    kernels = where.setdefault(f"{verdict.text()}, if {when}", [])
                    if oracle.profile.name not in kernels:
                        kernels.append(oracle.profile.name)
    return [f"{text} ({', '.join(kernels)})." for text, kernels in where.items()]


def _of_flags(flags: int, oracles: list[Oracle]) -> Explanation:
    folded = fold(flags)
    kinds = [Kind(folded, number) for number in ((1, SEVERAL) if folded & pg.MMAP else (0,))]
    states = tuple(_line(kind, oracles) for kind in kinds)
    rules = []
    if ignored := flags & ~folded:
        names = pg.names(ignored)
        rules.append(f"{' and '.join(names)} {'decide' if len(names) > 1 else 'decides'} nothing here.")
    deciding = {
        PROFILES[name].states[answer.verdict.row - 1]
        for name, answer in states[0].answers
        if answer.verdict and answer.verdict.row
    }
    rules += [_rule(row, where) for row, where in _rows(lambda row: row in deciding).items()]
    title = " ".join(pg.names(flags)) or "no flag"
    return Explanation(title, tuple(rules), states, tuple(oracles[0].notes(kinds[0])))


def _line(kind: Kind, oracles: list[Oracle]) -> StateLine:
    answers = tuple((oracle.profile.name, oracle.of_kind(kind)) for oracle in oracles)
    return StateLine(kind.flags, kind.mappers, answers)


def _rows(chosen: Callable[[PageState], bool]) -> dict[PageState, list[str]]:
    """The chosen rows of all state tables, each with the kernels that have it and its number there."""
    rows: dict[PageState, list[str]] = {}
    for profile in PROFILES.values():
        for number, row in enumerate(profile.states, 1):
            if chosen(row):
                rows.setdefault(row, []).append(f"{profile.name} (row {number})")
    return rows


def _rule(row: PageState, where: list[str]) -> str:
    """A row in words, and what the function that answers for such pages says of itself."""
    wanted, barred = " ".join(pg.names(row.want)), " ".join(pg.names(row.mask & ~row.want))
    pages = f"pages with {wanted}" + (f" and without {barred}" if barred else "")
    if not row.mask:
        pages = "pages that no other row fits"
    answer = " ".join((inspect.getdoc(row.respond) or "").split())
    return f"State table of {', '.join(where)}: {pages}. {answer}"
