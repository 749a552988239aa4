"""The source study's figures beside those of this project's runs of its recipe: its ablation table, its loss curves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import FREE, PROTOCOL, SCORES, Group, Run
from bci_decode.comparison.tables import (
    FEW,
    loss_table,
    markdown,
    mean_and_sd,
    reference,
    run_table,
    session_table,
)
from bci_decode.config import flat
from bci_decode.runs.compose import settings_of

EXPERIMENT = "source_study"
# what decides no score of the whole test part
FREE_HERE = (*FREE, "data.split.val_of_rest")
DECODERS = {
    "gru": "GRU",
    "gru-bidirectional": "GRU bidirectional",
    "lngru": "LN-GRU",
    "lngru-bidirectional": "LN-GRU bidirectional",
}


def of_study(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.runs[0].metrics["experiment"] == EXPERIMENT]


@cache
def study_settings(model: str, target: str) -> dict[str, Any]:
    """What the recipe in `conf/` comes to for a decoder ("lngru-bidirectional") and a target, as {"data.lag": 0.0}."""
    both = str(model.endswith("-bidirectional")).lower()
    words = (f"model={model.removesuffix('-bidirectional')}", f"data.target={target}", f"bidirectional={both}")
    return flat(settings_of(f"experiment={EXPERIMENT}", *words))


def differences(run: Run) -> str:
    """Settings of data, training and decoder in which a run is not the study's, as `key=value`; empty if there is none.

    A key that a run has not got, or has as null, is None; so is one that the study has not got.
    """
    study = study_settings(run.metrics["model"], run.metrics["protocol"]["target"])
    keys = [key for key in {**study, **run.settings} if key.startswith((*PROTOCOL, "model.")) and key not in FREE_HERE]
    changed = [key for key in keys if run.settings.get(key) != study.get(key) and not key.endswith("._partial_")]
    return ", ".join(dict.fromkeys(_setting(key, run.settings) for key in changed))


def _setting(key: str, settings: dict[str, Any]) -> str:
    """`key=value`; where a whole branch is null, model.norm say, that and not what is missing below it."""
    branch = key
    while "." in branch and branch not in settings:
        branch = branch.rpartition(".")[0]
    return f"{branch if branch in settings else key}={settings.get(key)}"


def ablation_table(groups: list[Group]) -> pd.DataFrame:
    """Test R2 of each decoder, direction and target: the published mean over 47 sessions, then the runs', if any.

    Both are at the epoch that the TEST part chose. Of the runs: mean and SD over sessions, weighted by test bins, and
    the plain mean; recorded sessions, excerpts and simulated ones never share a row, nor do protocols.
    """
    known = reference()
    known = known[(known["source"] == "Wu 2021") & known["session"].isna()]
    published = known[["target", "decoder", "r2_x", "sd_x", "r2_y", "sd_y"]].rename(
        columns={f"{score}_{axis}": f"published {label} {axis}" for score, label in (("r2", "R²"), ("sd", "SD")) for axis in "xy"}
    )  # fmt: skip
    cells = [row for group in of_study(groups) for row in _here(group)]
    table = published.merge(pd.DataFrame(cells, columns=[*_COLUMNS]), how="left", on=["target", "decoder"])
    direction = np.where(table["decoder"].str.contains("bidirectional"), "both", "forward")
    table["decoder"] = table["decoder"].str.removesuffix(" bidirectional")
    table.insert(2, "direction", direction)
    return table


_COLUMNS = (
    "target", "decoder", "weighted R² x", "weighted SD x", "weighted R² y", "weighted SD y", "plain R² x", "plain R² y",
    "sessions", "recording", "differs from the study in",
)  # fmt: skip


def _here(group: Group) -> list[tuple]:
    """A row for each decoder and kind of recording of a group; sessions without a number are in none."""
    rows = []
    for (recording, model), some in run_table(group.runs).groupby(["recording", "model"]):
        scored = session_table(some).dropna(subset=["r2_x", "r2_y"])
        if len(scored) == 0 or model not in DECODERS:
            continue
        first = next(run for run in group.runs if run.metrics["model"] == model)
        weighted = [cell for axis in "xy" for cell in mean_and_sd(scored[f"r2_{axis}"], scored["test_bins"])]
        plain = [mean_and_sd(scored[f"r2_{axis}"])[0] for axis in "xy"]
        target = first.metrics["protocol"]["target"]
        rows.append((target, DECODERS[model], *weighted, *plain, len(scored), recording, differences(first)))
    return rows


def ablation_text(table: pd.DataFrame) -> str:
    """An `ablation_table` as a part of the summary."""
    shown = table[["target", "decoder", "direction"]].copy()
    shown["published R² x / y"] = _pairs(table, "published {} {}")
    shown["these runs, weighted"] = _pairs(table, "weighted {} {}")
    shown["plain"] = _pairs(table, "plain {} {}")
    shown[[*_COLUMNS[-3:]]] = table[[*_COLUMNS[-3:]]]
    text = [
        "\n## The source study's ablation table, and these runs\n",
        "Test R², the epoch chosen on the TEST part on either side: too good by what that gains. Published: mean ± SD "
        "over 47 sessions, weighted by test bins (Wu 2021, without attention). These runs: over the sessions that there "
        "are, mean over seeds first. The two are comparable only where all 47 are `recorded` and nothing differs.\n",
        markdown(shown),
    ]
    return "\n".join(text)


def _pairs(table: pd.DataFrame, name: str) -> list[str]:
    """Mean and SD of x and y in one cell: .650 ± .130 / .710 ± .110."""

    def cell(row: pd.Series, axis: str) -> str:
        mean, sd = row[name.format("R²", axis)], row.get(name.format("SD", axis), float("nan"))
        return f"{mean:.3f}" + f" ± {sd:.3f}" * bool(np.isfinite(sd))

    present = table[name.format("R²", "x")].notna()
    return [
        f"{cell(row, 'x')} / {cell(row, 'y')}" if there else ""
        for there, (_, row) in zip(present, table.iterrows(), strict=True)
    ]


@cache
def curves() -> pd.DataFrame:
    """Test losses of the study's recipe on a whole recording, checked elsewhere and not published, from `reference_curves.csv` beside this module."""
    return pd.read_csv(Path(__file__).with_name("reference_curves.csv"))


