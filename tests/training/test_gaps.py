"""Training and decoding by segments, and with unknown targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import made_data, made_decoder, made_trainer

from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Part, Window
from bci_decode.data.segments import scored_mask
from bci_decode.evaluation import metrics
from bci_decode.evaluation.decoding import decode_parts, predictor
from bci_decode.evaluation.filters import low_pass
from bci_decode.evaluation.intervals import block_sums, chance_level, r2_draws
from bci_decode.models.cascade import WienerCascade
from bci_decode.models.kalman import KalmanFilter
from bci_decode.models.wiener import WienerFilter
from bci_decode.training.closed_form import fit_closed_form
from bci_decode.training.windows import TrainingWindows

WINDOWS = {
    "sequence": Window("sequence", 20, 10, 3),
    "history": Window("history", 6, 1, 5),
    "step": Window("sequence", 10, 4, 3, step=2),
}
GAPS = {
    "train": [[0, 150], [170, 400]],
    "val": [[5, 100]],
    "test": [[0, 90], [95, 130], [131, 200]],
}
GARBAGE = 1e4  # a target that no weight may see


def with_gaps(data: Dataset, unknown=(30, 31, 32, 180)) -> Dataset:
    """The same with gaps in each part and unknown targets; counts in gaps are garbage."""
    parts = {}
    for name, part in data.parts.items():
        segments = np.array(GAPS[name])
        recorded = np.zeros(len(part), bool)
        for start, stop in segments:
            recorded[start:stop] = True
        counts, target = part.counts.copy(), part.target.copy()
        counts[~recorded], target[~recorded] = 1e6, np.nan
        target[[k for k in unknown if k < len(part)]] = np.nan
        scored = scored_mask(target, segments, data.window.burn_in)
        parts[name] = Part(part.time, counts, target, segments, scored)
    return dataclasses.replace(data, parts=parts)


@pytest.mark.parametrize("kind", list(WINDOWS))
def test_each_segment_is_decoded_as_a_stream_of_its_own(kind):
    data = dataclasses.replace(with_gaps(made_data(window=WINDOWS[kind])), low_pass=0.2)
    decoder = made_decoder()
    decode = predictor(decoder, data.window.history, data.window.step)
    for name, decoded in decode_parts(decoder, data).items():
        part = data.parts[name]
        for piece in part.pieces:
            alone = data.target_scaler.inverse(low_pass(decode(part.counts[piece]), 0.2))
            np.testing.assert_allclose(decoded[piece], alone, atol=1e-5)
        assert np.isfinite(decoded).all(axis=1).sum() == np.diff(part.segments).sum()
        true, burn_in = part.target, data.window.burn_in
        kept = np.concatenate(
            [np.arange(start + (burn_in if start else 0), stop) for start, stop in part.segments]
        )
        kept = kept[~np.isnan(true[kept, 0])]
        sse = ((true[kept] - decoded[kept]) ** 2).sum(axis=0)
        sst = ((true[kept] - true[kept].mean(axis=0)) ** 2).sum(axis=0)
        np.testing.assert_allclose(metrics.r2(part.truth, decoded), 1 - sse / sst)
        assert 0 < len(kept) < len(part)


def weighted(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error in which garbage weighs nothing."""
    weight = (target.abs() < GARBAGE / 100).float()
    return (weight * (outputs - target) ** 2).sum() / weight.sum()


