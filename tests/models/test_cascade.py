"""The Wiener cascade against scikit-learn's polynomial regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from bci_decode.errors import BciDecodeError
from bci_decode.models.cascade import WienerCascade
from bci_decode.models.wiener import WienerFilter


def toy(bins: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Counts, and kinematics that saturate where many spikes come together."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (bins, 5)).astype(float)
    linear = (counts - 3) @ rng.normal(size=(5, 2))
    return counts, 10 * np.tanh(linear / 3) + 4 + 0.1 * rng.normal(size=(bins, 2))


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_equals_scikit_learns_polynomial_of_the_linear_output(degree):
    counts, y = toy()
    linear = WienerFilter(history=3, alpha=10.0).fit(counts, y).predict(counts)
    decoded = WienerCascade(history=3, alpha=10.0, degree=degree).fit(counts, y).predict(counts)
    for axis in range(2):
        inputs = linear[:, [axis]]
        polynomial = make_pipeline(PolynomialFeatures(degree), LinearRegression())
        expected = polynomial.fit(inputs, y[:, axis]).predict(inputs)
        np.testing.assert_allclose(decoded[:, axis], expected, rtol=0, atol=1e-6)


def test_explains_a_nonlinearity_that_the_filter_cannot():
    counts, y = toy()
    learn, test = slice(0, 400), slice(400, 600)
    linear, cascade = (
        r2_score(y[test], kind(history=3).fit(counts[learn], y[learn]).predict(counts[test]))
        for kind in (WienerFilter, WienerCascade)
    )
    assert cascade > linear + 0.03


def test_selects_the_penalty_as_the_filter_does():
    counts, y = toy()
    parts = counts[:400], y[:400], counts[400:], y[400:]
    assert WienerCascade().fit(*parts).alpha_ == WienerFilter().fit(*parts).alpha_


def test_outputs_beyond_the_range_in_training_are_held():
    counts, y = toy()
    model = WienerCascade(history=1, alpha=1.0, degree=3).fit(counts, y)
    wild = 10.0 ** np.arange(1, 7)[:, None] * np.linspace(-1, 1, 5)
    assert np.abs(model.predict(wild)).max() <= 1.5 * np.abs(y).max()
    np.testing.assert_allclose(model.predict(wild)[-1], model.predict(wild)[-2])


def test_an_axis_that_never_moves_is_its_constant():
    counts, y = toy()
    y[:, 1] = 7.0
    np.testing.assert_allclose(WienerCascade().fit(counts, y).predict(counts)[:, 1], 7.0)


@pytest.mark.parametrize("degree", [0, 10, 2.5])
def test_a_wrong_degree(degree):
    with pytest.raises(BciDecodeError, match=f"model.degree: is {degree}; choose a whole number"):
        WienerCascade(degree=degree).fit(*toy())
