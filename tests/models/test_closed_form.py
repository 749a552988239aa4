"""What all closed-form models have in common: scikit-learn's contract, causality, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from bci_decode.errors import BciDecodeError
from bci_decode.models.cascade import WienerCascade
from bci_decode.models.kalman import KalmanFilter
from bci_decode.models.wiener import WienerFilter

ORDER = "rows are bins in the order of time, and a bin is decoded from those before it"
EXACT = "the inputs are an exact function of the target, which leaves a singular covariance"
SERIES = {"check_methods_sample_order_invariance": ORDER, "check_methods_subset_invariance": ORDER}
MODELS = {
    "wiener": (WienerFilter(), SERIES),
    "cascade": (WienerCascade(), SERIES),
    # the checks have few bins
    "kalman": (
        KalmanFilter(shrinkage=0.1),
        SERIES
        | {"check_regressors_no_decision_function": EXACT, "check_regressor_multioutput": EXACT},
    ),
    "kalman_velocity": (
        KalmanFilter(state=("velocity",), shrinkage=0.1),
        SERIES | {"check_regressors_no_decision_function": EXACT},
    ),
}
CHECKS = [
    pytest.param(model, check, reasons, id=f"{name}-{check.func.__name__}")
    for name, (made, reasons) in MODELS.items()
    for model, check in estimator_checks_generator(made)
    if check.func.__name__ != "check_array_api_input"  # there is no support to be checked
]


@pytest.mark.filterwarnings("ignore")  # some checks warn of what they do
@pytest.mark.parametrize(("model", "check", "impossible"), CHECKS)
def test_scikit_learns_checks(model, check, impossible):
    if check.func.__name__ not in impossible:
        check(model)
        return
    with pytest.raises((AssertionError, BciDecodeError)):
        check(model)


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray]:
    """300 bins of eight units that prefer directions, and the velocity that they prefer."""
    rng = np.random.default_rng(0)
    velocity = lfilter([0.44], [1, -0.9], rng.normal(size=(300, 2)), axis=0)
    angle = 2 * np.pi * np.arange(8) / 8
    rates = 3 + 1.2 * velocity @ np.stack([np.cos(angle), np.sin(angle)])
    return rng.poisson(rates.clip(min=0.1)).astype(np.float32), 40 * velocity + 3


@pytest.mark.parametrize("name", MODELS)
def test_decodes_and_knows_no_later_bin(name, parts):
    counts, velocity = parts
    model = clone(MODELS[name][0])
    assert model.fit(counts[:200], velocity[:200]) is model
    decoded = model.predict(counts[200:])
    assert decoded.shape == (100, 2) and decoded.dtype == np.float64
    assert model.score(counts[200:], velocity[200:]) > 0.5
    changed = counts[200:].copy()
    changed[60:] = 9
    again = model.predict(changed)
    np.testing.assert_allclose(again[:60], decoded[:60], rtol=0, atol=1e-4)
    assert np.abs(again[60:] - decoded[60:]).max() > 1


@pytest.mark.parametrize("name", MODELS)
def test_one_axis_may_be_a_column_or_a_vector(name, parts):
    counts, velocity = parts
    vector, column = (
        clone(MODELS[name][0]).fit(counts, y) for y in (velocity[:, 0], velocity[:, :1])
    )
    np.testing.assert_array_equal(vector.predict(counts), column.predict(counts)[:, 0])
    assert vector.predict(counts).shape == (300,)


@pytest.mark.parametrize("name", MODELS)
def test_what_fit_learned_is_arrays_and_numbers_that_another_model_takes_over(name, parts):
    counts, velocity = parts
    model = clone(MODELS[name][0]).fit(counts, velocity)
    arrays = model.fitted_arrays()
    assert all(values.dtype.kind in "fi" for values in arrays.values())
    other = clone(model)
    other.restore(arrays)
    np.testing.assert_array_equal(other.predict(counts), model.predict(counts))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("validation", "line"),
    [
        (lambda counts, y: (counts, None), "belong together"),
        (lambda counts, y: (counts, y[:-1]), r"y_val is \(299, 2\), and X_val has 300 rows"),
        (lambda counts, y: (counts, y[:, 0]), r"y_val is \(300,\)"),
        (lambda counts, y: (counts[:, 1:], y), "7 features"),
        (lambda counts, y: (counts, y * np.nan), "NaN"),
    ],
)
def test_a_validation_part_of_another_shape_is_refused(name, validation, line, parts):
    with pytest.raises(ValueError, match=line):
        clone(MODELS[name][0]).fit(*parts, *validation(*parts))
