"""Intervals of R2 and the chance level, against a bootstrap that repeats the blocks themselves."""

from __future__ import annotations

import numpy as np
import pytest

from bci_decode.evaluation.intervals import (
    MIN_BLOCKS,
    block_length,
    block_sums,
    chance_level,
    interval,
    r2_draws,
    r2_intervals,
    resample_counts,
)

WIDTH = 0.1  # s: blocks of 20 bins


def smooth(rng, bins: int, axes: int = 2) -> np.ndarray:
    """Noise whose neighboring bins resemble each other over about ten bins."""
    noise = rng.normal(size=(bins + 40, axes))
    kernel = np.exp(-np.arange(40) / 5)
    return np.stack([np.convolve(column, kernel)[40 : 40 + bins] for column in noise.T], axis=1)


def made(bins=790, seed=0, error=0.5):
    rng = np.random.default_rng(seed)
    true = 100 + 50 * smooth(rng, bins)
    return true, true + error * 50 * smooth(rng, bins)


def naive_r2(true, decoded):
    """R2 by its definition, with the mean of just these bins."""
    sse = sum((t - d) ** 2 for t, d in zip(true, decoded, strict=True))
    mean = sum(true) / len(true)
    return 1 - sse / sum((t - mean) ** 2 for t in true)


def naive_draws(true, decoded, counts, block):
    """The bins of each drawn block, put together, scored one axis at a time."""
    blocks = [slice(start, start + block) for start in range(0, len(true), block)]
    rows = []
    for drawn in counts:
        bins = np.concatenate(
            [np.arange(len(true))[part] for part, n in zip(blocks, drawn, strict=True)
             for _ in range(int(n))]
        )  # fmt: skip
        scores = [naive_r2(true[bins, axis].tolist(), decoded[bins, axis].tolist())
                  for axis in range(true.shape[1])]  # fmt: skip
        rows.append([sum(scores) / len(scores), *scores])
    return np.array(rows)


def test_resampled_sums_are_the_r2_of_resampled_bins():
    """The last block is shorter, and the target lies far from 0."""
    true, decoded = made()
    assert len(true) % block_length(WIDTH) == 10
    counts = resample_counts(len(block_sums(true, decoded, 20)), 25, seed=3)
    assert (counts.sum(axis=1) == 40).all()
    found = r2_draws(true, decoded, WIDTH, 25, seed=3)
    np.testing.assert_allclose(found, naive_draws(true, decoded, counts, 20), rtol=1e-9)


def test_one_of_each_block_is_the_score_itself():
    true, decoded = made()
    sums = block_sums(true, decoded, 20)
    expected = [naive_r2(true[:, axis], decoded[:, axis]) for axis in (0, 1)]
    np.testing.assert_allclose(sums.r2(np.ones((1, len(sums))))[0], expected, rtol=1e-12)


def test_intervals_as_metrics_hold_them():
    true, decoded = made(seed=1)
    found = r2_intervals(true, decoded, WIDTH)
    draws = r2_draws(true, decoded, WIDTH)
    assert found["resamples"] == len(draws) == 1000 and found["block_s"] == 2.0
    for name, column in zip(("r2", "r2_x", "r2_y"), draws.T, strict=True):
        ordered = np.sort(column)
        # percentiles 2.5 and 97.5 of 1000 values lie between these
        assert ordered[24] <= found[name][0] <= ordered[25]
        assert ordered[974] <= found[name][1] <= ordered[975]
    assert found == r2_intervals(true, decoded, WIDTH)  # seeded
    names = r2_intervals(true[:, :1], decoded[:, :1], WIDTH, axes=("x",))
    assert names["r2"] == names["r2_x"] and "r2_y" not in names


def test_the_interval_covers_the_true_r2_about_as_often_as_it_says():
    """Targets of variance 1 and errors of variance .25, both correlated in time: R2 is .75."""
    inside, trials = 0, 200
    for trial in range(trials):
        rng = np.random.default_rng(1000 + trial)
        true = smooth(rng, 2000, 1)
        decoded = true + 0.5 * smooth(rng, 2000, 1)
        low, high = r2_intervals(true, decoded, WIDTH, axes=("x",))["r2"]
        inside += low <= 0.75 <= high
    # percentile intervals of 100 blocks fall a little short of 95 %
    assert 0.88 <= inside / trials <= 0.98


def test_single_bins_as_blocks_would_be_too_sure():
    true, decoded = made(bins=2000)
    counts = resample_counts(2000, 300)
    bins = interval(block_sums(true, decoded, 1).r2(counts)[:, 0])
    blocks = interval(r2_draws(true, decoded, WIDTH)[:, 1])
    assert blocks[1] - blocks[0] > 1.3 * (bins[1] - bins[0])


def test_paired_differences_are_narrower_than_those_of_other_draws():
    true, decoded = made()
    worse = decoded + 2 * smooth(np.random.default_rng(5), len(true))
    a, b, other = (
        r2_draws(true, one, WIDTH, seed=seed)[:, 0]
        for one, seed in ((decoded, 0), (worse, 0), (worse, 1))
    )
    assert np.ptp(interval(a - b)) < 0.5 * np.ptp(interval(a - other))


def test_too_few_blocks_and_still_axes_have_no_interval():
    true, decoded = made(bins=20 * (MIN_BLOCKS - 1))
    assert r2_draws(true, decoded, WIDTH) is None
    assert r2_intervals(true, decoded, WIDTH)["r2"] is None
    true, decoded = made()
    true[:, 1] = 3.0
    found = r2_intervals(true, decoded, WIDTH)
    assert found["r2_x"] is not None and found["r2_y"] is None and found["r2"] is None
    assert chance_level(true, decoded)["r2_y"] is None


def test_chance_is_the_score_of_shifted_targets():
    true, decoded = made(bins=1000)
    found = chance_level(true, decoded)
    shifts = found["shifts"]
    assert len(shifts) == 20 and shifts[0] == 100 and shifts[-1] == 900
    assert np.ptp(np.diff(shifts)) <= 1
    scores = []
    for shift in shifts:
        moved = np.concatenate([true[-shift:], true[:-shift]])
        scores.append([naive_r2(moved[:, axis], decoded[:, axis]) for axis in (0, 1)])
    assert found["r2_x"]["mean"] == pytest.approx(np.mean(scores, axis=0)[0])
    assert found["r2"]["mean"] == pytest.approx(np.mean(scores))
    low, high = found["r2"]["range"]
    assert np.min(np.mean(scores, axis=1)) < low < high < np.max(np.mean(scores, axis=1))
    # a good decoder is far above it, a constant one is at 0
    assert found["r2"]["range"][1] < r2_intervals(true, decoded, WIDTH)["r2"][0]
    constant = np.broadcast_to(true.mean(0), true.shape)
    assert chance_level(true, constant)["r2"]["mean"] == pytest.approx(0, abs=1e-12)
