"""The house: a module imports only from lower floors, and only the upper floors need torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bci_decode"
FLOORS = [
    {"__init__", "errors", "metrics", "gemm", "buffers", "norms"},
    {"files", "config", "catalog", "projection", "steps"},
    {"session", "binning", "simulate", "transfer", "recurrence", "stopwatch"},
    {"dataset", "layers", "checkpoint", "run_folder", "download", "inspection"},
    {"decoder", "baselines", "runs", "stepping", "watch", "recipe"},
    {"trainer", "compare", "plots", "invariance"},
    {"report", "study", "compare_plots", "sweep", "plateau", "explain_plots"},
    {"train", "summary"},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
WITH_TORCH = {
    "norms",
    "steps",
    "gemm",
    "buffers",
    "projection",
    "recurrence",
    "layers",
    "checkpoint",
    "decoder",
    "stepping",
    "trainer",
    "report",
    "watch",
    "invariance",
    "plateau",
}
WITHOUT_TORCH = set(FLOOR) - WITH_TORCH
HEAVY = {"torch", "pandas", "scipy", "sklearn", "h5py", "matplotlib", "numpy"}


def imports(module: str, nested: bool = True) -> set[str]:
    """Dotted names that a module imports as it runs; those under `if TYPE_CHECKING` never run."""
    found, queue = set(), [ast.parse((PACKAGE / f"{module}.py").read_text())]
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


def test_every_module_has_a_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_imports_point_down(module):
    for name in imports(module):
        if name.startswith("bci_decode."):
            other = name.split(".")[1]
            assert other in ("__version__", module) or FLOOR[other] < FLOOR[module], f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(WITHOUT_TORCH))
def test_lower_floors_do_without_torch(module):
    assert "torch" not in {name.split(".")[0] for name in imports(module, nested=False)}


def test_help_waits_for_nothing_heavy():
    """What `train` imports before it runs, itself and through the project's own modules."""
    seen, queue = set(), ["train"]
    while queue:
        module = queue.pop()
        names = imports(module, nested=False)
        assert not {name.split(".")[0] for name in names} & HEAVY, module
        own = {name.split(".")[1] for name in names if name.startswith("bci_decode.")} & set(FLOOR) - seen
        seen |= own
        queue += own
