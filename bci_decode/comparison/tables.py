"""The scores of runs as tables: by run, by session, over sessions, by epoch; and as Markdown."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import SCORES, Run
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.predictions import certainty
from bci_decode.data.catalog import monkeys
from bci_decode.style import model_order

ROUNDING = 1e-12  # below it a figure is an error of rounding
MAX_LISTED = 12  # runs whose losses and scores are shown one by one
EPOCHS = (0, 1, 2, 4, 5, 10, 20, 30, 40, 50, 70, 100)  # of tables of losses
ALL = "all"


def run_table(runs: list[Run]) -> pd.DataFrame:
    """A row for each run (see `Run.row`), by experiment, session, model, seed and cut."""
    return pd.DataFrame([run.row() for run in sorted_runs(runs)])


def sorted_runs(runs: list[Run]) -> list[Run]:
    """Runs by experiment, session, model (in the order of the tables), seed and cut."""
    order = model_order(run.model for run in runs)

    def place(run: Run) -> tuple:
        about = run.metrics
        cut = -1 if run.cut is None else run.cut
        return about["experiment"], about["session"], order.index(run.model), about["seed"], cut

    return sorted(runs, key=place)


def sessions_csv(groups: list[ProtocolGroup]) -> str:
    """All runs, a row each.

    `test_r2_low` and `_high` are the ends of the 95 % interval, `chance_r2` is the R2 against
    targets that are shifted in time. `protocol` names the group, and a column for each setting in
    which groups differ has its value.
    """
    rows = [
        row | certainty(run) | {"protocol": group.name} | group.differs
        for group in groups
        for row, run in zip(
            run_table(group.runs).to_dict("records"), sorted_runs(group.runs), strict=True
        )
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def loss_table(group: ProtocolGroup) -> pd.DataFrame:
    """Test loss at some epochs, a column for each run or, of many, for each model's median.

    A model in closed form has its one loss at every epoch.
    """
    losses = {run: run.history.set_index("epoch")["test_loss"] for run in group.runs}
    some = {epoch for one in losses.values() for epoch in EPOCHS if epoch in one.index}
    table = pd.DataFrame(index=pd.Index(sorted(some), name="epoch"))
    for run, one in losses.items():
        table[run.label] = one.iloc[0] if run.closed_form else one.reindex(table.index)
    if len(group.runs) <= MAX_LISTED:
        return table
    medians = {model: [run.label for run in group.of_model(model)] for model in group.models}
    return pd.DataFrame(
        {
            f"{model}, median of {len(labels)} runs": table[labels].median(axis=1)
            for model, labels in medians.items()
        }
    )


def session_table(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over cuts, then over seeds: a row for each session and model.

    Columns: monkey, session, model, `seeds`, `test_bins` (of all cuts), `r2_x`, `r2_y`, `r2`, and
    with `se_` before the name of a score its standard error: the sample SD over the seeds, each its
    mean over the cuts, divided by the root of their number; NaN with one seed. Seeds that lack a
    cut are in no mean: see `partial_seeds`.
    """
    seeds = seed_table(table)
    by = seeds[~seeds["partial"]].groupby(["monkey", "session", "model"], as_index=False)
    means = {name: (name, _strict_mean) for name in SCORES}
    errors = {f"se_{name}": (name, _standard_error) for name in SCORES}
    return by.agg(seeds=("seed", "size"), test_bins=("test_bins", "first"), **means, **errors)


