"""The source study's ablation table, beside what runs of its recipe reach."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import FREE, PROTOCOL, Run
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.old_runs import present_settings
from bci_decode.comparison.tables import markdown, mean_and_sd, run_table, session_table
from bci_decode.config import flatten
from bci_decode.runs.compose import resolved_config
from bci_decode.studies.published import EXPERIMENT, STUDY, published_scores, source_study_groups
from bci_decode.style import BIDIRECTIONAL, model_label, model_order

# settings that do not change the score of the whole test part
FREE_HERE = (*FREE, "data.split.val_from_test")
COLUMNS = (
    "target", "decoder", "weighted R² x", "weighted SD x", "weighted R² y", "weighted SD y",
    "plain R² x", "plain R² y", "sessions", "recording", "differs from the study in",
)  # fmt: skip


@cache
def study_settings(model: str, target: str, experiment: str = EXPERIMENT) -> dict[str, Any]:
    """The recipe for a model ("lngru-bidirectional") and a target, as {"data.lag": 0.0}."""
    both = str(model.endswith(BIDIRECTIONAL)).lower()
    name = model.removesuffix(BIDIRECTIONAL)
    words = (f"model={name}", f"data.target={target}", f"bidirectional={both}")
    return present_settings(flatten(resolved_config(f"experiment={experiment}", *words)))


def differences(run: Run, experiment: str = EXPERIMENT) -> str:
    """Settings in which a run is not the study's, as "key=value, ..."; "" if there is none.

    A key that is absent has the value None. Of a model that `conf/` does not have, nothing is
    known.
    """
    try:
        study = study_settings(run.model, run.metrics["protocol"]["target"], experiment)
    except Exception:  # Hydra's, of many kinds
        return "model unknown"
    keys = [key for key in {**study, **run.settings} if key.startswith((*PROTOCOL, "model."))]
    changed = [
        key
        for key in keys
        if run.settings.get(key) != study.get(key)
        and key not in FREE_HERE
        and not key.endswith("._partial_")
    ]
    return ", ".join(dict.fromkeys(_setting(key, run.settings) for key in changed))


def _setting(key: str, settings: dict[str, Any]) -> str:
    """`key=value`; if a whole branch is null, model.norm for instance, that branch."""
    branch = key
    while "." in branch and branch not in settings:
        branch = branch.rpartition(".")[0]
    return f"{branch if branch in settings else key}={settings.get(key)}"


def ablation_table(groups: list[ProtocolGroup]) -> pd.DataFrame:
    """Test R2 of each decoder, direction and target: published over 47 sessions, and of runs.

    The TEST part selected the epoch of both. Of the runs: mean and SD over sessions, weighted by
    test bins, and the plain mean. Recorded sessions, excerpts and simulated ones, and different
    protocols, have separate rows. A model without a published score has rows too.
    """
    known = published_scores()
    known = known[(known["source"] == STUDY) & known["session"].isna()]
    names = {
        f"{score}_{axis}": f"published {label} {axis}"
        for score, label in (("r2", "R²"), ("sd", "SD"))
        for axis in "xy"
    }
    published = known[["target", "decoder", *names]].rename(columns=names)
    rows = [row for group in source_study_groups(groups) for row in _rows(group)]
    runs = pd.DataFrame(rows, columns=[*COLUMNS])
    table = published.merge(runs, how="left", on=["target", "decoder"])
    others = runs.merge(published[["target", "decoder"]], how="left", indicator=True)
    others = others[others.pop("_merge") == "left_only"]
    table = pd.concat([table, others], ignore_index=True) if len(others) else table
    both = table["decoder"].str.endswith(" bidirectional")
    table["decoder"] = table["decoder"].str.removesuffix(" bidirectional")
    table.insert(2, "direction", np.where(both, "both", "forward"))
    return table


def _rows(group: ProtocolGroup) -> list[tuple]:
    """A row for each model of a group; sessions whose score is no number are in none."""
    rows, table = [], run_table(group.runs)
    for model in model_order(table["model"]):
        scored = session_table(table[table["model"] == model]).dropna(subset=["r2_x", "r2_y"])
        if len(scored):
            bins = scored["test_bins"]
            weighted = [cell for axis in "xy" for cell in mean_and_sd(scored[f"r2_{axis}"], bins)]
            plain = [mean_and_sd(scored[f"r2_{axis}"])[0] for axis in "xy"]
            about = (len(scored), group.recording, differences(group.of_model(model)[0]))
            rows.append((group.target, model_label(model), *weighted, *plain, *about))
    return rows


def ablation_text(table: pd.DataFrame) -> str:
    """An `ablation_table` as a part of the summary."""
    shown = table[["target", "decoder", "direction"]].copy()
    shown["published R² x / y"] = _pairs(table, "published {} {}")
    shown["these runs, weighted"] = _pairs(table, "weighted {} {}")
    shown["plain"] = _pairs(table, "plain {} {}")
    shown[[*COLUMNS[-3:]]] = table[[*COLUMNS[-3:]]]
    text = [
        "## The source study's ablation table, and these runs\n",
        "Test R². The TEST part selected the epoch, of the published scores and of the runs, which "
        f"makes all of them too high. Published: mean ± SD over 47 sessions, weighted by test bins "
        f"({STUDY}, without attention). These runs: over the sessions that there are, mean over "
        "seeds first. Compare the two only where all 47 are `recorded` and nothing differs.\n",
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
