"""The Wiener filter against scikit-learn's ridge regression on the stacked matrix, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from bci_decode.errors import BciDecodeError
from bci_decode.models import ridge as ridge_module
from bci_decode.models.ridge import StackedHistory, ridge_path
from bci_decode.models.wiener import ALPHAS, WienerFilter


def stacked(counts: np.ndarray, history: int) -> np.ndarray:
    """(T, N) -> (T, history N): each bin beside those before it, the oldest first per unit."""
    padded = np.concatenate([np.zeros((history - 1, counts.shape[1])), counts])
    windows = np.lib.stride_tricks.sliding_window_view(padded, history, axis=0)
    return windows.reshape(len(counts), -1)


def zscored(counts: np.ndarray, like: np.ndarray) -> np.ndarray:
    std = like.std(axis=0)
    return (counts - like.mean(axis=0)) / np.where(std > 0, std, 1)


def toy(
    bins: int, units: int = 6, axes: int = 2, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of units that share slow rates, and kinematics that depend on their past."""
    rng = np.random.default_rng(bins + units)
    slow = np.cumsum(rng.normal(size=(bins, 3)), axis=0) / np.sqrt(bins)
    counts = rng.poisson(np.exp(slow @ rng.normal(size=(3, units))).clip(max=30)).astype(float)
    y = stacked(counts, 3) @ rng.normal(size=(3 * units, axes))
    y += noise * rng.normal(size=(bins, axes))
    return counts, y


@pytest.mark.parametrize(("bins", "units"), [(400, 6), (40, 20), (5, 2)])
@pytest.mark.parametrize("alpha", [0.01, 30.0, 3e4])
def test_equals_scikit_learns_ridge(bins, units, alpha):
    """With more bins than inputs, with fewer, and with fewer than the history is long."""
    counts, y = toy(bins, units)
    x = stacked(zscored(counts, counts), 7)
    expected = Ridge(alpha=alpha).fit(x, y)
    model = WienerFilter(history=7, alpha=alpha).fit(counts, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.predict(counts), expected.predict(x), rtol=0, atol=1e-7)


def test_equals_scikit_learns_ridge_in_single_precision():
    counts, y = toy(3000, 40)
    x = stacked(zscored(counts, counts), 10)
    expected = Ridge(alpha=300.0).fit(x, y).predict(x)
    single = counts.astype(np.float32)
    decoded = WienerFilter(alpha=300.0).fit(single, y).predict(single)
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-4 * y.std())


@pytest.mark.parametrize("copies", [1, 3])
def test_one_pass_solves_for_all_penalties(copies):
    """Also where inputs are copies of each other, and where an axis never moves."""
    counts, y = toy(300)
    counts, y = np.tile(zscored(counts, counts), copies), np.column_stack([y, np.full(300, 4.0)])
    weights, intercepts = ridge_path(StackedHistory(counts, 4), y, ALPHAS)
    for alpha, weight, intercept in zip(ALPHAS, weights, intercepts, strict=True):
        expected = Ridge(alpha=alpha).fit(stacked(counts, 4), y)
        mine = weight[::-1].transpose(2, 1, 0).reshape(3, -1)
        np.testing.assert_allclose(mine, expected.coef_, rtol=0, atol=1e-8)
        np.testing.assert_allclose(intercept, expected.intercept_, rtol=0, atol=1e-8)


def test_memory_for_the_basis_grows_with_the_steps(monkeypatch):
    counts, y = toy(200)
    expected = WienerFilter(alpha=1e-3).fit(counts, y).coef_
    monkeypatch.setattr(ridge_module, "GROWTH", 2)
    np.testing.assert_array_equal(WienerFilter(alpha=1e-3).fit(counts, y).coef_, expected)


def test_products_with_the_stacked_matrix():
    rng = np.random.default_rng(0)
    counts, values = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    matrix = stacked(counts, 4).reshape(9, 3, 4)[:, :, ::-1]  # bins, units, lags
    weights = rng.normal(size=(4, 3, 2))
    product = np.einsum("tnl,lnk->tk", matrix, weights)
    np.testing.assert_allclose(StackedHistory(counts, 4).times(weights), product)
    transposed = np.einsum("tnl,tk->lnk", matrix, values)
    np.testing.assert_allclose(StackedHistory(counts, 4).transposed_times(values), transposed)


