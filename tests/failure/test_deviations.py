"""The list of known weaknesses: each breaks a promise and says where the kernel has it."""

from __future__ import annotations

import re

from hwpoison.failure.deviations import DEVIATIONS


def test_each_breaks_one_of_the_six_promises() -> None:
    assert all(1 <= deviation.promise <= 6 for deviation in DEVIATIONS.values())


def test_each_says_what_happens_and_where_the_kernel_does_it() -> None:
    for deviation in DEVIATIONS.values():
        assert re.search(r"\b(?:mm|arch|fs)/[\w/-]+\.c\b", deviation.source)
        assert len(deviation.text.split()) > 5


def test_names_can_be_typed() -> None:
    assert all(re.fullmatch(r"[a-z]+(?:-[a-z]+)*", name) for name in DEVIATIONS)
