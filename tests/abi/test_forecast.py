"""The consequences that a forecast speaks of."""

from __future__ import annotations

from hwpoison.abi.forecast import Consequence


def test_every_consequence_has_a_name_of_its_own_and_says_what_it_means() -> None:
    labels = [consequence.label for consequence in Consequence]
    assert len(set(labels)) == len(labels)
    assert all(len(consequence.meaning.split()) > 3 for consequence in Consequence)


def test_unknown_is_an_answer() -> None:
    assert Consequence.UNKNOWN.label == "cannot be told"
