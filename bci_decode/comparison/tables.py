"""The figures of runs side by side: by run, by session, over sessions, LN-GRU against GRU."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import SCORES, Group, Run
from bci_decode.data.catalog import monkeys

FEWEST = 6  # paired sessions: with five, not even five wins of five would give p < 0.05
FEW = 12  # runs whose losses and scores are shown one by one
ALL = "all"


@cache
def reference() -> pd.DataFrame:
    """Published figures from `reference.csv` beside this module; no session: the mean over all 47, weighted by bins."""
    return pd.read_csv(Path(__file__).with_name("reference.csv"))


def run_table(runs: list[Run]) -> pd.DataFrame:
    """A row for each run, in the order of experiment, session, model and seed; what it holds says `Run.row`."""
    return pd.DataFrame([run.row() for run in runs]).sort_values(
        ["experiment", "session", "model", "seed"], ignore_index=True
    )


def sessions_csv(groups: list[Group]) -> str:
    """All runs, a row each; `protocol` says which of them may be compared."""
    return pd.concat([run_table(group.runs).assign(protocol=group.name) for group in groups]).to_csv(index=False)


def loss_table(runs: list[Run], epochs=(0, 1, 2, 4, 5, 10, 20, 30, 40, 50, 70, 100)) -> pd.DataFrame:
    """Test loss of each run at some epochs: a row for each epoch that a run has, a column for each run."""
    losses = [run.history.set_index("epoch")["test_loss"] for run in runs]
    table = pd.concat(losses, axis=1, keys=[run.label for run in runs])
    return table.loc[[epoch for epoch in epochs if epoch in table.index]]


def session_table(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over the seeds: a row for each session and model with its `seeds`, `test_bins`, `r2_x`, `r2_y`, `r2`."""
    scores = {score: (column, lambda values: values.mean(skipna=False)) for score, column in SCORES.items()}
    by = table.groupby(["monkey", "session", "model"], as_index=False)
    return by.agg(seeds=("seed", "size"), test_bins=("test_bins", "first"), **scores)


def mean_and_sd(values, weights=None) -> tuple[float, float]:
    """Plain: mean and sample SD (n - 1). Weighted: weighted mean, root of the weighted mean squared deviation from it."""
    values = np.asarray(values, dtype=float)
    if weights is None:
        return values.mean(), values.std(ddof=1) if len(values) > 1 else float("nan")
    mean = np.average(values, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    return mean, spread if len(values) > 1 else float("nan")


def score_table(sessions: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD of R2 over the sessions, plain and weighted by test bins, per monkey of the catalogue, model, axis."""
    known = monkeys() & set(sessions["monkey"])
    rows = []
    for monkey, model in itertools.product([*sorted(known), ALL], sorted(set(sessions["model"]))):
        some = sessions[(sessions["model"] == model) & ((sessions["monkey"] == monkey) | (monkey == ALL))]
        for score in SCORES:
            scored = some.dropna(subset=[score])  # a score that is no number is no score of 0
            if len(scored):
                plain, weighted = mean_and_sd(scored[score]), mean_and_sd(scored[score], scored["test_bins"])
                cells = (monkey, model, score, len(scored), *plain, *weighted)
                rows.append(cells)
    columns = ["monkey", "model", "score", "sessions", "mean", "SD", "weighted mean", "weighted SD"]
    return pd.DataFrame(rows, columns=columns)


def matched(table: pd.DataFrame, first: str = "gru", second: str = "lngru") -> pd.DataFrame:
    """Of a run table, the runs whose session and seed both models have: a seed of one alone would tilt a pair."""
    by_model = {model: set(zip(some["session"], some["seed"], strict=True)) for model, some in table.groupby("model")}
    both = by_model.get(first, set()) & by_model.get(second, set())
    keys = zip(table["session"], table["seed"], strict=True)
    return table[np.array([key in both for key in keys], dtype=bool)]


def pairs(table: pd.DataFrame, score: str, first: str = "gru", second: str = "lngru") -> pd.DataFrame:
    """`score` of two models by session and monkey, mean over the seeds that both have: a column for each model."""
    wide = session_table(matched(table, first, second)).pivot(
        index=["monkey", "session"], columns="model", values=score
    )
    return wide.reindex(columns=[first, second]).dropna()


def paired_tests(runs: pd.DataFrame, first: str = "gru", second: str = "lngru") -> pd.DataFrame:
    """The second model, an LN-GRU, less the first, a GRU, across sessions: two-sided sign test and Wilcoxon signed-rank test; sessions without a difference
    tell neither anything and are left out of both. Empty p where fewer than `FEWEST` sessions are paired."""
    from scipy.stats import binomtest, wilcoxon

    rows = []
    for score in SCORES:
        both = pairs(runs, score, first, second)
        gain = (both[second] - both[first]).to_numpy()
        moved = gain[gain != 0]
        tested = len(gain) >= FEWEST and len(moved) > 0
        rows.append(
            {
                "score": score,
                "paired sessions": len(gain),
                "LN-GRU higher": int((gain > 0).sum()),
                "mean gain": gain.mean() if len(gain) else float("nan"),
                "median gain": np.median(gain) if len(gain) else float("nan"),
                "sign test p": binomtest(int((moved > 0).sum()), len(moved)).pvalue if tested else float("nan"),
                "Wilcoxon p": wilcoxon(moved).pvalue if tested else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def epoch_table(table: pd.DataFrame) -> pd.DataFrame:
    """Median epochs over the runs of each model; a run that never falls below half the plateau counts as later than
    any other, so the median is empty where half of the runs never do."""
    rows = []
    for model, some in table.groupby("model"):
        half = float(np.median(some["half_plateau_epoch"].astype(float).fillna(np.inf)))
        rows.append(
            {
                "model": model,
                "runs": len(some),
                "half the plateau": half if np.isfinite(half) else float("nan"),
                "never": int(some["half_plateau_epoch"].isna().sum()),
                "best validation loss": some["best_val_epoch"].astype(float).median(),
                "chosen": float(some["best_epoch"].median()),
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, index: bool = False) -> str:
    """A table as GitHub Markdown: floats with three figures after the point below 100, one above."""
    table = table.reset_index() if index else table
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float) and (np.isinf(value) or value != int(value)):
        if 0 < abs(value) < 0.001:
            return f"{value:.1e}"
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(int(value)) if isinstance(value, float) else str(value)
