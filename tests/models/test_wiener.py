"""The Wiener filter on a relation that it must find exactly."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone

from bci_decode.models.wiener import WienerFilter


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


def test_knows_no_later_bin():
    rng = np.random.default_rng(0)
    counts, y = rng.poisson(3, (200, 4)), rng.normal(size=(200, 2))
    model = WienerFilter(history=5).fit(counts, y)
    changed = counts.copy()
    changed[120:] = 50
    np.testing.assert_array_equal(model.predict(counts)[:120], model.predict(changed)[:120])


def test_scikit_learns_contract():
    model = clone(WienerFilter(history=7, alpha=3.0))
    assert model.get_params() == {"history": 7, "alpha": 3.0}
    rng = np.random.default_rng(0)
    counts, y = rng.poisson(3, (200, 4)), rng.normal(size=(200, 2))
    assert model.fit(counts, y) is model
    assert model.predict(counts).shape == (200, 2)
    assert np.isfinite(model.score(counts, y))
