"""What is read from the `predictions.npz` of a run: resampled scores, and the level of chance.

Runs of earlier versions have no intervals in `metrics.json`, but they have their predictions.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from bci_decode.comparison.finished_runs import PREDICTIONS, SCORES, Run
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.intervals import chance_level, r2_draws, r2_intervals
from bci_decode.runs.reading import read_predictions

NAN = float("nan")


def run_draws(run: Run) -> np.ndarray | None:
    """The resampled R2 of a run, (R, 3) of r2_x, r2_y and their mean; None without predictions.

    The seed is the session's name and the cut: equal for runs that are compared, and another for
    every session and cut, whose blocks have nothing to do with each other.
    """
    read = _predictions(run)
    if read is None:
        return None
    name = zlib.crc32(str(run.metrics["session"]).encode())
    draws = r2_draws(*read, seed=(name, 0 if run.cut is None else run.cut + 1))
    if draws is None or not np.isfinite(draws).all():
        return None
    return draws[:, [1, 2, 0]]


def chance_r2(run: Run) -> dict[str, float]:
    """The mean R2 by chance, by score; empty without predictions."""
    known = run.metrics.get("chance", {}).get("test")
    if known is None:
        read = _predictions(run)
        known = {} if read is None else chance_level(*read[:2])
    return {score: known[score]["mean"] for score in SCORES if known.get(score)}


def certainty(run: Run) -> dict[str, float]:
    """Columns of a table of runs: the ends of the 95 % interval of R2, and R2 by chance."""
    known: dict[str, Any] | None = run.metrics.get("intervals", {}).get("test")
    if known is None:
        read = _predictions(run)
        known = {} if read is None else r2_intervals(*read)
    ends = [known.get(score) or (NAN, NAN) for score in SCORES]
    chance = chance_r2(run)
    return {
        f"{SCORES[score]}_{name}": values[place]
        for score, values in zip(SCORES, ends, strict=True)
        for place, name in enumerate(("low", "high"))
    } | {f"chance_{score}": chance.get(score, NAN) for score in SCORES}


def _predictions(run: Run) -> tuple[np.ndarray, np.ndarray, float] | None:
    """True and decoded target (T, 2) and the bin width in s; None if they are not as they should.

    Without the two axes of the scores, or with another number of bins, they are of something else.
    """
    try:
        names = ("true", "decoded", "bin_width")
        read = read_predictions(run.folder / PREDICTIONS, names, verified=True)  # by `read_runs`
    except BciDecodeError:
        return None
    true, decoded, width = read["true"], read["decoded"], float(read["bin_width"])
    start, stop = run.metrics["protocol"]["split_bins"]["test"]
    fits = true.shape == decoded.shape == (stop - start, len(SCORES) - 1)
    return (true, decoded, width) if fits else None
