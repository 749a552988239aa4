"""Every model against a baseline, session by session."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import SCORES
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.tables import session_table
from bci_decode.errors import BciDecodeError
from bci_decode.style import BASELINE, BIDIRECTIONAL, model_order

MIN_PAIRS = 6  # sessions: with five, not even five gains of five give p < 0.05


def chosen_baseline(groups: list[ProtocolGroup], wanted: str | None) -> str:
    """The baseline that was asked for, else `BASELINE`; one that no run has is refused."""
    if wanted is None:
        return BASELINE
    models = model_order(model for group in groups for model in group.models)
    if wanted not in (*models, *(model.removesuffix(BIDIRECTIONAL) for model in models)):
        remedy = f"choose {', '.join(models)}"
        raise BciDecodeError(f"no run has the model {wanted}", field="--baseline", remedy=remedy)
    return wanted.removesuffix(BIDIRECTIONAL)


def model_pairs(models: list[str], baseline: str) -> list[tuple[str, str]]:
    """(model, its baseline) of all other models; bidirectional ones pair with a bidirectional one.

    A model whose baseline is not among `models` is in no pair.
    """
    pairs = [(model, baseline + BIDIRECTIONAL * model.endswith(BIDIRECTIONAL)) for model in models]
    return [(model, base) for model, base in pairs if base in models and model != base]


def matched_runs(table: pd.DataFrame, model: str, base: str) -> pd.DataFrame:
    """Of a run table, the runs of two models whose session, seed and cut both models have.

    A seed of only one of them would bias the pair of means.
    """
    runs = table[table["model"].isin((model, base))]
    places = runs.groupby(["session", "seed", "cut"], dropna=False)
    models_there = places["model"].transform("nunique")
    return runs[models_there == 2]


def paired_scores(table: pd.DataFrame, score: str, model: str, base: str) -> pd.DataFrame:
    """`score` of both models by monkey and session, in the columns `model` and `base`.

    Each is the mean over the seeds that both models have.
    """
    sessions = session_table(matched_runs(table, model, base))
    wide = sessions.pivot(index=["monkey", "session"], columns="model", values=score)
    return wide.reindex(columns=[model, base]).set_axis(["model", "base"], axis=1).dropna()


def paired_tests(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Gain of each model over its baseline: two-sided sign test and Wilcoxon signed-rank test.

    Sessions without a difference are left out of the tests. p is empty with fewer than `MIN_PAIRS`
    sessions, or if no session differs.
    """
    rows = [
        {"model": model, "baseline": base, "score": score} | _tests(gains)
        for model, base in pairs
        for score in SCORES
        if len(gains := _gains(table, score, model, base))
    ]
    return pd.DataFrame(rows)


def _gains(table: pd.DataFrame, score: str, model: str, base: str) -> np.ndarray:
    scores = paired_scores(table, score, model, base)
    return (scores["model"] - scores["base"]).to_numpy()


def _tests(gains: np.ndarray) -> dict[str, float]:
    from scipy.stats import binomtest, wilcoxon

    moved = gains[gains != 0]
    tested = len(gains) >= MIN_PAIRS and len(moved) > 0
    higher = int((gains > 0).sum())
    return {
        "paired sessions": len(gains),
        "higher": higher,
        "mean gain": gains.mean(),
        "median gain": np.median(gains),
        "sign test p": binomtest(higher, len(moved)).pvalue if tested else float("nan"),
        "Wilcoxon p": wilcoxon(moved).pvalue if tested else float("nan"),
    }


def unmatched_runs(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> int:
    """How many runs of models in `pairs` are in no pair, since the other model lacks their seed."""
    candidates = table[table["model"].isin({model for pair in pairs for model in pair})]
    used = {index for pair in pairs for index in matched_runs(table, *pair).index}
    return len(candidates) - len(used)