def losses_text(group: Group) -> list[str]:
    """Test loss by epoch, a column for each run or, of many, each decoder's median; empty for many of another study.

    Beside the study's velocity stands the curve of a check on a whole recording, and in words what such curves are known
    for.
    """
    many = len(group.runs) > FEW
    is_study = of_study([group]) and group.runs[0].metrics["protocol"]["target"] == "velocity"
    if many and not is_study:
        return []
    table = loss_table(group.runs)
    if many:
        models = np.array([run.metrics["model"] for run in group.runs])
        table = table.T.groupby(models).median().T
        table.columns = [f"{model}, median of {(models == model).sum()} runs" for model in table.columns]
    title = "### Test loss by epoch\n"
    if not is_study:
        return [title, markdown(table, index=True)]
    check = curves().pivot(index="epoch", columns="decoder", values="test_loss").add_prefix("check: ")
    about = curves().iloc[0]
    note = f"Check: {about['source']} ({about['protocol']}); of its other epochs nothing is known.\n"
    return [title, markdown(table.join(check, how="outer"), index=True), note, *_shape(group)]


def _shape(group: Group) -> list[str]:
    """What the curves are known for: how long the GRU stays at the target's variance, how soon the LN-GRU leaves it."""
    lines = []
    for model, what, epoch_of, before, never in (
        ("gru", "test loss within 2 % of the target's variance", plateau_end, "up to epoch", "not even at first"),
        ("lngru", "test loss below half of the target's variance", first_below_half, "from epoch", "never"),
    ):
        found = [
            epoch_of(run.history["epoch"], run.history["test_loss"], run.metrics["target_variance"]["test"])
            for run in group.runs
            if run.metrics["model"] == model
        ]
        if found:
            known = curves()[curves()["decoder"] == DECODERS[model]]
            theirs = epoch_of(known["epoch"], known["test_loss"], known["test_loss"].iloc[0])
            lines.append(
                f"- {DECODERS[model]}: {what} {_epochs(found, before, never)}; "
                f"in the check, its loss at epoch 0 for the variance: {before} {theirs:g}, of the epochs that are known."
            )
    return ["\n".join(lines) + "\n"] if lines else []


def _epochs(found: list[float], before: str, never: str) -> str:
    there = [epoch for epoch in found if np.isfinite(epoch)]
    if not there:
        return never
    told = f"{before} {np.median(there):g}"
    if len(found) == 1:
        return told
    without = len(found) - len(there)
    return f"{told} (median of {len(there)} runs, {min(there):g} to {max(there):g}{f'; {without} {never}' * bool(without)})"


def plateau_end(epochs: pd.Series, losses: pd.Series, variance: float, share: float = 0.02) -> float:
    """The last epoch up to which every loss is within `share` of the variance; NaN if the first one is not."""
    away = np.flatnonzero(np.abs(np.asarray(losses) - variance) > share * variance)
    last = away[0] - 1 if len(away) else len(losses) - 1
    return float(np.asarray(epochs)[last]) if last >= 0 else float("nan")


def first_below_half(epochs: pd.Series, losses: pd.Series, variance: float) -> float:
    """The first epoch with a loss below half of the variance; NaN if there is none."""
    below = np.asarray(epochs)[np.asarray(losses) < variance / 2]
    return float(below[0]) if len(below) else float("nan")


def honest_text(table: pd.DataFrame) -> list[str]:
    """Scores of the bins that nothing was chosen on, in a table of their own, for a run table; empty without any."""
    honest = table[table["honest_bins"].notna()]
    if len(honest) == 0:
        return []
    rows = []
    for model, some in honest.groupby("model"):
        by_session = some.groupby("session")
        row = {"decoder": DECODERS.get(model, model), "sessions": by_session.ngroups, "runs": len(some)}
        row["epoch by validation, median"] = float(some["honest_epoch"].median())
        for when, suffix in (("by validation", ""), ("the same bins, by TEST", "_at_test_choice")):
            columns = [f"honest_{score}{suffix}" for score in SCORES]
            means = by_session[["honest_bins", *columns]].mean().dropna()
            row[f"R² x / y / mean, {when}"] = " / ".join(f"{means[column].mean():.3f}" for column in columns)
            weighted = mean_and_sd(means[columns[-1]], means["honest_bins"])[0] if len(means) else float("nan")
            row[f"weighted mean, {when}"] = weighted
        rows.append(row)
    return [
        "### Honest R²: what the recipe reaches where nothing was chosen on the scored bins\n",
        "Of the end of the test part alone: the epoch is the one of the lowest loss on the test part's beginning. Not "
        "comparable with the scores of the whole test part; beside it, on the very same bins, the R² at the epoch that "
        "the TEST part chose. Mean over sessions; weights: the bins scored.\n",
        markdown(pd.DataFrame(rows)),
    ]
