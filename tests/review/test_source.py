"""How the handler is written: nothing dead, nothing terse, no subsystem's insides (R4, R5, R18)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from hwpoison.failure import flags
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.states import me_unknown, me_unknown_failed

HANDLER = "src/hwpoison/failure/"
GLOSSARY = {"fs", "mm", "now", "pfn", "row", "vm", "vma", "vpn"}
"""Short names that a parameter may have: words of the kernel, and words."""
SHORTEST = 4
INSIDES = {
    "cache", "contents", "count", "swap_entries",  # the swap cache and its slots
    "mapping.pages", "dirty", "blocks", "i_pages_lock", "i_mmap",  # the page cache
    "free_area", "pcp", "pcp_lock",  # the allocator
    "free_list", "surplus", "reserved",  # pools of huge pages
}  # fmt: skip
"""Attributes that belong to one subsystem each, which alone knows what they mean."""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    both = [*function.args.args, *function.args.kwonlyargs]
    return [argument for argument in both if argument.arg not in ("self", "cls")]


def dead_parameters(tree: ast.AST) -> list[str]:
    """R4: what a function asks for and never looks at."""
    found = []
    for function in functions(tree):
        read = {node.id for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)}
        found += [f"{function.name}({a.arg})" for a in parameters(function) if a.arg not in read]
    return found


def terse_parameters(tree: ast.AST) -> list[str]:
    """R5: names that only their author can read, and switches whose meaning a call does not tell."""
    found = []
    for function in functions(tree):
        short = [a for a in parameters(function) if len(a.arg) < SHORTEST and a.arg not in GLOSSARY]
        switches = [a for a in function.args.args if a.annotation and ast.unparse(a.annotation) == "bool"]
        positional = [] if function.name.startswith("_") else switches
        found += [f"{function.name}({a.arg})" for a in short + positional]
    return found


def speechless(tree: ast.Module) -> list[str]:
    """R5: functions for others, of more than one statement, that do not say what they do for whom."""
    public = [f for f in functions(tree) if not f.name.startswith("_") and len(f.body) > 1]
    return [function.name for function in public if not ast.get_docstring(function)]


def reached_into(tree: ast.AST) -> list[str]:
    """R18: insides of a subsystem that somebody else touches."""
    attributes = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [text for text in attributes if any(text.endswith(f".{inside}") for inside in INSIDES)]


@pytest.fixture(scope="session")
def handler(sources: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """The modules of the handler, parsed."""
    return {path: tree for path, tree in sources.items() if path.startswith(HANDLER)}


def test_r4_no_parameter_of_the_handler_is_dead(handler: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in handler.items() if (found := dead_parameters(tree))} == {}


def test_r4_every_flag_that_can_be_set_is_read(handler: dict[str, ast.Module]) -> None:
    tested = {
        node.id
        for tree in handler.values()
        for test in ast.walk(tree)
        if isinstance(test, ast.BinOp) and isinstance(test.op, ast.BitAnd)
        for node in ast.walk(test)
        if isinstance(node, ast.Name)
    }
    assert {name for name in vars(flags) if name.startswith("MF_")} <= tested


def test_r5_parameters_have_names_that_say_what_they_mean(handler: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in handler.items() if (found := terse_parameters(tree))} == {}


def test_r5_what_others_call_says_what_it_does(handler: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in handler.items() if (found := speechless(tree))} == {}


POSTING = """
def unmap(page, trapno: int, doit: bool) -> int:
    page.vm.swap.cache.pop(page.private)
    return 0
"""


def test_r4_r5_r18_the_postings_way_would_be_found() -> None:
    tree = ast.parse(POSTING)
    assert dead_parameters(tree) == ["unmap(trapno)", "unmap(doit)"]
    assert terse_parameters(tree) == ["unmap(doit)"]
    assert speechless(tree) == ["unmap"]
    assert reached_into(tree) == ["page.vm.swap.cache"]


def test_r18_each_subsystem_answers_for_its_own_pages() -> None:
    """Only "nobody knows this page" is the handler's own answer."""
    answers = {row.respond for profile in PROFILES.values() for row in profile.states}
    homes = {f"{answer.__module__}" for answer in answers - {me_unknown, me_unknown_failed}}
    assert homes == {f"hwpoison.mm.{name}" for name in ("hugetlb", "slab", "swap", "truncate")}


def test_r18_the_handler_touches_nobodys_insides(handler: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in handler.items() if (found := reached_into(tree))} == {}
