"""The scores of a decoder: R2, CC, RMSE and SNR, one value per axis, and the loss.

`true` and `decoded` are (T, D), or (T,) for one axis, in the same physical unit; every score but
the loss is (D,). An axis that never moves has no variance to explain: its R2, CC and SNR are NaN.
Bins whose `true` is NaN, where it is unknown or not to be scored, are left out of every score.
"""

from __future__ import annotations

import numpy as np


def r2(true: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Coefficient of determination per axis, 1 - SSE / SST.

    1 is perfect, 0 is as good as the mean, below 0 is worse.
    """
    true, decoded = _paired(true, decoded)
    sse = ((true - decoded) ** 2).sum(0)
    sst = ((true - true.mean(0)) ** 2).sum(0)
    return 1.0 - sse / np.where(sst > 0, sst, np.nan)


def mse(true: np.ndarray, decoded: np.ndarray) -> float:
    """Mean squared error over bins and axes, in the unit of the target squared.

    All losses in tables and figures are this one.
    """
    true, decoded = _paired(true, decoded)
    return float(((decoded - true) ** 2).mean())


def cc(true: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Pearson's correlation coefficient per axis."""
    true, decoded = _paired(true, decoded)
    true, decoded = true - true.mean(0), decoded - decoded.mean(0)
    norm = np.sqrt((true**2).sum(0) * (decoded**2).sum(0))
    return (true * decoded).sum(0) / np.where(norm > 0, norm, np.nan)


def rmse(true: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Root mean squared error per axis, in the unit of the target."""
    true, decoded = _paired(true, decoded)
    return np.sqrt(((true - decoded) ** 2).mean(0))


def snr_db(true: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio per axis in dB, -10 log10(1 - R2), as in Makin et al. 2018."""
    with np.errstate(divide="ignore"):  # a perfect axis has an infinite ratio
        return -10.0 * np.log10(1.0 - r2(true, decoded))


def scored_bins(true: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bins of (T, D) arrays in which `true` is known."""
    known = ~np.isnan(true).any(axis=1)
    return (true, decoded) if known.all() else (true[known], decoded[known])


def _paired(true: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as (T, D) float64, without the bins in which `true` is NaN.

    Different shapes are refused: a silent broadcast of (T,) against (T, 1) gives a wrong score.
    """
    true, decoded = np.asarray(true, np.float64), np.asarray(decoded, np.float64)
    if true.shape != decoded.shape or len(true) == 0:
        raise ValueError(
            f"scores need two arrays of one shape with a bin at least, not {true.shape} and "
            f"{decoded.shape}"
        )
    pair = scored_bins(true.reshape(len(true), -1), decoded.reshape(len(decoded), -1))
    if not len(pair[0]):
        raise ValueError("scores need a bin whose true value is known")
    return pair
