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
# stretches of time: counts (T, N) and kinematics (T, D) of each, NaN where these are unknown
Stretches = list[tuple[np.ndarray, np.ndarray]]


class ClosedForm(RegressorMixin, BaseEstimator):
    """`fit(X, y)` learns from counts (T, N) and kinematics (T, D), `predict(X)` decodes.

    The rows of X are one stretch of time, in `fit` also several of them. A subclass fits in `_fit`
    and decodes in `_predict`. It keeps all that it learns in attributes that end in "_" and are
    arrays or numbers, so that a checkpoint can hold them.
    """

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        *,
        segments: np.ndarray | None = None,
        val_segments: np.ndarray | None = None,
    ) -> ClosedForm:
        """Learn from counts (T, N) and kinematics (T, D) or (T,).

        X_val and y_val, a later stretch of time, choose among settings where several are given.
        With `segments` (S, 2), the first row and the last + 1 of each stretch without a gap, rows
        outside them are left out, and y may be NaN where it is unknown; `val_segments` are those of
        X_val. Raises ValueError where values are not finite or shapes do not agree.
        """
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together: give both or none")
        if segments is None:
            X, y = validate_data(
                self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, ensure_min_samples=2
            )
        else:
            X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
            y = check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan")
        y = y.astype(np.float64)
        self.axes_ = 0 if y.ndim == 1 else y.shape[1]
        validation = None
        if X_val is not None and y_val is not None:
            X_val = validate_data(self, X_val, dtype=FLOATS, reset=False)
            finite = True if val_segments is None else "allow-nan"
            y_val = check_array(y_val, ensure_2d=False, dtype=np.float64, ensure_all_finite=finite)
            if y_val.shape != (len(X_val), *y.shape[1:]):
                raise ValueError(f"y_val is {y_val.shape}, and X_val has {len(X_val)} rows")
            validation = _stretches(X_val, y_val.reshape(len(X_val), -1), val_segments)
        self._fit(_stretches(X, y.reshape(len(y), -1), segments), validation)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D), or (T,) after a fit to (T,), of a stretch of counts (T, N)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        decoded = self._predict(X)
        return decoded[:, 0] if getattr(self, "axes_", None) == 0 else decoded

    def _fit(self, stretches: Stretches, validation: Stretches | None) -> None:
        """Learn from stretches of time, and from those of a validation part if any."""
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


def _stretches(X: np.ndarray, y: np.ndarray, segments: np.ndarray | None) -> Stretches:
    if segments is None:
        return [(X, y)]
    return [(X[start:stop], y[start:stop]) for start, stop in segments.tolist()]


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """The rows of all arrays; the array itself if there is only one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def known_stretches(stretches: Stretches) -> Stretches:
    """The stretches cut where the kinematics are unknown, these rows left out."""
    found: Stretches = []
    for X, y in stretches:
        known = ~np.isnan(y).any(axis=1)
        cuts = np.flatnonzero(np.diff(known, prepend=False, append=False)).reshape(-1, 2)
        found += [(X[start:stop], y[start:stop]) for start, stop in cuts.tolist()]
    return found
