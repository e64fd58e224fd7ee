"""Mendings undone: what is replaced and put back, and the command that repeats what was found."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from hwpoison.failure import handler, user_mappings
from hwpoison.failure.profiles import NEWEST
from hwpoison.mm import swap, truncate

from . import undone
from .undone import Undone

STEPS = """
task app
file f fs=ext4
open fd file=f
write fd:0 data=x
together
  sync: fsync fd
  mce: inject f:0 via=sysfs
end
"""


def nothing(_page: object) -> None: ...


def row(*patches: tuple[str, object]) -> Undone:
    return Undone("it", "a title", STEPS, patches, "under writeback", known=("stale-read", "device-reads-on"))


def test_a_function_is_replaced_wherever_it_is_known_and_put_back() -> None:
    before = truncate.give_up_clean_folio
    with row(("hwpoison.mm.truncate:give_up_clean_folio", nothing)).installed() as kernel:
        assert truncate.give_up_clean_folio is nothing
        assert {r.respond for r in kernel.states} & {before, nothing} == {nothing}
    assert truncate.give_up_clean_folio is before
    assert before in {r.respond for r in NEWEST.states}


def test_a_function_named_where_it_is_used_is_replaced_only_there() -> None:
    target = "hwpoison.failure.handler:folio_wait_writeback"
    with row((target, nothing)).installed():
        assert handler.folio_wait_writeback is nothing
        assert swap.folio_wait_writeback is not nothing


def test_a_method_is_replaced_in_its_class() -> None:
    with row(("hwpoison.mm.swap:SwapArea.lookup", nothing)).installed():
        assert swap.SwapArea.lookup is nothing
    assert swap.SwapArea.lookup is not nothing


def test_a_name_that_is_not_there_is_an_error() -> None:
    with (
        pytest.raises(AttributeError, match="no_such_name"),
        row(("hwpoison.mm.swap:no_such_name", nothing)).installed(),
    ):
        pass


def test_with_ours_only_the_setting_is_there() -> None:
    setting = (("hwpoison.failure.user_mappings:try_to_unmap", nothing),)
    both = replace(row(("hwpoison.failure.handler:shake_page", nothing)), setting=setting)
    with both.installed(ours=True):
        assert user_mappings.try_to_unmap is nothing
        assert handler.shake_page is not nothing


def test_the_command_repeats_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = undone.explore(undone.rows()["R11"])
    assert (found.word, found.preemptions) == ("found", 0)
    start, arguments = "python -m tests.undone ", found.command.removeprefix("python -m tests.undone ")
    assert found.command.startswith(start)
    undone.main(shlex.split(arguments))
    assert found.failure in capsys.readouterr().out
    undone.main([*shlex.split(arguments), "--ours"])
    assert found.failure not in capsys.readouterr().out


def test_a_spent_budget_is_not_exhausted() -> None:
    outcome = undone.explore(row(), "dpor", 20)
    assert (outcome.word, outcome.executions, outcome.failure) == ("budget spent", 20, "")


def test_a_row_that_fails_otherwise_than_it_says_does_not_pass() -> None:
    other = replace(row(("hwpoison.failure.handler:folio_wait_writeback", nothing)), breaks="something else")
    with pytest.raises(AssertionError, match=r"repeat: python -m tests\.undone it --schedule"):
        undone.shows(other)


def test_no_two_rows_have_one_name() -> None:
    folders = [path.parent.name for path in sorted(Path(__file__).parent.glob("*/rows.py"))]
    modules = [import_module(f".{folder}.rows", __package__) for folder in folders]
    names = Counter(row.name for module in modules for row in module.ROWS)
    assert [name for name, count in names.items() if count > 1] == []
    assert set(names) == set(undone.rows())


def test_the_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    undone.main([])
    assert "R17      a page leaves the swap cache" in capsys.readouterr().out
