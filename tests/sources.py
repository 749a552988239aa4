"""The project's code as syntax trees, and what its names refer to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from recordings import ROOT

PACKAGE = sorted((ROOT / "bci_decode").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name that a module imports stands for: {"np": "numpy", "load": "torch.load"}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name that an expression refers to, "numpy.load" say; "" if it is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names) or '?'}.{node.attr}"
    return ""


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """The nodes of strings that are statements: they do nothing."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((given.value for given in call.keywords if given.arg == name), None)


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Each call with the full name of what is called."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func, names)
