"""What differs between the kernels is confirmed by their recorded answers, as docs/kernels.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpoison.scenario.load import catalogue

from . import page
from .confirm import confirms, differing, kept

CELLS = [(name, kernel, scenario) for name, kernels in kept().items() for kernel, scenario in kernels.items()]
LOOK_AGAIN = "look for others: python -m tests.kernels.confirm"


@pytest.mark.parametrize(("name", "kernel", "scenario"), CELLS)
def test_a_recorded_answer_would_be_another_with_the_value_of_another_kernel(
    name: str, kernel: str, scenario: str
) -> None:
    assert confirms(catalogue()[scenario], name, kernel), f"{scenario} does not tell any more; {LOOK_AGAIN}"


def test_each_difference_has_been_looked_for_and_nothing_else() -> None:
    assert set(kept()) == set(differing()), LOOK_AGAIN


def test_the_page_says_what_profiles_and_records_say(root: Path) -> None:
    assert (root / page.DOCUMENT).read_text(encoding="utf-8") == page.render(), "run make docs"
