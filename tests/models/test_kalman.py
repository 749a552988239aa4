"""The Kalman filter against statsmodels, SciPy's Riccati solver and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are
from scipy.signal import lfilter
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter as StatsmodelsFilter

from bci_decode.errors import BciDecodeError
from bci_decode.models.kalman import KINEMATICS, KalmanFilter, kinematic_traces
from bci_decode.models.riccati import gains, steady_state_covariance

VELOCITY = ("velocity",)


def toy(bins: int = 500, units: int = 9, memory: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """A velocity that changes at random, and counts of units that prefer directions."""
    rng = np.random.default_rng(1)
    drive = np.sqrt(1 - memory**2)
    velocity = lfilter([drive], [1, -memory], rng.normal(size=(bins, 2)), axis=0)
    angle = 2 * np.pi * np.arange(units) / units
    rates = 3 + 1.2 * velocity @ np.stack([np.cos(angle), np.sin(angle)])
    return rng.poisson(rates.clip(min=0.1)).astype(float), 30 * velocity - 8


def by_the_book(counts: np.ndarray, y: np.ndarray, state=KINEMATICS, shrinkage=0.0) -> dict:
    """Wu et al. 2006, equations 3 to 6, by scikit-learn: the matrices of the model.

    y is a velocity. The state is standardized, as numbers of different sizes are hard to compare.
    """
    position = np.cumsum(y - y.mean(axis=0), axis=0)
    acceleration = np.diff(y, axis=0, prepend=np.nan)
    traces = dict(zip(KINEMATICS, (position, y, acceleration), strict=True))
    first = int("acceleration" in state)  # not known before
    x, z = np.hstack([traces[name] for name in state])[first:], counts[first:]
    mean, std = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / std
    a = LinearRegression(fit_intercept=False).fit(x[:-1], x[1:])
    h = LinearRegression().fit(x, z)
    w, q = x[1:] - a.predict(x[:-1]), z - h.predict(x)
    q = q.T @ q / len(q)
    return {
        "A": a.coef_, "W": w.T @ w / len(w), "H": h.coef_, "b": h.intercept_,
        "Q": (1 - shrinkage) * q + shrinkage * np.diag(np.diag(q)),
        "P": np.cov(x.T, bias=True), "mean": mean, "std": std,
    }  # fmt: skip


def statsmodels_states(book: dict, counts: np.ndarray) -> np.ndarray:
    """The filtered states (T, S) in their own units, by statsmodels."""
    size = len(book["A"])
    reference = StatsmodelsFilter(
        k_endog=counts.shape[1],
        k_states=size,
        design=book["H"],
        obs_intercept=book["b"][:, None],
        obs_cov=book["Q"],
        transition=book["A"],
        selection=np.eye(size),
        state_cov=book["W"],
        tolerance=0,  # never a steady state
    )
    reference.bind(counts)
    reference.initialize_known(np.zeros(size), book["P"])
    return reference.filter().filtered_state.T * book["std"] + book["mean"]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
@pytest.mark.parametrize(("state", "output"), [(KINEMATICS, slice(2, 4)), (VELOCITY, slice(0, 2))])
def test_equals_statsmodels(state, output, shrinkage):
    counts, y = toy(800)
    learn, test = slice(0, 500), slice(500, None)
    book = by_the_book(counts[learn], y[learn], state, shrinkage)
    expected = statsmodels_states(book, counts[test])[:, output]
    model = KalmanFilter(state, steady_state=False, shrinkage=shrinkage)
    decoded = model.fit(counts[learn], y[learn]).predict(counts[test])
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-6)
    assert r2_score(y[test], expected) > 0.6


def test_the_steady_state_is_what_statsmodels_comes_to():
    counts, y = toy(800)
    book = by_the_book(counts, y, VELOCITY)
    expected = statsmodels_states(book, counts)
    decoded = KalmanFilter(VELOCITY).fit(counts, y).predict(counts)
    np.testing.assert_allclose(decoded[100:], expected[100:], rtol=0, atol=1e-6)
    assert np.abs(decoded[0] - expected[0]).max() > 1e-3


def test_the_steady_state_solves_the_riccati_equation():
    counts, y = toy()
    book = by_the_book(counts, y)
    expected = solve_discrete_are(book["A"].T, book["H"].T, book["W"], book["Q"])
    model = KalmanFilter().fit(counts, y)
    dynamics = model.transition_, model.transition_noise_, model.information_
    found = steady_state_covariance(*dynamics)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    gain = expected @ book["H"].T @ np.linalg.inv(book["H"] @ expected @ book["H"].T + book["Q"])
    np.testing.assert_allclose(model.gain_ @ model.readout_, gain, rtol=0, atol=1e-9)
    forgets = (np.eye(6) - gain @ book["H"]) @ book["A"]
    radius = np.abs(np.linalg.eigvals(forgets)).max()
    assert model.spectral_radius_ == pytest.approx(radius, abs=1e-9) and 0 < radius < 1
    noise = np.linalg.svd(model.transition_noise_, compute_uv=False)
    assert noise[2] < 1e-3 * noise[1]  # two axes of velocity drive all six numbers
    changing = gains(*dynamics, model.prior_covariance_, 5000)
    assert 2 < len(changing) < 5000
    np.testing.assert_allclose(changing[-1], model.gain_, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steady", [True, False])
def test_starts_from_its_prior_and_knows_no_truth(steady):
    """The first output is what the counts of one bin say, whatever was before them."""
    counts, y = toy()
    model = KalmanFilter(VELOCITY, steady_state=steady, lag=3).fit(counts, y)
    decoded = model.predict(counts[100:])
    np.testing.assert_allclose(decoded[:3], np.tile(y[3:].mean(axis=0), (3, 1)), atol=1e-9)
    for bins in (2, 4):
        alone = model.predict(counts[100 : 100 + bins])
        np.testing.assert_allclose(alone, decoded[:bins], rtol=1e-12)


def test_a_lag_pairs_counts_with_a_later_state():
    counts, y = toy(1500, memory=0.5)
    late = np.roll(y, 2, axis=0)
    learn, test = slice(0, 1000), slice(1000, None)
    scores = [
        KalmanFilter(VELOCITY, lag=lag)
        .fit(counts[learn], late[learn])
        .score(counts[test], late[test])
        for lag in range(5)
    ]
    assert int(np.argmax(scores)) == 2
    shifted = KalmanFilter(VELOCITY).fit(counts[:-2], late[2:]).predict(counts[:-2])
    decoded = KalmanFilter(VELOCITY, lag=2).fit(counts, late).predict(counts)
    np.testing.assert_allclose(decoded[2:], shifted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("state", [KINEMATICS, VELOCITY])
def test_a_long_stream_stays_bounded(state):
    counts, y = toy()
    model = KalmanFilter(state).fit(counts, y)
    stream = np.tile(counts, (60, 1))
    stream[:10000] = counts.max(axis=0)  # twenty times as long as training, all units at their most
    decoded = model.predict(stream)
    assert np.abs(decoded).max() < 20 * np.abs(y).max()
    # and the wild beginning is forgotten
    calm = model.predict(np.tile(counts, (60, 1)))
    np.testing.assert_allclose(decoded[-500:], calm[-500:], atol=1e-3)


@pytest.mark.parametrize("target", KINEMATICS)
def test_traces_of_a_smooth_movement(target):
    """From each of the three, the other two are found, up to a constant and a drift."""
    t = np.arange(2000)
    period = 2 * np.pi / 200  # a whole number of periods has no drift
    wave = np.stack([np.sin(period * t), np.cos(period * t)], axis=1)
    slope = np.stack([np.cos(period * t), -np.sin(period * t)], axis=1)
    true = {"position": wave, "velocity": period * slope, "acceleration": -(period**2) * wave}
    traces = kinematic_traces(true[target], target)
    assert sorted(traces) == sorted(KINEMATICS)
    first = len(KINEMATICS) - 1 - KINEMATICS.index(target)  # when all differences are known
    for name, trace in traces.items():
        error = (trace - trace.mean(axis=0) - true[name])[first:]
        assert np.abs(error).max() < 0.05 * np.abs(true[name]).max()


@pytest.mark.parametrize("target", KINEMATICS)
def test_decodes_each_target(target):
    counts, velocity = toy(1500)
    position = np.cumsum(velocity + 8, axis=0)
    acceleration = np.diff(velocity, axis=0, prepend=velocity[:1])
    y = dict(zip(KINEMATICS, (position, velocity, acceleration), strict=True))[target]
    learn = slice(0, 1000)
    model = KalmanFilter(target=target).fit(counts[learn], y[learn])
    # a position that is only told by its velocity is not found by spikes
    assert model.score(counts[learn], y[learn]) > {"velocity": 0.6}.get(target, 0.05)


def test_a_unit_that_never_fires_in_training_is_left_out():
    counts, y = toy()
    expected = KalmanFilter().fit(counts, y).predict(counts)
    silent = np.insert(counts, 4, 0.0, axis=1)
    model = KalmanFilter().fit(silent, y)
    silent[:, 4] = 5.0  # it fires later
    np.testing.assert_allclose(model.predict(silent), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("state", [KINEMATICS, VELOCITY])
def test_no_unit_fires_in_training(state):
    counts, y = toy()
    model = KalmanFilter(state).fit(0 * counts, y)
    np.testing.assert_allclose(model.predict(counts), np.tile(y.mean(axis=0), (500, 1)), atol=0.5)


def with_copy(counts: np.ndarray) -> np.ndarray:
    return np.column_stack([counts, counts[:, 2]])


@pytest.mark.parametrize(
    ("spoil", "columns"),
    [
        (with_copy, "columns 2, 9 "),
        (lambda counts: np.column_stack([counts, counts[:, 5] + counts[:, 7]]), "columns 5, 7, 9 "),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_singular_covariance_names_the_units_and_the_remedy(spoil, columns, dtype):
    counts, y = toy()
    counts = spoil(counts).astype(dtype)
    line = f"model.shrinkage: the covariance of the counts is singular: units in {columns}.*"
    with pytest.raises(BciDecodeError, match=line + "linearly dependent; set it to 0.1"):
        KalmanFilter().fit(counts, y)
    model = KalmanFilter(shrinkage=0.1).fit(counts, y)
    assert model.score(counts, y) > 0.5


def test_more_units_than_bins():
    counts, y = toy(40, units=60)
    with pytest.raises(BciDecodeError, match="model.shrinkage: .* 60 units need more than 39 bins"):
        KalmanFilter().fit(counts, y)
    assert np.isfinite(KalmanFilter(shrinkage=0.1).fit(counts, y).predict(counts)).all()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"state": []}, "model.state: is empty; choose from position, velocity, acceleration"),
        ({"state": ["speed"]}, "model.state: is speed; choose from"),
        ({"state": ["velocity", "velocity"]}, "model.state: is velocity, velocity; choose from"),
        (
            {"target": "position", "state": VELOCITY},
            r"model.state: lacks position, the target; choose data.target=velocity, or "
            r"model.state=\[position\]",
        ),
        ({"lag": -1}, "model.lag: is -1; choose a number of bins, 0 or more"),
        ({"lag": 1.5}, "model.lag: is 1.5"),
        ({"shrinkage": 1.1}, "model.shrinkage: is 1.1; choose 0 to 1"),
    ],
)
def test_wrong_settings(settings, line):
    with pytest.raises(BciDecodeError, match=line):
        KalmanFilter(**settings).fit(*toy())


def test_a_lag_longer_than_the_stream():
    counts, y = toy(20)
    with pytest.raises(BciDecodeError, match=r"model.lag: is 18, for which 20 bins .* too few"):
        KalmanFilter(lag=18).fit(counts, y)
    model = KalmanFilter(VELOCITY, lag=4).fit(*toy())
    assert model.predict(counts[:3]).shape == (3, 2)
