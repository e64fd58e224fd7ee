"""What people see of a forecast."""

from __future__ import annotations

from dataclasses import replace

from hwpoison.abi.forecast import Consequence, HostForecast, KindLine
from hwpoison.report.forecast import CONDITIONS_SHOWN, KINDS_SHOWN, print_forecast

from .conftest import DARK, FREE, HOST, LOST, PAGES, PROCESS, SETTING, STOP, Screen


def test_the_table_has_a_row_for_each_consequence_and_one_for_all(screen: Screen) -> None:
    print_forecast(HOST, screen.console)
    rows = {line.split("  ")[0]: line.split()[-5:] for line in screen.lines if line.endswith("%")}
    assert rows["nothing noticed"] == ["700", "2.7", "MiB", "70.0", "%"]
    assert rows["all"] == ["1,000", "3.9", "MiB", "100.0", "%"]
    assert {consequence.label for consequence in Consequence} <= set(rows)


def test_a_kind_shows_its_letters_what_it_is_and_its_verdict(screen: Screen) -> None:
    print_forecast(HOST, screen.console)
    assert "  99  9.9 %  UDlM  file, dirty, mapped once  dirty LRU page: Recovered" in screen.text


def test_who_is_told_of_lost_data_is_said(screen: Screen) -> None:
    print_forecast(HOST, screen.console)
    assert "  99 pages, told by EIO from fsync(2)" in screen.lines


def test_a_loss_that_nobody_is_told_of_is_said_too(screen: Screen) -> None:
    assert LOST.verdict is not None
    silent = replace(LOST, verdict=replace(LOST.verdict, told=()))
    print_forecast(HostForecast(SETTING, 1, (KindLine(0, 0, 1, silent),)), screen.console)
    assert "  1 page, nobody is told" in screen.lines


def test_conditions_come_with_the_number_of_pages(screen: Screen) -> None:
    print_forecast(HOST, screen.console)
    assert "  99  Failed instead of Recovered if pinned" in screen.lines
    assert screen.text.count("large folios") == 1  # why a kind cannot be told is no condition


def test_what_is_too_much_for_the_screen_is_counted(screen: Screen) -> None:
    many = tuple(f"condition {number}" for number in range(CONDITIONS_SHOWN + 3))
    kinds = [KindLine(1 << number, 0, 5, replace(FREE, conditions=many)) for number in range(KINDS_SHOWN + 2)]
    print_forecast(HostForecast(SETTING, 40, tuple(kinds)), screen.console)
    assert "  and 2 more kinds with 10 pages (--json has all)" in screen.lines
    assert "  and 3 more, for fewer pages (--json has all)" in screen.lines


def test_a_kernel_without_the_handler_is_named_before_anything_else(screen: Screen) -> None:
    setting = replace(SETTING, handler=False, handler_evidence="no sysctl")
    print_forecast(replace(HOST, setting=setting), screen.console)
    assert screen.lines[1].startswith("This kernel has no memory error handler (no sysctl).")
    assert screen.text.index("no memory error handler") < screen.text.index("nothing noticed")


def test_a_made_up_host_is_labelled(screen: Screen) -> None:
    print_forecast(replace(HOST, setting=replace(SETTING, simulated="not root")), screen.console)
    assert screen.lines[1] == "SIMULATED HOST, not this machine: not root"


def test_a_process_sees_first_what_it_meets_itself(screen: Screen) -> None:
    print_forecast(PROCESS, screen.console)
    assert "da[ta]base (42)" in screen.lines[0]
    assert any(line.startswith("SIGBUS") and line.endswith("9.9 %") for line in screen.lines)
    assert "Not in memory: 7 pages swapped out, 8 never touched." in screen.lines


def test_a_page_shows_its_users_its_victims_and_what_is_lost(screen: Screen) -> None:
    print_forecast(PAGES, screen.console)
    text = " ".join(screen.text.split())
    assert "page 9 (0x9): file, dirty, mapped once" in text
    assert "da[ta]base 42 at 0x7f00001000 (/srv/[data])" in text
    assert "hits da[ta]base 42: SIGBUS BUS_MCEERR_AR at 0x7f00001000, on access" in text
    assert "lost what was new; told by EIO from fsync(2)" in text
    assert "but Failed instead of Recovered if pinned" in text


def test_a_page_that_cannot_be_told_says_why(screen: Screen) -> None:
    print_forecast(replace(PAGES, pages=PAGES.pages[1:]), screen.console)
    text = " ".join(screen.text.split())
    assert "page 10 (0xa)" in text
    assert "mapped not counted" in text
    assert "verdict large folios are not in the model yet" in text
    assert DARK.consequence.label in text


def test_a_machine_that_stops_in_the_handler_says_so(screen: Screen) -> None:
    print_forecast(HostForecast(SETTING, 1, (KindLine(0, 0, 1, STOP),)), screen.console)
    assert any(line.endswith("panic") for line in screen.lines)