def seed_table(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over cuts: a row for each session, model and seed.

    `partial` marks seeds that lack a cut which any run of the session has: the blocks are not
    equally hard, so that their mean is of something else.
    """
    by = table.groupby(["monkey", "session", "model", "seed"], as_index=False)
    means = {name: (column, _strict_mean) for name, column in SCORES.items()}
    seeds = by.agg(cuts=("cut", _distinct), test_bins=("test_bins", "sum"), **means)
    all_cuts = table.groupby("session")["cut"].agg(_distinct)
    return seeds.assign(partial=seeds["cuts"] < seeds["session"].map(all_cuts))


def partial_seeds(table: pd.DataFrame) -> list[str]:
    """The seeds of a run table that lack a cut, in words."""
    seeds = seed_table(table)
    return [
        f"{row.session} {row.model} seed {row.seed}" for row in seeds[seeds["partial"]].itertuples()
    ]


def _distinct(values: pd.Series) -> int:
    return values.nunique(dropna=False)


def _standard_error(values: pd.Series) -> float:
    return values.sem(skipna=False)


def _strict_mean(values: pd.Series) -> float:
    return values.mean(skipna=False)


def mean_and_sd(values, weights=None) -> tuple[float, float]:
    """Mean and standard deviation.

    Plain: sample SD (n - 1). Weighted: root of the weighted mean squared deviation.
    """
    values = np.asarray(values, dtype=float)
    if weights is None:
        return values.mean(), values.std(ddof=1) if len(values) > 1 else float("nan")
    mean = np.average(values, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    return mean, spread if len(values) > 1 else float("nan")


def mean_error(errors) -> float:
    """The standard error of a mean over sessions from those of its sessions; NaN if one has none.

    It says how far other seeds would move the mean of these sessions, not what others would score.
    """
    errors = np.asarray(errors, dtype=float)
    return float(np.sqrt((errors**2).sum()) / len(errors)) if len(errors) else float("nan")


def score_table(sessions: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD of R2 over sessions by monkey, model, axis; plain and weighted by test bins.

    The last column is the standard error over seeds of the plain mean: see `mean_error`.
    """
    names = set(sessions["monkey"])
    known = sorted(monkeys() & names) if len(names) > 1 else []
    rows = []
    for monkey, model in itertools.product([*known, ALL], model_order(sessions["model"])):
        of_monkey = (sessions["monkey"] == monkey) | (monkey == ALL)
        of_model = sessions[of_monkey & (sessions["model"] == model)]
        for score in SCORES:
            scored = of_model.dropna(subset=[score])  # a score that is no number is no score of 0
            if len(scored):
                plain = mean_and_sd(scored[score])
                weighted = mean_and_sd(scored[score], scored["test_bins"])
                error = mean_error(scored[f"se_{score}"])
                rows.append((monkey, model, score, len(scored), *plain, *weighted, error))
    columns = ["monkey", "model", "score", "sessions", "mean", "SD", "weighted mean", "weighted SD"]
    columns.append("SE over seeds")
    return pd.DataFrame(rows, columns=columns)


def epoch_table(table: pd.DataFrame) -> pd.DataFrame:
    """Median epochs over the runs of each model that is trained in epochs.

    A run that never falls below half the plateau counts as later than any other, so the median is
    empty if half of the runs never do.
    """
    rows = []
    trained = table[~table["closed_form"]]
    for model in model_order(trained["model"]):
        runs = trained[trained["model"] == model]
        half = float(np.median(runs["half_plateau_epoch"].astype(float).fillna(np.inf)))
        rows.append(
            {
                "model": model,
                "runs": len(runs),
                "half the plateau": half if np.isfinite(half) else float("nan"),
                "never": int(runs["half_plateau_epoch"].isna().sum()),
                "best validation loss": _median(runs["best_val_epoch"]),
                "selected": float(runs["best_epoch"].median()),
            }
        )
    return pd.DataFrame(rows)


def _median(values: pd.Series) -> float:
    """The median of the numbers there are; NaN without any."""
    numbers = values.astype(float).dropna()
    return float(numbers.median()) if len(numbers) else float("nan")


def holdout_table(table: pd.DataFrame) -> pd.DataFrame:
    """R2 of test bins that selected nothing, by model: mean over sessions, weighted by those bins.

    The epoch is the one that the other test bins selected, or, for comparison, the whole test part.
    """
    scored = table[table["holdout_bins"].notna()]
    rows = []
    for model in model_order(scored["model"]):
        runs = scored[scored["model"] == model]
        by_session = runs.groupby("session")
        row = {"model": model, "sessions": by_session.ngroups, "runs": len(runs)}
        row["epoch by validation, median"] = float(runs["holdout_epoch"].median())
        for when, end in (
            ("by validation", ""),
            ("the same bins, by TEST", "_at_test_selected_epoch"),
        ):
            columns = [f"holdout_{score}{end}" for score in SCORES]
            means = by_session[["holdout_bins", *columns]].mean().dropna()
            scores = " / ".join(f"{means[column].mean():.3f}" for column in columns)
            row[f"R² x / y / mean, {when}"] = scores
            weighted = mean_and_sd(means[columns[-1]], means["holdout_bins"]) if len(means) else ()
            row[f"weighted mean, {when}"] = weighted[0] if weighted else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, index: bool = False) -> str:
    """A table as GitHub Markdown: floats with three decimals below 100, with one above."""
    table = table.reset_index() if index else table
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(_cell(value) for value in row) + " |")
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float) and (np.isinf(value) or value != int(value)):
        if abs(value) < ROUNDING:
            return "0"
        if abs(value) < 0.001:
            return f"{value:.1e}"
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(int(value)) if isinstance(value, float) else str(value)
