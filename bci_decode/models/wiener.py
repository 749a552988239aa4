"""The Wiener filter: the linear decoder that every other one has to beat."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge

from bci_decode.models.closed_form import ClosedForm


class WienerFilter(ClosedForm):
    """Ridge regression from the last `history` bins of counts to the kinematics.

    The current bin is one of them. `fit` z-scores the counts, so that `alpha`, the penalty of the
    squared weights, means the same for slow and fast units. Bins before the first one count as
    average bins.
    """

    def __init__(self, history: int = 10, alpha: float = 3000.0):
        self.history = history
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: np.ndarray) -> WienerFilter:
        """Learn from counts (T, N) and kinematics (T, D) of one stretch of time."""
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        std = X.std(axis=0, dtype=np.float64)
        self.std_ = np.where(std > 0, std, 1.0)
        ridge = Ridge(alpha=self.alpha).fit(self._lagged(X), y)
        self.coef_, self.intercept_ = ridge.coef_, ridge.intercept_
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of a stretch of counts (T, N)."""
        return self._lagged(X) @ self.coef_.T + self.intercept_

    def _lagged(self, X: np.ndarray) -> np.ndarray:
        """(T, N) -> (T, history N): each bin beside those before it."""
        scaled = ((X - self.mean_) / self.std_).astype(np.float32)
        padded = np.concatenate([np.zeros((self.history - 1, X.shape[1]), np.float32), scaled])
        # shape (T, N, history)
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.history, axis=0)
        return windows.reshape(len(X), -1)
