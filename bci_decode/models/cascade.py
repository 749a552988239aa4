"""The Wiener cascade: a linear filter, then a static nonlinearity."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.polynomial import polynomial

from bci_decode.errors import BciDecodeError
from bci_decode.models.closed_form import Stretches, joined
from bci_decode.models.wiener import ALPHAS, WienerFilter


class WienerCascade(WienerFilter):
    """A Wiener filter, and for each axis a polynomial of its output.

    Least squares fits the polynomial of `degree` to the output of the filter in training. Outputs
    beyond their range in training are held at its ends, where a polynomial knows nothing and grows
    without bounds. See Hunter and Korenberg 1986; Pohlmeyer et al. 2007.
    """

    lowest_: np.ndarray  # (D,), of the filter's outputs in training
    highest_: np.ndarray
    polynomial_: np.ndarray  # (degree + 1, D), the constant first

    def __init__(
        self,
        history: int = 10,
        alpha: float | None = None,
        alphas: Sequence[float] = ALPHAS,
        degree: int = 3,
    ):
        super().__init__(history, alpha, alphas)
        self.degree = degree

    def _fit(self, stretches: Stretches, validation: Stretches | None) -> None:
        if not isinstance(self.degree, Integral) or not 1 <= self.degree <= 9:
            raise BciDecodeError(
                f"is {self.degree}", field="model.degree", remedy="choose a whole number, 1 to 9"
            )
        super()._fit(stretches, validation)
        linear = joined([super(WienerCascade, self)._predict(X) for X, _ in stretches])
        y = joined([y for _, y in stretches])
        if not (known := ~np.isnan(y).any(axis=1)).all():
            linear, y = linear[known], y[known]
        self.lowest_, self.highest_ = linear.min(axis=0), linear.max(axis=0)
        unit = self._in_unit_range(linear)
        self.polynomial_ = np.stack(
            [
                polynomial.polyfit(unit[:, axis], y[:, axis], int(self.degree))
                if self.highest_[axis] > self.lowest_[axis]
                else np.append(y[:, axis].mean(), np.zeros(self.degree))
                for axis in range(y.shape[1])
            ],
            axis=1,
        )

    def _predict(self, X: np.ndarray) -> np.ndarray:
        unit = self._in_unit_range(super()._predict(X))
        # one polynomial per column: values and coefficients pair up along the last axis
        return polynomial.polyval(unit, self.polynomial_, tensor=False)

    def _in_unit_range(self, linear: np.ndarray) -> np.ndarray:
        """The filter's outputs (T, D), their range in training mapped to -1 .. 1 and held there."""
        width = np.where(self.highest_ > self.lowest_, self.highest_ - self.lowest_, 1.0)
        return np.clip(2 * (linear - self.lowest_) / width - 1, -1.0, 1.0)
