"""95 % intervals of the R2 of runs, and of its differences, from their `predictions.npz`.

Runs of one session and cut are resampled alike, so that differences between them are paired. The
intervals say how far other 2 s blocks of the same test parts would move a score. They know nothing
of other seeds, whose spread is the standard error in the tables, nor of other sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import SCORES
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.pairs import matched_runs
from bci_decode.comparison.predictions import chance_r2, run_draws
from bci_decode.comparison.tables import run_table, seed_table
from bci_decode.evaluation.intervals import interval

Draws = dict[tuple[str, str], np.ndarray]  # by session and model: (R, 3) of r2_x, r2_y and r2
NO_RANGE = (float("nan"), float("nan"))


class Resampled:
    """The resampled scores of a group's runs; runs without usable predictions have none."""

    def __init__(self, group: ProtocolGroup):
        self.table = run_table(group.runs)
        self._runs = {_key(run.row()): run for run in group.runs}
        self._draws: dict[tuple, np.ndarray | None] = {}

    def draws(self, table: pd.DataFrame) -> Draws:
        """The draws of each session and model of a run table: mean over cuts, then seeds.

        Sessions with a run that has none are left out, and so are seeds that lack a cut.
        """
        seeds = seed_table(table)
        whole = seeds[~seeds["partial"]]
        found: Draws = {}
        for (session, model), rows in whole.groupby(["session", "model"]):
            runs = table[
                (table["session"] == session)
                & (table["model"] == model)
                & table["seed"].isin(rows["seed"])
            ]
            all_draws = [self._of_run(_key(row)) for row in runs.to_dict("records")]
            draws = [one for one in all_draws if one is not None]
            if len(draws) == len(all_draws):
                # seeds have equally many cuts, so that this is the mean over cuts, then seeds
                found[session, model] = np.mean(draws, axis=0)
        return found

    @cached_property
    def whole(self) -> Draws:
        """The draws of all runs."""
        return self.draws(self.table)

    def session_intervals(
        self, table: pd.DataFrame | None = None
    ) -> dict[tuple[str, str, str], tuple[float, float]]:
        """The interval by session, model and score, of all runs or of those of a run table."""
        drawn = self.whole if table is None else self.draws(table)
        return {
            (session, model, score): interval(draws[:, place])
            for (session, model), draws in drawn.items()
            for place, score in enumerate(SCORES)
        }

    def mean_interval(self, model: str, sessions: Sequence[str], score: str) -> tuple[float, float]:
        """The interval of a model's mean over sessions; NaN if one of them has no draws."""
        if not all((session, model) in self.whole for session in sessions):
            return NO_RANGE
        return interval(_mean([self.whole[session, model] for session in sessions], score))

    def chance(self, model: str, score: str) -> float:
        """R2 by chance: the mean over a model's runs; NaN if one has none."""
        levels = [chance_r2(run) for run in self._runs.values() if run.model == model]
        return float(np.mean([one.get(score, float("nan")) for one in levels]))

    def gains(self, model: str, base: str) -> dict[str, np.ndarray]:
        """By session: the draws (R, 3) of a model's R2 less its baseline's, over matched runs."""
        draws = self.draws(matched_runs(self.table, model, base))
        pairs = {
            session: (draws[session, model], draws[session, base])
            for session, name in draws
            if name == model and (session, base) in draws
        }
        return {session: one - other for session, (one, other) in pairs.items()}

    def gain_interval(self, model: str, base: str, score: str) -> tuple[float, float]:
        """The interval of the mean gain over sessions; NaN if a paired session has no draws."""
        gains, matched = self.gains(model, base), matched_runs(self.table, model, base)
        sessions = set(matched["session"])
        if not gains or set(gains) != sessions:
            return NO_RANGE
        return interval(_mean(list(gains.values()), score))

    def _of_run(self, key: tuple) -> np.ndarray | None:
        if key not in self._draws:
            self._draws[key] = run_draws(self._runs[key])
        return self._draws[key]


def _key(row: dict) -> tuple:
    cut = None if pd.isna(row["cut"]) else int(row["cut"])
    return row["session"], row["model"], row["seed"], cut


def _mean(draws: list[np.ndarray], score: str) -> np.ndarray:
    return np.mean([one[:, list(SCORES).index(score)] for one in draws], axis=0)


def range_text(ends: tuple[float, float]) -> str:
    """ "0.712 to 0.745"; empty where there is no interval."""
    return " to ".join(f"{end:.3f}" for end in ends) if np.isfinite(ends).all() else ""
