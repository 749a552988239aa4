"""Map the units of another day to the inputs of a trained decoder, by what both tell of the hand.

Shapes: T bins, N units of the new session, M inputs of the decoder, F features of the movement.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

from bci_decode.data.binning import BinnedSession
from bci_decode.data.dataset import Dataset
from bci_decode.data.kinematics import kinematics
from bci_decode.data.segments import inside, known_rows, within
from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, is_regular, md5_of
from bci_decode.realtime.own_recording import own_recording, recorded_path
from bci_decode.runs.loaded_run import LoadedRun

log = logging.getLogger(__name__)

PENALTIES = np.logspace(-4, 2, 7)  # of ridge regression, for each bin
FOLDS = 5  # contiguous blocks of the cross-validation that chooses among them
SHIFTS = 0.064 * np.arange(-2, 4)  # s by which the movement is later than the spikes
WITHOUT = (
    "without the session that the run was trained on, new units begin without weights, and the "
    "result is worse; --parent-session FILE names it"
)
LEAST_CORRELATION = 0.05  # of counts and their expectation; below it, a unit tells nothing


def ridge(X: np.ndarray, Y: np.ndarray, intercept: bool = True) -> Ridge:
    """Ridge regression of Y (T, K) on X (T, C) with one penalty, chosen by cross-validation."""
    model = RidgeCV(
        alphas=PENALTIES * len(X),
        fit_intercept=intercept,
        scoring="neg_mean_squared_error",
        cv=KFold(FOLDS),
    )
    return model.fit(X, Y)


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the inputs of a decoder are expected to be from the movement of the hand alone.

    Linear in the features of `movement_features`, whose scale is `center` and `size`. Bins with an
    unknown feature and those in gaps are left out. `agreement` (M,) is the correlation of counts
    and expectation in the session that the decoder learned from.
    """

    model: Ridge
    center: np.ndarray
    size: np.ndarray
    agreement: np.ndarray

    @classmethod
    def fit(cls, run: LoadedRun, session: Session) -> Encoding:
        """Fit to the training part of the session that `run` was trained on."""
        binned = run.bin(session)
        bins = slice(*run.state["session"]["split_bins"]["train"])
        counts = run.counts(binned, run.match_units(binned))[bins].astype(np.float64)
        movement = _movement(session, binned, bins, run.config.source)
        moved = known_rows(movement)
        center, size = moved.mean(axis=0), moved.std(axis=0)
        features = movement_features((movement - center) / size, binned.bin_width)
        features, counts = _known(features, counts)
        model = ridge(features, counts)
        return cls(model, center, size, _correlation(counts, model.predict(features)))

    def expected(
        self, session: Session, binned: BinnedSession, bins: slice, source: str
    ) -> np.ndarray:
        """Inputs (T, M) expected in these bins of any session, from these bins alone.

        They are NaN where the movement is unknown.
        """
        movement = (_movement(session, binned, bins, source) - self.center) / self.size
        features = movement_features(movement, binned.bin_width)
        known = ~np.isnan(features).any(axis=1)
        if known.all():
            return self.model.predict(features)
        expected = np.full((len(features), len(self.agreement)), np.nan)
        expected[known] = self.model.predict(features[known])
        return expected


def _movement(session: Session, binned: BinnedSession, bins: slice, source: str) -> np.ndarray:
    """Position and velocity (T, 4) of the hand while these bins last; NaN in gaps."""
    edges, width = binned.edges[bins.start : bins.stop + 1], binned.bin_width
    targets = ("position", "velocity")
    moved = np.hstack([kinematics(session, edges, width, 0.0, one, source) for one in targets])
    moved[~inside(within(binned.segments, bins), len(moved))] = np.nan
    return moved


def _known(wanted: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both arrays in which `wanted` (T, C) has no NaN."""
    known = ~np.isnan(wanted).any(axis=1)
    return (wanted, beside) if known.all() else (wanted[known], beside[known])


def movement_features(movement: np.ndarray, bin_width: float) -> np.ndarray:
    """Features (T, F) of scaled position and velocity (T, 4), at several shifts in time.

    Units are tuned to velocity, speed and position (Paninski et al. 2004), and their preferred
    directions turn with posture (Scott and Kalaska 1997), hence the products. Ends are repeated.
    """
    position, velocity = movement[:, :2], movement[:, 2:]
    speed = np.hypot(*velocity.T)[:, None]
    products = (position[:, :1] * velocity, position[:, 1:] * velocity, speed * position)
    now = np.hstack([velocity, speed, position, *products])
    bins = np.arange(len(now))
    shifts = sorted({round(shift / bin_width) for shift in SHIFTS})
    return np.hstack([now[np.clip(bins + shift, 0, len(now) - 1)] for shift in shifts])


def parent_recording(run: LoadedRun, file: str | Path | None = None) -> Path | None:
    """The recording that a run was trained on: `file`, or where it was then; None if it is gone.

    Raises `BciDecodeError` where `file` is another one.
    """
    if file is None:
        path = own_recording(run)
        if path is None:
            place = recorded_path(run) or "the session of the run"
            log.warning("%s: not there, or has changed; %s", place, WITHOUT)
        return path
    path, about = expand_user(file).absolute(), run.state["session"]
    if is_regular(path) and md5_of(path) == about["md5"]:
        return path
    known = recorded_path(run)
    was = f", then {known}," if known is not None else ""
    problem = f"is not the session that {run.source} was trained on"
    raise BciDecodeError(
        problem if is_regular(path) else "no such file",
        file=path,
        field="--parent-session",
        remedy=f"name the file of {about['name']}{was} of MD5 {about['md5']}, or leave it out",
    )


def same_units(run: LoadedRun, units: pd.DataFrame) -> np.ndarray:
    """1 (M, N) where an input of the run and a unit have the same channel and row."""
    mine, theirs = (table[["channel", "row"]].to_numpy() for table in (run.units, units))
    return (mine[:, None] == theirs[None]).all(axis=2).astype(np.float64)


def read_in(
    run: LoadedRun, data: Dataset, binned: BinnedSession, session: Session, encoding: Encoding
) -> np.ndarray:
    """The map (M, N) from the scaled counts of a new session's units to the inputs of a run.

    Ridge regression on the new units gives what each input is expected to be from the movement in
    the training part of `data`. Where a unit of the same channel and row still agrees with that
    expectation as well as it did, it is the input itself; where it agrees less, the input is so
    much of both.
    """
    bins, counts = data.slices["train"], data.parts["train"].counts.astype(np.float64)
    expected = encoding.expected(session, binned, bins, run.config.source)
    expected, counts = _known(expected, counts)
    mapped = ridge(counts, expected, intercept=False).coef_
    same = same_units(run, data.units)
    agreement = _correlation(counts @ same.T, expected)
    share = np.clip(agreement / np.maximum(encoding.agreement, LEAST_CORRELATION), 0.0, 1.0)
    share = np.where(same.any(axis=1), share, 0.0)[:, None]
    return share * same + (1 - share) * mapped


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation (C,) of the columns of two arrays (T, C); 0 for a constant one."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return (one * other).sum(axis=0) / np.where(size > 0, size, 1.0) * (size > 0)
