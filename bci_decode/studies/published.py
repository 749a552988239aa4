"""Published scores and the curves of a check, and how they appear beside a group of runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import Run, half_plateau_epoch
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.summary import Published
from bci_decode.comparison.tables import markdown
from bci_decode.style import model_label

STUDY = "Wu 2021"
EXPERIMENT = "source_study"  # the study's recipe in `conf/experiment/`


@cache
def published_scores() -> pd.DataFrame:
    """`reference.csv`; a row without a session is the mean over all 47, weighted by test bins."""
    return pd.read_csv(Path(__file__).with_name("reference.csv"))


@cache
def reference_curves() -> pd.DataFrame:
    """`reference_curves.csv`: test losses of a check of the recipe on a whole recording."""
    return pd.read_csv(Path(__file__).with_name("reference_curves.csv"))


def source_study_groups(groups: list[ProtocolGroup]) -> list[ProtocolGroup]:
    """The groups that follow the source study's recipe."""
    return [group for group in groups if group.experiment == EXPERIMENT]


def published(group: ProtocolGroup) -> Published:
    """What is published of the sessions of a group.

    Beside velocity by the source study's recipe also the test losses of the check.
    """
    if group.experiment != EXPERIMENT or group.target != "velocity":
        return Published(sessions=_by_session(group))
    return Published("\n".join(_shape(group)), _by_session(group), _check_curves())


def means_text(target: str) -> str:
    """The published means over the 47 recorded sessions as a part of the summary."""
    known = published_scores()
    known = known[known["target"] == target]
    means = known[known["session"].isna()]
    table = means[["decoder", "r2_x", "sd_x", "r2_y", "sd_y", "source", "protocol"]]
    names = {"r2_x": "R² x", "sd_x": "SD x", "r2_y": "R² y", "sd_y": "SD y"}
    text = [
        f"## Published: R² of {target} over the 47 recorded sessions\n",
        "Their protocols differ from that of the runs, so they have their own table.\n",
        markdown(table.rename(columns=names)),
    ]
    study = known[known["best_epoch"].notna()]
    if len(study):
        medians = study.groupby("decoder")["best_epoch"].median()
        epochs = ", ".join(f"{decoder} {epoch:g}" for decoder, epoch in medians.items())
        protocol = study["protocol"].iloc[0]
        text.append(f"Best epoch, median of the 47 sessions: {epochs} ({STUDY}; {protocol}).\n")
    return "\n".join(text)


def _by_session(group: ProtocolGroup) -> pd.DataFrame:
    """Columns with what is published of the very sessions of a group."""
    sessions, known = {run.metrics["session"] for run in group.runs}, published_scores()
    known = known[(known["target"] == group.target) & known["session"].isin(sessions)]
    known = known.set_index("session")
    columns = {}
    for name, rows in known[known["r2_x"].notna()].groupby("decoder"):
        for axis in "xy":
            columns[f"{name} R² {axis} (Makin 2018: 64 ms)"] = rows[f"r2_{axis}"]
    for name, rows in known[known["best_epoch"].notna()].groupby("decoder"):
        columns[f"{name} best epoch ({STUDY}: 64 ms, by TEST R²)"] = rows["best_epoch"]
    return pd.DataFrame(columns)


def _check_curves() -> pd.DataFrame:
    curves = reference_curves().pivot(index="epoch", columns="decoder", values="test_loss")
    return curves.add_prefix("check: ")


def _shape(group: ProtocolGroup) -> list[str]:
    """How long each model stays at the target's variance, and how soon it is below half of it."""
    rows = []
    for model in group.models:
        trained = [run for run in group.of_model(model) if not run.closed_form]
        known = reference_curves()[reference_curves()["decoder"] == model_label(model)]
        if trained:
            rows.append({"model": model_label(model)} | _curve_row(trained, known))
    if not rows:
        return []
    about = reference_curves().iloc[0]
    return [
        "### Shape of the loss curves\n",
        "The last epoch up to which the test loss stays within 2 % of the target's variance, and "
        "the first with a test loss below half of it: median over the runs that have one.\n",
        markdown(pd.DataFrame(rows)),
        f"Check: {about['source']} ({about['protocol']}). Only some of its epochs are known, and "
        "its loss at epoch 0 serves as the variance.\n",
    ]


def _curve_row(runs: list[Run], known: pd.DataFrame) -> dict[str, object]:
    ends = [plateau_end(run.history, run.plateau) for run in runs]
    halves = [half_plateau_epoch(run.history, run.plateau) for run in runs]
    row = {"runs": len(runs), "within 2 % up to": _median(ends), "below half from": _median(halves)}
    if len(known):
        first = known["test_loss"].iloc[0]
        row["check: within 2 % up to"] = _median([plateau_end(known, first)])
        row["check: below half from"] = _median([half_plateau_epoch(known, first)])
    return row


def _median(epochs: list[int | None]) -> str:
    """Median, range and number of runs without such an epoch: "4 (2 to 6; 1 never)"."""
    found = [epoch for epoch in epochs if epoch is not None]
    if not found:
        return "never"
    notes = [f"{min(found)} to {max(found)}"] * (len(found) > 1)
    notes += [f"{len(epochs) - len(found)} never"] * (len(epochs) > len(found))
    return f"{np.median(found):g}" + f" ({'; '.join(notes)})" * bool(notes)


def plateau_end(history: pd.DataFrame, plateau: float, share: float = 0.02) -> int | None:
    """The last epoch up to which every test loss is within `share` of the plateau."""
    away = (history["test_loss"] - plateau).abs() > share * plateau
    near = history.loc[~away.cummax(), "epoch"]
    return int(near.iloc[-1]) if len(near) else None
