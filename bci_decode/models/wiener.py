"""The Wiener filter: the linear decoder that every other one has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.models.closed_form import ClosedForm, Stretches, joined
from bci_decode.models.ridge import StackedHistory, ridge_path

ALPHAS = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5)
VALIDATION_SHARE = 0.1  # of the training part, where there is no validation part


class WienerFilter(ClosedForm):
    """Ridge regression from the last `history` bins of counts to the kinematics.

    The current bin is one of them. `fit` z-scores the counts, so that `alpha`, the penalty of the
    squared weights, means the same for slow and fast units. Bins before the first one count as
    average bins.

    `alpha=None` chooses the penalty among `alphas`: that with the lowest squared error on the
    validation part, in units of each axis's variance in training. Without a validation part, the
    last tenth of the training part serves. The weights are those of the whole training part;
    `alpha_` is the penalty.
    """

    def __init__(
        self,
        history: int = 10,
        alpha: float | None = None,
        alphas: Sequence[float] = ALPHAS,
    ):
        self.history = history
        self.alpha = alpha
        self.alphas = alphas

    def _fit(self, stretches: Stretches, validation: Stretches | None) -> None:
        alphas = self._checked_alphas()
        if len(alphas) > 1 and validation is not None:
            self._best_alpha(stretches, validation, alphas)
            return
        if len(alphas) > 1:
            bins = sum(len(X) for X, _ in stretches)
            first = bins - max(1, round(VALIDATION_SHARE * bins))
            alphas = [self._best_alpha(*_split(stretches, first), alphas)]
        self._keep(*self._path(stretches, alphas), alphas, 0)

    def _best_alpha(
        self, stretches: Stretches, validation: Stretches, alphas: list[float]
    ) -> float:
        """The penalty with the lowest error on the validation part; its weights are kept."""
        weights, intercepts = self._path(stretches, alphas)
        y = known_targets(stretches)
        variance = np.where(np.ptp(y, axis=0) > 0, y.var(axis=0), 1.0)
        errors = []
        stacked, true = self._stacked(validation), known_targets(validation)
        for weight, intercept in zip(weights, intercepts, strict=True):
            missed = true - stacked.times(weight) - intercept
            errors.append(float((missed**2 / variance).mean()))
        best = int(np.argmin(errors))
        self._keep(weights, intercepts, alphas, best)
        return alphas[best]

    def _path(self, stretches: Stretches, alphas: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Weights (A, L, N, D) and intercepts (A, D) of z-scored counts."""
        X = joined([X for X, _ in stretches])
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        std = X.std(axis=0, dtype=np.float64)
        # the rounding of the mean leaves a unit that never changes with a tiny deviation
        self.std_ = np.where(np.ptp(X, axis=0) > 0, std, 1.0)
        return ridge_path(self._stacked(stretches), known_targets(stretches), alphas)

    def _stacked(self, stretches: Stretches) -> StackedHistory:
        """The z-scored counts of all stretches, with average bins between; rows of known targets.

        These bins keep a stretch from seeing the one before, as its first bins see average ones.
        """
        if len(stretches) == 1 and not np.isnan(stretches[0][1]).any():
            return StackedHistory(self._scaled(stretches[0][0]), self.history)
        pieces, known = [], []
        for X, y in stretches:
            between = np.zeros((self.history - 1, X.shape[1]), X.dtype)
            pieces += [between, self._scaled(X)]
            known += [np.zeros(len(between), bool), ~np.isnan(y).any(axis=1)]
        rows = np.flatnonzero(np.concatenate(known))
        return StackedHistory(np.concatenate(pieces), self.history, rows)

    def _keep(
        self, weights: np.ndarray, intercepts: np.ndarray, alphas: list[float], best: int
    ) -> None:
        self.alpha_ = alphas[best]
        self.intercept_ = intercepts[best]
        # (D, N L), the oldest bin first
        self.coef_ = np.ascontiguousarray(weights[best, ::-1].T).reshape(len(self.intercept_), -1)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        weights = self.coef_.reshape(len(self.intercept_), X.shape[1], -1).T[::-1]
        stacked = StackedHistory(self._scaled(X), self.history)
        return stacked.times(weights) + self.intercept_

    def choices(self) -> dict[str, float]:
        """The penalty, where there were several."""
        return {"alpha": self.alpha_} if self.alpha is None and len(self.alphas) > 1 else {}

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """The z-scored counts, in the type of X."""
        scaled = X - self.mean_.astype(X.dtype)
        scaled /= self.std_.astype(X.dtype)
        return scaled

    def _checked_alphas(self) -> list[float]:
        """The penalties to choose from, all checked."""
        if not isinstance(self.history, Integral) or self.history < 1:
            raise BciDecodeError(
                f"is {self.history}", field="model.history", remedy="choose a whole number from 1"
            )
        key = "alphas" if self.alpha is None else "alpha"
        alphas = [float(alpha) for alpha in (self.alphas if self.alpha is None else [self.alpha])]
        if not alphas:
            raise BciDecodeError("is empty", field=f"model.{key}", remedy="give a penalty")
        for alpha in alphas:
            if not 0 <= alpha < np.inf:
                raise BciDecodeError(
                    f"is {alpha:g}", field=f"model.{key}", remedy="choose a number of 0 or more"
                )
        return alphas


def known_targets(stretches: Stretches) -> np.ndarray:
    """The kinematics (T, D) of all bins in which they are known."""
    y = joined([y for _, y in stretches])
    known = ~np.isnan(y).any(axis=1)
    return y if known.all() else y[known]


def _split(stretches: Stretches, bins: int) -> tuple[Stretches, Stretches]:
    """The first `bins` of all stretches, and the rest; each has a known target."""
    first: Stretches = []
    rest: Stretches = []
    for X, y in stretches:
        cut = min(max(bins, 0), len(X))
        bins -= len(X)
        first += [(X[:cut], y[:cut])] if cut else []
        rest += [(X[cut:], y[cut:])] if cut < len(X) else []
    for piece in (first, rest):
        if not len(known_targets(piece)):
            raise ValueError("no kinematics are known in one of the parts that choose alpha")
    return first, rest
