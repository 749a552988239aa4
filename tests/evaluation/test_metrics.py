"""Scores against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error, r2_score

from bci_decode.evaluation import metrics

RNG = np.random.default_rng(0)
TRUE = RNG.normal(3, 50, (400, 2))
DECODED = 0.6 * TRUE + RNG.normal(0, 30, (400, 2))


def test_against_other_software():
    np.testing.assert_allclose(
        metrics.r2(TRUE, DECODED), r2_score(TRUE, DECODED, multioutput="raw_values")
    )
    np.testing.assert_allclose(metrics.mse(TRUE, DECODED), mean_squared_error(TRUE, DECODED))
    np.testing.assert_allclose(
        metrics.cc(TRUE, DECODED), [pearsonr(TRUE[:, d], DECODED[:, d])[0] for d in (0, 1)]
    )
    np.testing.assert_allclose(
        metrics.rmse(TRUE, DECODED),
        np.sqrt(mean_squared_error(TRUE, DECODED, multioutput="raw_values")),
    )


def test_snr_of_known_r2():
    true = np.array([[-1.0], [1.0]])
    np.testing.assert_allclose(metrics.snr_db(true, 0.9 * true), [-10 * np.log10(0.01)])
    assert metrics.snr_db(true, true) == [np.inf]


def test_an_axis_that_never_moves_has_no_r2():
    true = np.stack([np.ones(5), np.arange(5.0)], axis=1)
    for score in (metrics.r2, metrics.cc, metrics.snr_db):
        assert np.isnan(score(true, true + 1)[0]) and not np.isnan(score(true, true + 1)[1])
    np.testing.assert_allclose(metrics.rmse(true, true + 1), [1, 1])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        metrics.r2(np.zeros(5), np.zeros((5, 1)))
    assert metrics.r2(np.arange(5.0), np.arange(5.0)).shape == (1,)
