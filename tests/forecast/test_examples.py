"""The examples stand for themselves: each once, as a scan of a host would give it."""

from __future__ import annotations

from hwpoison.forecast.examples import EXAMPLES, can_be
from hwpoison.forecast.kinds import Kind, kind_of
from hwpoison.forecast.oracle import Oracle


def test_every_example_is_a_kind_that_a_host_could_show(example: Kind) -> None:
    assert kind_of(example.flags, example.mappers) == example


def test_every_example_can_be_told_on_every_kernel_that_has_it(example: Kind, oracle: Oracle) -> None:
    told = oracle.of_kind(example).verdict is not None
    assert told == can_be(example, oracle.profile.traits)


def test_no_example_stands_there_twice() -> None:
    assert len(set(EXAMPLES)) == len(EXAMPLES)