def test_the_penalty_is_the_best_on_the_validation_part():
    counts, y = toy(600, units=20, noise=15.0)
    learn, val = slice(0, 100), slice(100, 600)
    model = WienerFilter().fit(counts[learn], y[learn], counts[val], y[val])
    alone = [WienerFilter(alpha=alpha).fit(counts[learn], y[learn]) for alpha in ALPHAS]
    errors = [
        ((one.predict(counts[val]) - y[val]) ** 2 / y[learn].var(axis=0)).mean() for one in alone
    ]
    best = int(np.argmin(errors))
    assert 0 < best < len(ALPHAS) - 1  # otherwise any penalty would do
    assert model.alpha_ == ALPHAS[best]
    assert model.choices() == {"alpha": ALPHAS[best]} and alone[best].choices() == {}
    # the weights are those of the training part
    np.testing.assert_allclose(model.coef_, alone[best].coef_, atol=1e-7)


def test_without_a_validation_part_the_last_tenth_selects_and_then_all_bins_fit():
    counts, y = toy(200, units=20, noise=15.0)
    model = WienerFilter().fit(counts, y)
    selected = WienerFilter().fit(counts[:180], y[:180], counts[180:], y[180:])
    assert model.alpha_ == selected.alpha_
    whole = WienerFilter(alpha=model.alpha_).fit(counts, y)
    np.testing.assert_allclose(model.coef_, whole.coef_, atol=1e-7)
    assert np.abs(model.coef_ - selected.coef_).max() > 1e-3


def test_a_single_penalty_needs_no_bins_to_choose_on():
    counts, y = toy(200)
    single, given = WienerFilter(alphas=(5.0,)), WienerFilter(alpha=5.0)
    for model in (single.fit(counts, y), given.fit(counts, y, counts[:50], 9 * y[:50])):
        assert model.alpha_ == 5
        expected = Ridge(alpha=5.0).fit(stacked(zscored(counts, counts), 10), y).coef_
        np.testing.assert_allclose(model.coef_, expected, atol=1e-7)


def test_finds_a_linear_relation_with_the_past():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (2000, 4))
    y = np.stack([2.0 * counts[:, 0] + 5, counts[:, 1] - 0.5 * counts[:, 3]], axis=1)
    y[2:, 0] += 3.0 * counts[:-2, 2]  # two bins back
    model = WienerFilter(history=3, alpha=1e-6).fit(counts[:1500], y[:1500])
    # the first two bins had no past
    np.testing.assert_allclose(model.predict(counts[1500:])[2:], y[1502:], atol=0.2)
    too_short = WienerFilter(history=2, alpha=1e-6).fit(counts[:1500], y[:1500])
    assert np.abs(too_short.predict(counts[1500:])[2:] - y[1502:]).max() > 1


def test_a_unit_that_never_fires_in_training_changes_nothing():
    counts, y = toy(300)
    silent = np.insert(counts, 2, 0.0, axis=1)
    model = WienerFilter().fit(silent[:200], y[:200])
    expected = WienerFilter().fit(counts[:200], y[:200]).predict(counts[200:])
    silent[200:, 2] = 7.0  # it fires later
    np.testing.assert_allclose(model.predict(silent[200:]), expected, rtol=0, atol=1e-8)
    assert r2_score(y[200:], expected) > 0.5


def test_settings_of_scikit_learns_contract():
    model = clone(WienerFilter(history=7, alpha=3.0))
    assert model.get_params() == {"history": 7, "alpha": 3.0, "alphas": ALPHAS}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"alpha": -1.0}, "model.alpha: is -1; choose a number of 0 or more"),
        ({"alphas": [1.0, float("nan")]}, "model.alphas: is nan; choose"),
        ({"alphas": []}, "model.alphas: is empty; give a penalty"),
        ({"history": 0}, "model.history: is 0; choose a whole number from 1"),
        ({"history": 2.5}, "model.history: is 2.5; choose a whole number from 1"),
    ],
)
def test_wrong_settings(settings, line):
    with pytest.raises(BciDecodeError, match=line):
        WienerFilter(**settings).fit(*toy(50))


def test_takes_over_what_scikit_learns_ridge_learned():
    """Checkpoints of earlier versions hold its weights."""
    counts, y = toy(200)
    ridge = Ridge(alpha=5.0).fit(stacked(zscored(counts, counts), 4), y)
    model = WienerFilter(history=4, alpha=5.0)
    scaling = {"mean_": counts.mean(axis=0), "std_": counts.std(axis=0)}
    model.restore(scaling | {"coef_": ridge.coef_, "intercept_": ridge.intercept_})
    expected = WienerFilter(history=4, alpha=5.0).fit(counts, y).predict(counts)
    np.testing.assert_allclose(model.predict(counts), expected, rtol=0, atol=1e-7)
