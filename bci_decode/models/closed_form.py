"""The contract of models that are fitted in closed form: scikit-learn's, and arrays in and out.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin


class ClosedForm(RegressorMixin, BaseEstimator):
    """`fit(X, y)` learns from counts (T, N) and kinematics (T, D), `predict(X)` decodes.

    A subclass keeps all that it learns in attributes that end in "_" and are arrays or numbers, so
    that a checkpoint can hold them.
    """

    def fitted_arrays(self) -> dict[str, np.ndarray]:
        """All that `fit` learned, by name."""
        return {
            name: np.asarray(value)
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_")
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what another model of the same settings learned."""
        for name, values in arrays.items():
            setattr(self, name, values)
