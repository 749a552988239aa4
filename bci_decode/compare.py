"""Gather finished runs below a folder and put their figures side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bci_decode.errors import BciDecodeError


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its `metrics.json` and its `history.csv`."""

    folder: Path
    metrics: dict
    history: pd.DataFrame

    @property
    def label(self) -> str:
        return " ".join(str(self.metrics[key]) for key in ("session", "model")) + f" seed {self.metrics['seed']}"


def read_runs(folder: Path) -> tuple[list[Run], list[Path]]:
    """All finished runs below `folder`, and the folders of those that were begun and are not finished."""
    if not folder.is_dir():
        raise BciDecodeError("no such folder", file=folder, remedy="train first; runs lie in outputs/<experiment>")
    begun = sorted(path.parent for path in folder.rglob("config.yaml"))
    finished = [path for path in begun if (path / "metrics.json").exists()]
    if not finished:
        raise BciDecodeError(
            "holds no finished run", file=folder, remedy="train first; runs lie in outputs/<experiment>"
        )
    runs = [_read_run(path) for path in finished]
    units = {run.metrics["protocol"]["unit"] for run in runs}
    if len(units) > 1:
        raise BciDecodeError(
            f"holds runs with targets in {' and '.join(sorted(units))}", file=folder, remedy="name a folder below it"
        )
    return runs, [path for path in begun if path not in finished]


def _read_run(path: Path) -> Run:
    try:
        run = Run(path, json.loads((path / "metrics.json").read_text()), pd.read_csv(path / "history.csv"))
        _row(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BciDecodeError("holds a damaged run", file=path, remedy="start it again, it mends itself") from error
    return run


def r2_table(runs: list[Run]) -> pd.DataFrame:
    """A row for each run: the test scores at its best epoch and how fast its test loss fell.

    `plateau` is the target's variance on the test part, the loss of a decoder that knows but the mean;
    `half_plateau_epoch` the first epoch with a test loss below half of it, empty if there was none.
    """
    return pd.DataFrame([_row(run) for run in runs]).sort_values(
        ["experiment", "session", "model", "seed"], ignore_index=True
    )


def _row(run: Run) -> dict:
    test, plateau = run.metrics["scores"]["test"], run.metrics["target_variance"]["test"]
    below_half = run.history.loc[run.history["test_loss"] < plateau / 2, "epoch"]
    return {
        "experiment": run.metrics["experiment"],
        "session": run.metrics["session"],
        "model": run.metrics["model"],
        "seed": run.metrics["seed"],
        "select_on": run.metrics["select_on"],
        "best_epoch": run.metrics["best_epoch"],
        "epochs": run.metrics["epochs"],
        "test_r2": test["r2"],
        "test_r2_x": test["r2_x"],
        "test_r2_y": test["r2_y"],
        "test_loss": run.metrics["loss"]["test"],
        "plateau": plateau,
        "half_plateau_epoch": int(below_half.iloc[0]) if len(below_half) else None,
        "seconds": run.metrics["seconds"],
    }


def loss_table(runs: list[Run], epochs=(0, 1, 2, 5, 10, 20, 30, 40, 50, 70, 100)) -> pd.DataFrame:
    """Test loss of each run at some epochs: a row for each epoch that a run has, a column for each run."""
    several = len({run.metrics["experiment"] for run in runs}) > 1
    labels = [f"{run.metrics['experiment']} " * several + run.label for run in runs]
    losses = [run.history.set_index("epoch")["test_loss"] for run in runs]
    table = pd.concat(losses, axis=1, keys=labels)
    return table.loc[[epoch for epoch in epochs if epoch in table.index]]


def markdown(table: pd.DataFrame, index: bool = False) -> str:
    """A table as GitHub Markdown: floats with three figures after the point below 100, one above."""
    table = table.reset_index() if index else table
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value != int(value):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(int(value)) if isinstance(value, float) else str(value)
