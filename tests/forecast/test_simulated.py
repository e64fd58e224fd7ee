"""The made-up host: like a real one to the code that reads it, and the same each time."""

from __future__ import annotations

from hwpoison.abi.forecast import Consequence, HostForecast
from hwpoison.forecast.rollup import forecast_host
from hwpoison.forecast.setting import judge_of
from hwpoison.forecast.simulated import FRAMES, machine, simulated_host
from hwpoison.host.probe import probe


def forecast() -> HostForecast:
    with simulated_host() as host:
        oracle, setting = judge_of(probe(host), simulated="for a test")
        return forecast_host(host, oracle, setting)


def test_every_consequence_is_met() -> None:
    found = forecast()
    assert {line.answer.consequence for line in found.kinds} == set(Consequence)
    assert sum(line.pages for line in found.kinds) == found.entries == FRAMES


def test_it_says_that_it_is_made_up_and_has_the_handler() -> None:
    setting = forecast().setting
    assert "simulated" in setting.release
    assert setting.simulated == "for a test"
    assert setting.handler


def test_it_is_the_same_each_time() -> None:
    assert forecast() == forecast()


def test_its_files_are_gone_afterwards() -> None:
    with simulated_host() as host:
        root = host.root
        assert (root / "proc/kpageflags").stat().st_size == FRAMES * 8
    assert not root.exists()


def test_its_books_balance() -> None:
    vm = machine()
    vm.disk.release()
    assert vm.check() == []
