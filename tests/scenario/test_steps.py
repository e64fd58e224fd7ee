"""One line of a scenario: verbs, arguments, expectations, and what is said about mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpoison.failure.profiles import PROFILES
from hwpoison.scenario.model import Model
from hwpoison.scenario.steps import EXPECTED, StepError, parse_expectation, parse_step
from hwpoison.scenario.verbs import VERBS, Verb

KERNELS = tuple(PROFILES)


def test_a_step_has_a_verb_a_subject_a_page_and_arguments() -> None:
    step = parse_step("store heap:3 data='two words' task=A  # why", 17)
    assert (step.verb, step.subject, step.page, step.line) == ("store", "heap", 3, 17)
    assert step.args == {"data": "two words", "task": "A"}


def test_arguments_that_are_left_out_have_their_defaults() -> None:
    step = parse_step("map heap task=A")
    assert (step.number("pages"), step.number("first"), step.get("shared")) == (1, 0, "no")
    assert step.get("file") is None


def test_a_page_that_is_left_out_is_the_first() -> None:
    assert parse_step("load heap") == parse_step("load heap:0")


WRONG_STEPS = {
    "lode heap": "unknown step 'lode'",
    "load": "'load' needs a subject",
    "task sigbus=handler": "'task' needs a subject",
    "load heap:x": "the page in 'heap:x' is not a number",
    "load heap:-1": "the page in 'heap:-1' is not a number",
    "fsync fd:1": "'fd:1' names a page, but 'fsync' wants a name",
    "map heap": "'map' needs task=",
    "map heap task=A pages=many": "pages='many' of 'map': expected a number",
    "map heap task=A pages=99999999": "expected a number below",
    "map heap task=A shared=maybe": "shared='maybe' of 'map': expected no or yes",
    "map heap task=A colour=red": "unknown argument of 'map' 'colour'",
    "map heap task=A task=B": "'task' is given twice",
    "map heap A": "'A' is not key=value",
    "fsync fd now=yes": "'fsync' takes no arguments",
    "disk melt": "unknown state of 'disk' 'melt'",
    "sysctl memory_failure_earlykill value=1": "memory_failure_early_kill",
    "store heap data='open": "cannot read",
}


@pytest.mark.parametrize("line", WRONG_STEPS)
def test_a_wrong_step_is_refused_with_what_was_expected(line: str) -> None:
    with pytest.raises(StepError) as refused:
        parse_step(line)
    assert WRONG_STEPS[line] in str(refused.value)


def test_a_misspelt_word_brings_the_near_one() -> None:
    with pytest.raises(StepError, match="inject"):
        parse_step("injekt heap via=sysfs")
    with pytest.raises(StepError, match="sigbus"):
        parse_step("task A sigbuss=handler")


def an_example(verb: Verb) -> str:
    """A line with everything that the verb takes."""
    words = [verb.name, verb.choices[-1] if verb.choices else "x" + (":1" if verb.page else "")]
    for parameter in verb.parameters:
        value = parameter.choices[-1] if parameter.choices else "2" if parameter.number else "y"
        words.append(f"{parameter.name}={value}")
    return " ".join(words)


@pytest.mark.parametrize("name", VERBS)
def test_a_step_written_out_again_is_the_same_step(name: str) -> None:
    step = parse_step(an_example(VERBS[name]))
    assert parse_step(step.text()) == step


@pytest.mark.parametrize("name", VERBS)
def test_the_model_can_do_every_step(name: str) -> None:
    assert callable(getattr(Model, VERBS[name].method, None))
    assert VERBS[name].help


@given(st.text(max_size=40).filter(lambda text: bool(text.split()) and "\n" not in text))
def test_any_line_is_a_step_or_a_clear_refusal(line: str) -> None:
    try:
        step = parse_step(line)
    except StepError as refused:
        assert str(refused)
    else:
        assert step.verb in VERBS


# Expectations.


def test_an_expectation_has_a_kind_who_and_values() -> None:
    expected = parse_expectation(" signal A code=BUS_MCEERR_AR page=m:0", 5, KERNELS)
    assert (expected.kind, expected.who, expected.line) == ("signal", "A", 5)
    assert expected.values == {"code": "BUS_MCEERR_AR", "page": "m:0"}
    assert all(expected.applies_to(kernel) for kernel in KERNELS)


def test_an_expectation_without_a_kind_is_the_result_of_the_call() -> None:
    assert parse_expectation("errno=EIO", 1, KERNELS).kind == "call"


def test_an_expectation_can_be_for_some_kernels_only() -> None:
    some = parse_expectation("[6.1 7.3] panic", 1, KERNELS)
    assert [kernel for kernel in KERNELS if some.applies_to(kernel)] == ["7.3", "6.1"]
    others = parse_expectation("[not 6.1] panic", 1, KERNELS)
    assert [kernel for kernel in KERNELS if others.applies_to(kernel)] == ["7.3", "7.2", "6.12"]


WRONG_EXPECTATIONS = {
    "[6.1 return code=0": "'[' is not closed",
    "[6.3] return code=0": "unknown kernel '6.3'",
    "[not 5] return code=0": "unknown kernel '5'",
    "signall A code=1": "unknown kind of observation 'signall'",
    "signal A code": "'code' is not key=value",
    "verdict type='open": "cannot read",
    "": "expected",
    "[6.1]": "expected",
}


@pytest.mark.parametrize("line", WRONG_EXPECTATIONS)
def test_a_wrong_expectation_is_refused_with_what_was_expected(line: str) -> None:
    with pytest.raises(StepError) as refused:
        parse_expectation(line, 1, KERNELS)
    assert WRONG_EXPECTATIONS[line] in str(refused.value)


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_expectation_written_out_again_is_the_same(kind: str) -> None:
    key, choices = next(iter(EXPECTED[kind].items()))
    value = choices[0] if choices else "some value"
    expected = parse_expectation(f"{kind} who {key}='{value}'", 1, KERNELS)
    assert parse_expectation(expected.text(), 1, KERNELS) == expected
