"""Which classes a checkpoint may name as the parts of its model: layers and models alone."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bci_decode.errors import BciDecodeError
from bci_decode.models.closed_form import ClosedForm

PACKAGES = ("bci_decode.layers.", "bci_decode.models.", "torch.nn.")
KEYS = ("_target_", "_partial_")  # of Hydra's own keys; `_args_` and the others name no setting
LARGEST = 10_000  # of whole numbers that no tensor of the checkpoint has as a size


def check_model(
    settings: dict[str, Any],
    weights: Mapping[str, Tensor],
    path: Path,
    trust: tuple[str, ...] = (),
) -> None:
    """Refuse settings of a model that name other code to be called, or sizes without weights.

    `path` is where they are from. Prefixes in `trust` may name anything.
    """
    sizes = (size for tensor in weights.values() for size in tensor.shape)
    most = (
        max([LARGEST, *sizes]) if "recurrent" in settings else math.inf
    )  # no other allocates by them
    waiting: list[Any] = [settings]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            _check_call(node, path, trust)
            waiting += node.values()
        elif isinstance(node, int) and abs(node) > most:
            raise BciDecodeError(
                f"its model has a size of {node}, and its weights none of more than {most}",
                file=path,
                remedy="use the original file",
            )


def _check_call(settings: dict[str, Any], path: Path, trust: tuple[str, ...]) -> None:
    target = settings.get("_target_")
    if target is not None and not (str(target).startswith(trust) or _is_part(target)):
        raise BciDecodeError(
            f"names {str(target)[:100]} as a part of its model",
            file=path,
            remedy="if you trust the file, name the package: --trust mylab. as an option, or "
            'load_run(..., trust=("mylab.",))',
        )
    for key in settings:
        if key.startswith("_") and key not in KEYS:
            raise BciDecodeError(
                f"has {key[:100]} in the settings of its model",
                file=path,
                remedy="use the original file",
            )


def _is_part(target: Any) -> bool:
    """Whether a dotted name is of a layer or a model in a module of a known package.

    The name before the last dot must be that module itself: a longer way leads through attributes
    to whatever the module imports.
    """
    if not isinstance(target, str) or not target.startswith(PACKAGES):
        return False
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return False
    return isinstance(kind, type) and issubclass(kind, (nn.Module, ClosedForm))
