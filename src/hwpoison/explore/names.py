"""Which attributes of the model can change while paths run, read from its source.

An attribute is *changing* if it is assigned anywhere but in the ``__init__`` of its own object, or is a
counter of the primitives; it is a *container* if it is ever given a dict, a list, a set or a deque. Names
are enough: two classes that share a name are both watched, which costs time but loses nothing.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from enum import Enum
from types import MemberDescriptorType, ModuleType
from typing import Protocol

UNWATCHED_CLASSES = {
    "Path",
    "Paths",
    "Lock",
    "Nested",
    "RwSem",
    "Reading",
    "Writing",
    "locked",
    "Event",
    "Strand",
}
"""The machinery of the primitives: its changes are operations, which the engine sees."""
UNWATCHED_NAMES = {"log", "story", "exposures", "refused", "lock_owner", "errors_seen", "_views"}
"""Journals, which no path reads while it runs, the owner of a lock, and what is only kept for speed."""
DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = {"dict", "list", "set", "deque"}
COUNTERS = {"atomic_add", "atomic_add_unless_zero", "atomic_compare_set", "write_once"}


@dataclass(frozen=True, slots=True)
class Names:
    """``of_class``: what each class assigns to itself, by its name."""

    changing: frozenset[str]
    containers: frozenset[str]
    of_class: dict[str, frozenset[str]]


class _Reader(ast.NodeVisitor):
    def __init__(self) -> None:
        self.changing: set[str] = set()
        self.containers: set[str] = set()
        self.of_class: dict[str, set[str]] = {}
        self.in_class: list[str] = []
        self.in_init = False

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.in_class.append(node.name)
        own = self.of_class.setdefault(node.name, set())
        for inner in node.body:
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                own.add(inner.target.id)
                if _makes_container(inner.value, inner.annotation):
                    self.containers.add(inner.target.id)
        self.generic_visit(node)
        self.in_class.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.in_init = self.in_init, node.name == "__init__"
        self.generic_visit(node)
        self.in_init = before

    def visit_Attribute(self, node: ast.Attribute) -> None:
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        if not isinstance(node.ctx, ast.Load):
            if own and self.in_class:
                self.of_class[self.in_class[-1]].add(node.attr)
            if not (own and self.in_init):
                self.changing.add(node.attr)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assigned(node.targets, node.value, None)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assigned([node.target], node.value, node.annotation)
        self.generic_visit(node)

    def _assigned(self, targets: list[ast.expr], value: ast.expr | None, annotation: ast.expr | None) -> None:
        if _makes_container(value, annotation):
            self.containers |= {target.attr for target in targets if isinstance(target, ast.Attribute)}

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in COUNTERS and len(node.args) > 1:
            field = node.args[1]
            if isinstance(field, ast.Constant) and isinstance(field.value, str):
                self.changing.add(field.value)
        self.generic_visit(node)


def _makes_container(value: ast.expr | None, annotation: ast.expr | None) -> bool:
    if annotation is not None and ast.unparse(annotation).split("[")[0] in MAKERS:
        return True
    if isinstance(value, ast.BinOp):
        value = value.left
    if isinstance(value, ast.Call):
        maker = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return isinstance(maker, ast.Name) and maker.id in MAKERS
    return isinstance(value, DISPLAYS)


def read_names(modules: list[ModuleType]) -> Names:
    """What the source of these modules can change."""
    reader = _Reader()
    for module in modules:
        reader.visit(ast.parse(inspect.getsource(module)))
    return Names(
        frozenset(reader.changing - UNWATCHED_NAMES),
        frozenset(reader.containers - UNWATCHED_NAMES),
        {name: frozenset(own) for name, own in reader.of_class.items()},
    )


def watched_classes(modules: list[ModuleType]) -> list[type]:
    """The classes of these modules whose objects can change."""
    found: list[type] = []
    for module in modules:
        for thing in vars(module).values():
            if not isinstance(thing, type) or thing.__module__ != module.__name__ or thing in found:
                continue
            if issubclass(thing, Enum | BaseException) or thing.__name__ in UNWATCHED_CLASSES:
                continue
            if Protocol in thing.__bases__ or frozen(thing):
                continue
            found.append(thing)
    return found


def frozen(cls: type) -> bool:
    """An immutable record."""
    parameters = getattr(cls, "__dataclass_params__", None)
    return bool(parameters is not None and parameters.frozen)


def fields_of(cls: type, names: Names) -> dict[str, MemberDescriptorType | None]:
    """The attributes of a class to watch, with their slots (None: they live in the object's dict)."""
    wanted = names.changing | names.containers
    slots = {n: v for n, v in vars(cls).items() if isinstance(v, MemberDescriptorType) and n in wanted}
    if slots or "__slots__" in vars(cls):
        return dict(slots)
    return dict.fromkeys(names.of_class.get(cls.__name__, frozenset()) & wanted)