@pytest.mark.parametrize("changes", [{}, {"noise": 0.1}])
def test_unknown_targets_weigh_nothing(tmp_path, changes):
    gone = np.random.default_rng(1).random(400) < 0.3

    def trained(value: float, folder: str) -> dict:
        data = made_data()
        train = data.parts["train"]
        target = np.where(gone[:, None], value, train.target)
        changed = dataclasses.replace(train, target=target)
        data = dataclasses.replace(data, parts=data.parts | {"train": changed})
        trainer = made_trainer(tmp_path / folder, data, epochs=2, **changes)
        if np.isfinite(value):
            assert not trainer.training.masked
            trainer.training.loss = weighted
        torch.manual_seed(3)
        history = trainer.fit()
        assert np.isfinite(history.drop(columns=["seconds"])).all(axis=None)
        return trainer.decoder.state_dict()

    unknown, filled = trained(np.nan, "unknown"), trained(GARBAGE * 20, "filled")
    for name, values in unknown.items():
        torch.testing.assert_close(values, filled[name], rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_known_target_has_no_gradient():
    windows = TrainingWindows(with_gaps(made_data()), torch.device("cpu"))
    outputs = torch.ones(2, 3, 2, requires_grad=True)
    loss = windows.loss(outputs, torch.full((2, 3, 2), torch.nan))
    loss.backward()
    assert float(loss.detach()) == 0.0 and not outputs.grad.any()


def test_windows_of_other_grids_stay_in_their_segment():
    data = with_gaps(made_data(window=Window("sequence", 20, 7, 3)), unknown=())
    train = data.parts["train"]
    segments = np.array([[0, 150], [170, 190], [200, 400]])  # the second one is a single window
    train = dataclasses.replace(train, segments=segments)
    # of a grid that begins later, the last bin of a segment reaches into the gap
    later = Part(
        train.time[:-1], train.counts[:-1], train.target[:-1], segments - np.array([[0, 1]])
    )
    data = dataclasses.replace(data, parts=data.parts | {"train": train}, shifted=(later, later))
    windows = TrainingWindows(data, torch.device("cpu"))
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        for bins in windows.order(True, generator).numpy():
            grid = 0 if bins[0] < 400 else 1 + (bins[0] - 400) // 399
            first = bins - (0 if grid == 0 else 400 + 399 * (grid - 1))
            inside = segments if grid == 0 else later.segments
            assert any(start <= first[0] and first[-1] < stop for start, stop in inside)
            seen.add((int(grid), int(first[0])))
    assert {grid for grid, first in seen if first < 150} == {0, 1, 2}
    assert {grid for grid, first in seen if 150 <= first < 200} == {0}


MODELS = {
    "wiener": lambda: WienerFilter(4),
    "one penalty": lambda: WienerFilter(4, alpha=10.0),
    "cascade": lambda: WienerCascade(4),
    "kalman": KalmanFilter,
    "lag": lambda: KalmanFilter(lag=1),
    "velocity": lambda: KalmanFilter(["velocity"], steady_state=False),
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_closed_form_models_neither_see_gaps_nor_unknown_targets(kind):
    data = with_gaps(made_data())
    model = MODELS[kind]()
    history = fit_closed_form(model, data)
    assert history["test_r2"].item() > (-0.1 if kind == "lag" else 0.5)
    filled = {}
    for name, part in data.parts.items():  # other garbage in the gaps changes nothing
        counts = part.counts.copy()
        counts[counts > 1e5] = -7.0
        filled[name] = dataclasses.replace(part, counts=counts)
    again = MODELS[kind]()
    fit_closed_form(again, dataclasses.replace(data, parts=filled))
    for name, values in model.fitted_arrays().items():
        np.testing.assert_array_equal(values, again.fitted_arrays()[name])


def test_the_wiener_filter_equals_ridge_regression_on_the_known_rows():
    data = with_gaps(made_data())
    train, history, alpha = data.parts["train"], 3, 25.0
    y = data.target_scaler.transform(train.target)
    model = WienerFilter(history, alpha=alpha).fit(train.counts, y, segments=train.segments)
    seen = np.concatenate([train.counts[piece] for piece in train.pieces]).astype(np.float64)
    rows, targets = [], []
    for piece in train.pieces:
        z = (train.counts[piece] - seen.mean(axis=0)) / seen.std(axis=0)
        padded = np.vstack([np.zeros((history - 1, 5)), z])
        rows += [padded[k : k + history].ravel() for k in range(len(z))]
        targets += list(y[piece])
    X, Y = np.array(rows), np.array(targets)
    known = ~np.isnan(Y[:, 0])
    X, Y = X[known], Y[known]
    X0, Y0 = X - X.mean(axis=0), Y - Y.mean(axis=0)
    weights = np.linalg.solve(X0.T @ X0 + alpha * np.eye(X.shape[1]), X0.T @ Y0)
    coef = model.coef_.reshape(2, 5, history).transpose(0, 2, 1).reshape(2, -1).T
    np.testing.assert_allclose(coef, weights, rtol=1e-3, atol=1e-5)


def test_the_transitions_of_the_kalman_filter_lie_within_stretches():
    data = with_gaps(made_data())
    train = data.parts["train"]
    y = data.target_scaler.transform(train.target)
    model = KalmanFilter(["velocity"]).fit(train.counts, y, segments=train.segments)
    known = ~np.isnan(y[:, 0])
    pairs = [k for k in range(399) if known[k] and known[k + 1]]
    z = (y - y[known].mean(axis=0)) / y[known].std(axis=0)
    expected = np.linalg.lstsq(z[pairs], z[[k + 1 for k in pairs]], rcond=None)[0].T
    np.testing.assert_allclose(model.transition_, expected, atol=1e-6)


def test_scores_and_intervals_leave_unknown_bins_out():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(600, 2))
    decoded = true + 0.5 * rng.normal(size=(600, 2))
    known = np.ones(600, bool)
    known[40:200] = False
    masked = np.where(known[:, None], true, np.nan)
    gap = np.where(known[:, None], decoded, np.nan)
    for score in (metrics.r2, metrics.cc, metrics.rmse, metrics.snr_db, metrics.mse):
        np.testing.assert_allclose(score(masked, gap), score(true[known], decoded[known]))
    sums = block_sums(masked, gap, 20)
    assert len(sums) == 22 and sums.bins.tolist() == [20.0] * 22, "whole blocks are missing"
    np.testing.assert_allclose(sums.r2(np.ones((1, 22)))[0], metrics.r2(masked, gap))
    assert np.isfinite(r2_draws(masked, gap, 0.1)).all()
    assert chance_level(masked, gap) == chance_level(true[known], decoded[known])
    lost = decoded.copy()
    lost[300] = np.nan
    assert np.isnan(metrics.mse(masked, lost)), "a decoder that fails is no gap"
    with pytest.raises(ValueError, match="a bin whose true value is known"):
        metrics.r2(np.full((3, 2), np.nan), np.ones((3, 2)))
