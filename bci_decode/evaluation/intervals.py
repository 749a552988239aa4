"""How certain an R2 is: block-bootstrap intervals, and the level that chance reaches.

Neighboring bins resemble each other, so that whole blocks of 2 s are resampled (Kuensch 1989, Ann.
Statist. 17:1217). R2 is a function of sums over bins, so that a resample needs only the sums of its
blocks. Bins whose true value is NaN count nowhere. Shapes: T bins, D axes, B blocks, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bci_decode.evaluation.metrics import r2, scored_bins

BLOCK = 2.0  # s
RESAMPLES = 1000
LEVEL = 0.95
MIN_BLOCKS = 10  # fewer do not show how blocks differ
SHIFTS = 20
NEAREST_SHIFT = 0.1  # of the part: no shift is closer to 0, or to the whole part, which is 0 again


@dataclass(frozen=True, eq=False)
class BlockSums:
    """Sums over the bins of each block: `bins` (B,), and (B, D) of target, its square and error².

    The target counts from its mean, so that no digits are lost in the sum of squares.
    """

    bins: np.ndarray
    target: np.ndarray
    target_squared: np.ndarray
    error_squared: np.ndarray

    def __len__(self) -> int:
        return len(self.bins)

    def r2(self, counts: np.ndarray) -> np.ndarray:
        """R2 (R, D) of resamples that hold each block `counts` (R, B) times.

        The total sum of squares is about the mean of the resample itself.
        """
        total = counts @ self.target
        sst = counts @ self.target_squared - total**2 / (counts @ self.bins)[:, None]
        return 1.0 - counts @ self.error_squared / np.where(sst > 0, sst, np.nan)


def block_sums(true: np.ndarray, decoded: np.ndarray, block: int) -> BlockSums:
    """The sums of (T, D) arrays over blocks of `block` bins; the last block may be shorter.

    Blocks without a bin that is scored are left out.
    """
    true, known = np.asarray(true, np.float64), ~np.isnan(true).any(axis=1)
    whole = bool(known.all())
    centered = true - np.mean(true if whole else true[known], axis=0)
    starts = np.arange(0, len(centered), block)
    error = true - decoded
    if not whole:
        centered, error = (np.where(known[:, None], values, 0.0) for values in (centered, error))
    target, squared, errors = (
        np.add.reduceat(values, starts, axis=0) for values in (centered, centered**2, error**2)
    )
    bins = np.add.reduceat(known.astype(float), starts)
    sums = bins, target, squared, errors
    return BlockSums(*(sums if whole else (values[bins > 0] for values in sums)))


def block_length(bin_width: float) -> int:
    """Bins of a block of `BLOCK` seconds."""
    return max(1, round(BLOCK / bin_width))


def resample_counts(
    blocks: int, resamples: int = RESAMPLES, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """How often each block is drawn, (R, B): as many draws as blocks, with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples).astype(float)


def r2_draws(
    true: np.ndarray,
    decoded: np.ndarray,
    bin_width: float,
    resamples: int = RESAMPLES,
    seed: int | Sequence[int] = 0,
) -> np.ndarray | None:
    """R2 of each resample, (R, 1 + D): its mean over the axes, then each axis.

    The same number of bins and the same seed draw the same blocks, so that the difference of two
    decoders' draws is a paired one. None with fewer than `MIN_BLOCKS` blocks.
    """
    sums = block_sums(true, decoded, block_length(bin_width))
    if len(sums) < MIN_BLOCKS:
        return None
    values = sums.r2(resample_counts(len(sums), resamples, seed))
    return np.column_stack([values.mean(axis=1), values])


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The central range that holds a share `level` of draws (R,): the percentile interval."""
    tail = 50 * (1 - level)
    low, high = np.percentile(draws, (tail, 100 - tail))
    return float(low), float(high)


def r2_intervals(
    true: np.ndarray, decoded: np.ndarray, bin_width: float, axes: Sequence[str] = ("x", "y")
) -> dict[str, Any]:
    """What `metrics.json` says of the certainty of R2: "r2" and "r2_<axis>" as [low, high].

    A range is None with fewer than `MIN_BLOCKS` blocks, or where an axis never moves.
    """
    draws = r2_draws(true, decoded, bin_width)
    about = {"level": LEVEL, "block_s": BLOCK, "resamples": RESAMPLES}
    names = score_names(axes)
    if draws is None:
        return about | dict.fromkeys(names)
    return about | {
        name: list(interval(column)) if np.isfinite(column).all() else None
        for name, column in zip(names, draws.T, strict=True)
    }


def chance_level(
    true: np.ndarray, decoded: np.ndarray, axes: Sequence[str] = ("x", "y")
) -> dict[str, Any]:
    """R2 of the decoded stream against targets that are shifted in time, circularly.

    There are `SHIFTS` shifts, evenly spread from `NEAREST_SHIFT` of the part to 1 minus that. A
    shifted target has the right statistics at the wrong time, so the R2 against it is chance. For
    "r2" and "r2_<axis>" there is the mean and the range of 95 % of the shifts, or None where an
    axis never moves. Bins that are not scored are cut out before.
    """
    true, decoded = scored_bins(np.asarray(true, np.float64), np.asarray(decoded, np.float64))
    shares = np.linspace(NEAREST_SHIFT, 1 - NEAREST_SHIFT, SHIFTS)
    shifts = np.unique(np.round(shares * len(true)).astype(int))
    scores = np.array([r2(np.roll(true, shift, axis=0), decoded) for shift in shifts])
    values = np.column_stack([scores.mean(axis=1), scores])
    found: dict[str, Any] = {"shifts": shifts.tolist()}
    for name, column in zip(score_names(axes), values.T, strict=True):
        mean = float(column.mean())
        known = math.isfinite(mean)
        found[name] = {"mean": mean, "range": list(interval(column))} if known else None
    return found


def score_names(axes: Sequence[str]) -> list[str]:
    """ "r2", its mean over the axes, then "r2_<axis>"."""
    return ["r2", *(f"r2_{axis}" for axis in axes)]
