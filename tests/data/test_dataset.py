"""Splits, scaling, windows: expected tables written out, and nothing of the test part leaks."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest

from bci_decode.config import DataConfig, ScaleConfig, SplitConfig, WindowConfig
from bci_decode.data.binning import BinnedSession
from bci_decode.data.dataset import prepare
from bci_decode.data.parts import Scaler, Window
from bci_decode.data.split import split_in_time
from bci_decode.errors import BciDecodeError


def config(**changes) -> DataConfig:
    base = {
        "bin_width": 0.1,
        "lag": 0.0,
        "target": "velocity",
        "source": "finger_pos",
        "units": "all",
        "area": "all",
        "min_rate": 0.0,
        "split": SplitConfig(None, 0.6, 0.2, 0.0),
        "scale": ScaleConfig("zscore", "zscore"),
        "window": WindowConfig("history", 4, 1, 0),
    }
    return DataConfig(**base | changes)


def binned(bins=100, units=3, seed=0) -> BinnedSession:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"channel": [f"M1 {i:03d}" for i in range(units)], "area": "M1", "row": 0})
    edges = 50 + 0.1 * np.arange(bins + 1)
    return BinnedSession(
        "made",
        edges,
        rng.poisson(2, (bins, units)).astype(np.uint8),
        table,
        rng.normal(0, 50, (bins, 2)),
        "velocity",
        0.1,
        0.0,
    )


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ((None, 0.6, 0.2, 0.0), {"train": (0, 60), "val": (60, 80), "test": (80, 100)}),
        ((None, 0.6, 0.2, 0.25), {"train": (0, 60), "val": (63, 80), "test": (83, 100)}),
        ((None, 0.7, 0.0, 0.3), {"train": (0, 70), "test": (73, 100)}),
        ((80, 0.0, 0.0, 0.0), {"train": (0, 80), "test": (80, 100)}),
        ((80, 0.0, 0.1, 0.0), {"train": (0, 72), "val": (72, 80), "test": (80, 100)}),
        ((80, 0.0, 0.1, 0.2), {"train": (0, 72), "val": (74, 80), "test": (82, 100)}),
    ],
)
def test_split_in_time(split, expected):
    found = split_in_time(100, 0.1, SplitConfig(*split), window_length=4)
    assert {name: (s.start, s.stop) for name, s in found.items()} == expected


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.9])
@pytest.mark.parametrize(("window", "gap"), [(10, 0.0), (4, 0.7), (1, 0.0)])
def test_the_first_refusal_names_the_session_that_is_long_enough(share, window, gap):
    """For the holdout score too; a bin less is refused, just so many are taken."""

    def parts(bins: int):
        return split_in_time(bins, 0.1, config, window)

    config = SplitConfig(80, 0.0, 0.0, gap, share)
    with pytest.raises(BciDecodeError, match="has 81 bins, that leaves") as refusal:
        parts(81)
    line = re.search(r"takes (\d+), (\d+) of them for the test part", str(refusal.value))
    enough = int(line[1])
    assert enough == 80 + round(gap / 0.1) + int(line[2])
    assert ("holdout" in parts(enough)) == (share > 0)
    with pytest.raises(BciDecodeError):
        parts(enough - 1)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (
            (120, 0.0, 0.0, 0.0),
            r"has 100 bins, that leaves 0 for test, but it takes 124, 4 of them for the test part; "
            r"change data.split.first_bins",
        ),
        ((98, 0.0, 0.0, 0.0), r"2 for test, but it takes 102, .*change data.split.first_bins"),
        (
            (80, 0.0, 0.02, 0.0),
            r"leaves 2 for val, but it takes 4 for each part; change .*data.split.val",
        ),
        ((-5, 0.0, 0.0, 0.0), r"data.split.first_bins: is -5"),
        ((None, 0.6, 0.2, float("nan")), r"data.split.gap: is nan"),
        (
            (None, 0.97, 0.02, 0.0),
            r"leaves 2 for val, 1 for test, but it takes 4 for each part; change data.split.train",
        ),
        ((None, 0.9, 0.2, 0.0), r"data.split.train, val: are 0.9 and 0.2"),
        ((None, 0.6, -0.2, 0.0), r"data.split.val: is -0.2"),
        ((None, 0.6, 0.2, -1.0), r"data.split.gap: is -1.0"),
    ],
)
def test_a_split_that_does_not_fit_names_its_key(split, words):
    with pytest.raises(BciDecodeError, match=words):
        split_in_time(100, 0.1, SplitConfig(*split), window_length=4)


@pytest.mark.parametrize(
    ("share", "gap", "window", "expected"),
    [
        (0.0, 0.0, 4, {}),
        (0.2, 0.0, 4, {"val": (0, 20), "holdout": (24, 100)}),
        (0.2, 0.55, 4, {"val": (0, 20), "holdout": (26, 100)}),
        (0.5, 0.0, 20, {"val": (0, 50), "holdout": (70, 100)}),
    ],
)
def test_no_window_sees_both_slices_of_the_test_part(share, gap, window, expected):
    first = 500 + math.ceil(gap / 0.1)
    found = split_in_time(first + 100, 0.1, SplitConfig(500, 0.0, 0.0, gap, share), window)
    slices = {
        n: (s.start - first, s.stop - first) for n, s in found.items() if n in ("val", "holdout")
    }
    assert slices == expected


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ((60, 0.0, 0.0, 0.0, 1.0), r"val_from_test: is 1.0; choose 0 or more, below 1"),
        ((60, 0.0, 0.0, 0.0, float("nan")), r"val_from_test: is nan"),
        ((60, 0.0, 0.2, 0.0, 0.2), r"val_from_test: is 0.2 beside data.split.val=0.2"),
        (
            (60, 0.0, 0.0, 0.0, 0.05),
            r"leaves 2 to select on and 34 to score; each needs 4; change it, .* has 70 bins",
        ),
        ((60, 0.0, 0.0, 0.0, 0.9), r"leaves 36 to select on and 0 to score"),
    ],
)
def test_slices_of_the_test_part_that_do_not_fit_name_their_key(split, words):
    with pytest.raises(BciDecodeError, match=words):
        prepare(binned(), config(split=SplitConfig(*split)))


def test_slices_of_the_test_part_change_no_part():
    """Training and test part are the same as without it, to the last bit.

    The slices are bins of the test part.
    """
    plain, data = (
        prepare(binned(), config(split=SplitConfig(60, 0.0, 0.0, 0.0, share)))
        for share in (0.0, 0.25)
    )
    assert plain.slices == {"train": slice(0, 60), "test": slice(60, 100)}
    assert plain.slices.items() <= data.slices.items()
    for name in plain.slices:
        np.testing.assert_array_equal(plain.parts[name].counts, data.parts[name].counts)
        np.testing.assert_array_equal(plain.parts[name].target, data.parts[name].target)
    raw = binned()
    np.testing.assert_array_equal(data.parts["val"].target, raw.kinematics[60:70])
    np.testing.assert_array_equal(data.parts["holdout"].target, raw.kinematics[74:])
    np.testing.assert_array_equal(data.parts["holdout"].counts, data.parts["test"].counts[14:])


@pytest.mark.parametrize(
    ("window", "bins", "starts", "first_output"),
    [
        (WindowConfig("history", 4, 1, 0), 7, [0, 1, 2, 3], 3),
        (WindowConfig("history", 4, 2, 0), 7, [0, 2, 3], 3),
        (WindowConfig("sequence", 4, 3, 1), 11, [0, 3, 6, 7], 1),
        (WindowConfig("sequence", 4, 9, 0), 4, [0], 0),
    ],
)
def test_windows_reach_the_end_and_not_beyond(window, bins, starts, first_output):
    made = Window.from_config(window)
    assert made.starts(bins).tolist() == starts
    assert made.first_output == first_output
    assert made.history == (4 if window.kind == "history" else None)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (("hstory", 4, 1, 0), "data.window.kind: is 'hstory'; choose sequence or history"),
        (("history", 0, 1, 0), "data.window.length: is 0"),
        (("history", 4, 0, 0), "data.window.stride: is 0"),
        (("sequence", 4, 1, 4), "data.window.burn_in: is 4 of 4"),
        (("sequence", 4, 1, -1), "data.window.burn_in: is -1"),
    ],
)
def test_bad_windows(window, words):
    with pytest.raises(BciDecodeError, match=words):
        WindowConfig(*window)


def test_scaling_is_fitted_on_the_training_part():
    data = prepare(binned(), config())
    raw = binned()
    np.testing.assert_allclose(data.parts["train"].counts.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.parts["train"].counts.std(0), 1, atol=1e-6)
    expected = (raw.counts[80:] - raw.counts[:60].mean(0)) / raw.counts[:60].std(0)
    np.testing.assert_allclose(data.parts["test"].counts, expected, atol=1e-5)
    np.testing.assert_array_equal(data.parts["test"].target, raw.kinematics[80:])
    np.testing.assert_allclose(data.target_scaler.mean, raw.kinematics[:60].mean(0))
    np.testing.assert_allclose(data.parts["val"].time, raw.edges[61:81])


def test_without_scaling_the_counts_are_the_counts():
    data = prepare(binned(), config(scale=ScaleConfig("none", "none")))
    np.testing.assert_array_equal(data.parts["train"].counts, binned().counts[:60])
    assert data.parts["train"].counts.dtype == np.float32
    np.testing.assert_array_equal(data.target_scaler.inverse(np.ones((1, 2))), [[1, 1]])


def test_a_unit_silent_in_training_is_centered_not_blown_up():
    counts = binned().counts.copy()
    counts[:60, 1] = 3
    data = prepare(dataclasses.replace(binned(), counts=counts), config())
    np.testing.assert_array_equal(data.parts["train"].counts[:, 1], 0)
    np.testing.assert_array_equal(data.parts["test"].counts[:, 1], counts[80:, 1] - 3.0)


def test_scaler_goes_there_and_back():
    values = np.random.default_rng(0).normal(5, 3, (50, 2))
    scaler = Scaler.fit(values, "zscore")
    np.testing.assert_allclose(scaler.inverse(scaler.transform(values)), values)
    with pytest.raises(
        BciDecodeError, match="data.scale.target: is 'minmax'; choose none, zscore or per_sample"
    ):
        ScaleConfig(target="minmax")


def test_slow_units_are_left_out_by_their_rate_in_training():
    counts = np.zeros((100, 3), np.uint8)
    counts[:60:2, 0] = 1  # 5 Hz in training
    counts[:60:4, 1] = 1  # 2.5 Hz
    counts[60:, 2] = 9  # silent in training, fast later
    data = prepare(dataclasses.replace(binned(), counts=counts), config(min_rate=2.5))
    assert data.units["channel"].tolist() == ["M1 000", "M1 001"]
    assert data.parts["test"].counts.shape == (20, 2)
    with pytest.raises(
        BciDecodeError, match=r"data.min_rate: no unit is left of 3, the fastest has 5.00 Hz"
    ):
        prepare(dataclasses.replace(binned(), counts=counts), config(min_rate=5.1))


def test_an_axis_that_stands_still_is_refused():
    kinematics = binned().kinematics.copy()
    kinematics[80:, 1] = 3.0
    with pytest.raises(
        BciDecodeError, match=r"made: data.source: y velocity never changes in the test part"
    ):
        prepare(dataclasses.replace(binned(), kinematics=kinematics), config())


def test_a_training_part_without_a_spike_is_refused():
    counts = binned().counts.copy()
    counts[:60] = 0
    with pytest.raises(BciDecodeError, match=r"made: no spike falls into the training part"):
        prepare(dataclasses.replace(binned(), counts=counts), config())


@pytest.mark.parametrize(
    ("lag", "words"),
    [
        (-0.2, "or a shorter data.delay .or -data.lag."),
        (0.2, "or a shorter data.lag$"),
        (0.0, "4.$"),
    ],
)
def test_a_shift_that_took_bins_is_in_the_remedy(lag, words):
    short = dataclasses.replace(binned(bins=10), lag=lag)
    with pytest.raises(BciDecodeError, match="change data.split.train.*" + words):
        prepare(short, config(lag=lag))


def test_the_cutoff_of_the_filter_is_in_cycles_per_bin():
    assert config(low_pass=2.0).cutoff == prepare(binned(), config(low_pass=2.0)).low_pass == 0.2
    assert config().cutoff is None


@pytest.mark.parametrize("first", [60, 80])
def test_what_comes_after_the_training_part_changes_nothing_that_is_learned_from(first):
    """Change every bin from `first` on: the parts before it stay the same to the last bit."""
    raw = binned()
    counts, kinematics = raw.counts.copy(), raw.kinematics.copy()
    counts[first:] += 7
    kinematics[first:] *= 3
    before, after = (
        prepare(b, config(min_rate=1.0))
        for b in (raw, dataclasses.replace(raw, counts=counts, kinematics=kinematics))
    )
    for name in ("train", "val")[: 1 if first == 60 else 2]:
        np.testing.assert_array_equal(before.parts[name].counts, after.parts[name].counts)
        np.testing.assert_array_equal(before.parts[name].target, after.parts[name].target)
    assert not np.array_equal(before.parts["test"].counts, after.parts["test"].counts)
