"""The package rule: imports only from packages before it, and only some packages need torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from recordings import ROOT

PACKAGE = ROOT / "bci_decode"
BASE = ("signals", "errors", "files", "config", "options", "style")
ORDER = (
    "data",
    "layers",
    "models",
    "evaluation",
    "training",
    "runs",
    "comparison",
    "studies",
    "realtime",
)
COMMANDS = (
    "__main__",
    "train",
    "evaluate",
    "stream",
    "recalibrate",
    "calibrate",
    "export",
    "pack",
    "cli",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
TORCH_FREE = [
    "realtime.checks",
    "realtime.onnx.decoder",
    *(name for name in MODULES if name.split(".")[0] in (*BASE, "__init__", "data", "comparison")),
]
HEAVY = {"torch", "pandas", "scipy", "sklearn", "h5py", "matplotlib", "numpy"}


def imports(path: Path, nested: bool = True) -> set[str]:
    """Dotted names that a module imports as it runs; those under `if TYPE_CHECKING` never run."""
    found, queue = set(), [ast.parse(path.read_text())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef) and not nested:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        queue += list(ast.iter_child_nodes(node))
    return found


def own(names: set[str]) -> set[str]:
    """The project's modules among imported names.

    `bci_decode.data.split.Window` is the module data.split.
    """
    found = set()
    for name in names:
        words = name.split(".")
        if words[0] == "bci_decode" and len(words) > 1:
            known = [".".join(words[1:end]) for end in range(2, len(words) + 1)]
            found.add(next((word for word in reversed(known) if word in MODULES), words[1]))
    return found - {"__version__"}


def test_every_module_is_a_base_module_a_command_or_in_a_package():
    tops = {name.split(".")[0] for name in MODULES}
    assert tops <= {"__init__", *BASE, *ORDER, *COMMANDS}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__"}))
def test_imports_point_down(module):
    here = module.split(".")[0]
    if here in COMMANDS:
        return
    allowed = BASE[: BASE.index(here)] if here in BASE else (*BASE, *ORDER[: ORDER.index(here) + 1])
    for other in own(imports(MODULES[module])):
        assert other.split(".")[0] in allowed, f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(TORCH_FREE))
def test_what_needs_no_torch_waits_for_none(module):
    """Neither the module nor what it imports of the project, when it is imported."""
    assert not reached(module) & {"torch"}


def reached(module: str) -> set[str]:
    """Names of the libraries that are imported with a module, directly or through the project."""
    found, seen, queue = set(), set(), [module]
    while queue:
        name = queue.pop()
        seen.add(name)
        names = imports(MODULES[name], nested=False)
        found |= {other.split(".")[0] for other in names}
        parents = {".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 1)}
        queue += list((own(names) | parents) & set(MODULES) - seen)
    return found


@pytest.mark.parametrize("command", [name for name in COMMANDS if name in MODULES])
def test_help_waits_for_nothing_heavy(command):
    assert not reached(command) & HEAVY
