"""Reaches: the stretches of a session between changes of the target, and a split by them."""

from __future__ import annotations

import math

import numpy as np

from bci_decode.config import SplitConfig
from bci_decode.data.session import Session
from bci_decode.data.split import Slices, parts_between
from bci_decode.errors import BciDecodeError

REMEDY = "choose data.split.by=time"


def reach_starts(session: Session, edges: np.ndarray, lag: float = 0.0) -> np.ndarray | None:
    """The first bin (R,) of each reach, in order; the first reach begins with the recording.

    A reach begins at the first sample with another `target_pos`, and there at the bin whose
    kinematics are of that sample or later. A target that is missing (NaN) is no change. Without
    `target_pos`, trials are the reaches; None where the session has neither.
    """
    times = session.trials if session.target_pos is None else _target_changes(session)
    if times is None:
        return None
    ends = edges[1:] + lag
    slack = 1e-3 * float(np.median(np.diff(session.t)))  # a clock is exact to nanoseconds
    starts = np.searchsorted(ends, times - slack)
    return np.unique(np.append(0, starts[starts < len(ends)]))


def _target_changes(session: Session) -> np.ndarray:
    """The times (R,) in s at which `target_pos` changes."""
    assert session.target_pos is not None
    target = session.target_pos[: len(session.t)]
    before, after = target[:-1], target[1:]
    moved = (before != after) & ~(np.isnan(before) | np.isnan(after))
    return session.t[1:][moved.any(axis=1)]


def split_by_reaches(
    starts: np.ndarray | None,
    bins: int,
    bin_width: float,
    config: SplitConfig,
    window_length: int,
) -> Slices:
    """Bins of the training, validation and test parts, cut where a reach begins.

    `starts` (R,) are the reaches' first bins. `train` of the reaches, rounded down, are the
    training part. Of the rest, `val` / (1 - `train`), rounded down, are the validation part, as in
    NeuroBench. Raises `BciDecodeError` where there are too few reaches.
    """
    _check(starts, config)
    assert starts is not None
    reaches = len(starts)
    train = math.floor(reaches * config.train + 1e-9)
    val = math.floor((reaches - train) * config.val / (1 - config.train) + 1e-9)
    if train < 1 or (config.val and val < 1) or train + val >= reaches:
        raise BciDecodeError(
            f"{reaches} reaches are too few for the parts {config.train} and {config.val} of them",
            field="data.split.by",
            remedy=REMEDY,
        )
    gap = math.ceil(config.gap / bin_width - 1e-9)
    ends = int(starts[train]), int(starts[train + val])
    return parts_between(*ends, bins, gap, config, window_length)


def _check(starts: np.ndarray | None, config: SplitConfig) -> None:
    """Refuse what has no meaning for reaches, and a recording without them."""
    for key, value in (
        ("first_bins", config.first_bins),
        ("val_from_test", config.val_from_test or None),
    ):
        if value is not None:
            raise BciDecodeError(
                f"is {value} beside data.split.by=reaches",
                field=f"data.split.{key}",
                remedy=f"leave it out, or {REMEDY}",
            )
    if config.train == 0 or config.train + config.val >= 1:
        raise BciDecodeError(
            f"are {config.train} and {config.val}",
            field="data.split.train, val",
            remedy="choose fractions with a sum below 1",
        )
    if starts is None:
        problem = "is reaches, but the recording has neither target_pos nor trials"
        raise BciDecodeError(problem, field="data.split.by", remedy=REMEDY)
    if len(starts) < 2:
        raise BciDecodeError(
            "is reaches, but target_pos never changes", field="data.split.by", remedy=REMEDY
        )
