"""Run folders of an earlier version, read under the present names of keys, columns and classes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bci_decode.config import described_keys
from bci_decode.data.catalog import catalog

SETTINGS = {
    "trainer.watch": "trainer.monitor_layers",
    "data.split.val_of_rest": "data.split.val_from_test",
}
METRICS = {"honest": "holdout", "at_test_choice": "at_test_selected_epoch"}
DROPPED = "trainer.gemm"  # the matrix product, which is no setting any more
# keys of later versions, which do nothing by default
LATER = ("presence", "count_window", "difference", "split.by", "window.step", "window.learn")
ADDED = {
    name: default
    for name, default, _ in described_keys()
    if name.startswith("data.") and name.removeprefix("data.") in LATER
}
COLUMNS = {"held_": "holdout_", "outside_": "saturated_"}  # beginnings of columns of history.csv


def present_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings under the present keys; this project's classes without their modules.

    A class keeps its name when it moves to another module: `bci_decode.decoder.Decoder` and
    `bci_decode.models.decoder.Decoder` both become `bci_decode.Decoder`.
    """
    return ADDED | {
        SETTINGS.get(key, key): _without_module(value) if key.endswith("_target_") else value
        for key, value in settings.items()
        if key != DROPPED
    }


def _without_module(target: Any) -> Any:
    package, *_, name = str(target).split(".")
    return f"{package}.{name}" if package == "bci_decode" else target


def present_metrics(metrics: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of `metrics.json` under the present keys, with the kind of recording."""
    metrics = _renamed(metrics)
    return {"recording": _recording(metrics, settings)} | metrics


def _renamed(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {METRICS.get(key, key): _renamed(branch) for key, branch in tree.items()}


def _recording(metrics: dict[str, Any], settings: dict[str, Any]) -> str:
    """The kind: "recorded" is a published session, "excerpt" another file of such a name."""
    name = str(metrics["session"])
    if str(settings.get("session._target_")).endswith(".simulated_session"):
        return "simulated"
    if name in catalog() and metrics["data"]["md5"] == catalog()[name].md5:
        return "recorded"
    return "excerpt" if name.startswith(tuple(catalog())) else "own file"


def present_history(history: pd.DataFrame) -> pd.DataFrame:
    """A `history.csv` under the present names of its columns."""
    return history.rename(columns=_present_column)


def _present_column(name: str) -> str:
    for old, new in COLUMNS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
