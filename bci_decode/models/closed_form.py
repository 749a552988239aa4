"""The contract of models that are fitted in closed form: scikit-learn's, and arrays in and out.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

import re

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

FLOATS = (np.float64, np.float32)


class ClosedForm(RegressorMixin, BaseEstimator):
    """`fit(X, y)` learns from counts (T, N) and kinematics (T, D), `predict(X)` decodes.

    The rows of X are one stretch of time. A subclass fits in `_fit` and decodes in `_predict`. It
    keeps all that it learns in attributes that end in "_" and are arrays or numbers, so that a
    checkpoint can hold them.
    """

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
    ) -> ClosedForm:
        """Learn from counts (T, N) and kinematics (T, D) or (T,).

        X_val and y_val, a later stretch of time, choose among settings where several are given.
        Raises ValueError where values are not finite or shapes do not agree.
        """
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together: give both or none")
        X, y = validate_data(
            self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        y = y.astype(np.float64)
        self.axes_ = 0 if y.ndim == 1 else y.shape[1]
        validation = None
        if X_val is not None and y_val is not None:
            X_val = validate_data(self, X_val, dtype=FLOATS, reset=False)
            y_val = check_array(y_val, ensure_2d=False, dtype=np.float64)
            if y_val.shape != (len(X_val), *y.shape[1:]):
                raise ValueError(f"y_val is {y_val.shape}, and X_val has {len(X_val)} rows")
            validation = X_val, y_val.reshape(len(X_val), -1)
        self._fit(X, y.reshape(len(y), -1), validation)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D), or (T,) after a fit to (T,), of a stretch of counts (T, N)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        decoded = self._predict(X)
        return decoded[:, 0] if getattr(self, "axes_", None) == 0 else decoded

    def _fit(
        self, X: np.ndarray, y: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        """Learn from counts (T, N) and kinematics (T, D), and from a validation part if any."""
        raise NotImplementedError

    def _predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of counts (T, N)."""
        raise NotImplementedError

    def choices(self) -> dict[str, float]:
        """The settings that `fit` chose among several, by name."""
        return {}

    def fitted_arrays(self) -> dict[str, np.ndarray]:
        """All that `fit` learned, by name."""
        return {
            name: np.asarray(value)
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_") and name != "feature_names_in_"
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what another model of the same settings learned."""
        for name, values in arrays.items():
            if not re.fullmatch(r"[a-z]\w*_", name):  # anything else would replace a method
                raise ValueError(f"{name} is not learned by a model")
            setattr(self, name, values.item() if np.ndim(values) == 0 else values)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
