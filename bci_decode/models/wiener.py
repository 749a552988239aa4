"""Decoders that every other one has to beat; scikit-learn's contract, counts (T, N) in, kinematics (T, D) out."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge


class WienerFilter(RegressorMixin, BaseEstimator):
    """Ridge regression from the last `history` bins of counts, the current one included, to the kinematics.

    Counts are z-scored on what `fit` sees, so that `alpha`, the penalty of the squared weights, means the same for slow and
    fast units. Bins before the first count as average ones.
    """

    def __init__(self, history: int = 10, alpha: float = 1000.0):
        self.history = history
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: np.ndarray) -> WienerFilter:
        """Learn from counts (T, N) and kinematics (T, D) of one stretch of time."""
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        std = X.std(axis=0, dtype=np.float64)
        self.std_ = np.where(std > 0, std, 1.0)
        self.ridge_ = Ridge(alpha=self.alpha).fit(self._lagged(X), y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of a stretch of counts (T, N)."""
        return self.ridge_.predict(self._lagged(X))

    def _lagged(self, X: np.ndarray) -> np.ndarray:
        """(T, N) -> (T, history N): each bin beside those before it."""
        scaled = ((X - self.mean_) / self.std_).astype(np.float32)
        padded = np.concatenate([np.zeros((self.history - 1, X.shape[1]), np.float32), scaled])
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.history, axis=0)  # (T, N, history)
        return windows.reshape(len(X), -1)
