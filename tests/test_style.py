"""Every public docstring begins with one sentence on one line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from recordings import ROOT

MODULES = sorted((ROOT / "bci_decode").rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(node: Documented) -> Iterator[Documented]:
    """A module or class, and what is public in it; functions inside functions are not."""
    yield node
    for child in [] if isinstance(node, ast.FunctionDef) else node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield from public(child)


def faults(source: str) -> list[str]:
    """Line and first paragraph of each public docstring that begins otherwise."""
    first = {
        node.body[0].lineno: text.partition("\n\n")[0]
        for node in public(ast.parse(source))
        if (text := ast.get_docstring(node))
    }
    return [f"{line}: {text}" for line, text in first.items() if "\n" in text or text[-1:] != "."]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_one_sentence_on_one_line(path: Path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "is_a_fault"),
    [
        ("A sentence.", False),
        ("A sentence.\n\n    Details: of\n    two lines", False),
        ("A sentence that is\n    cut by the end of the line.", True),
        ("A sentence:\n\n    continued after an empty line.", True),
        ("Half a sentence", True),
    ],
)
@pytest.mark.parametrize(
    "place", ['"""{}"""', 'class A:\n    """{}"""', 'class A:\n  def f(self):\n    """{}"""']
)
def test_the_faults_are_found(place, text, is_a_fault):
    assert bool(faults(place.format(text))) == is_a_fault
