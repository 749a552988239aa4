"""Presence, overlapping sums, the central difference and reaches, against plain loops."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from recordings import positions

from bci_decode.config import DataConfig, ScaleConfig, SplitConfig, WindowConfig
from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.counts import trailing_sums
from bci_decode.data.dataset import prepare
from bci_decode.data.parts import Scaler, Window
from bci_decode.data.reaches import reach_starts, split_by_reaches
from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError

START = 4644.642
AEGRU = {"bin_width": 0.004, "presence": 0.004, "count_window": 0.08, "units": "merged"}


def made(samples=1001, rate=60.0, units=3, seed=0, changes=(200, 420, 421, 700)) -> Session:
    """Four seconds of random spikes, two rows on the first channel, many within one sample."""
    rng = np.random.default_rng(seed)
    t = START + 0.004 * np.arange(samples)
    trains = tuple(
        np.sort(rng.uniform(START - 0.1, t[-1] + 0.1, int(rate * samples * 0.004)))
        for _ in range(units)
    )
    channels = ["M1 001", "M1 001", *(f"M1 {i:03d}" for i in range(2, units))]
    table = pd.DataFrame({"channel": channels, "area": "M1", "row": [0, 1, *[0] * (units - 2)]})
    path = rng.normal(0, 0.3, (samples, 3)).cumsum(axis=0)
    target = np.zeros((samples, 2))
    for change in changes:
        target[change:] = rng.normal(0, 20, 2)
    series = positions(finger_pos=path, cursor_pos=path[:, :2] * 2, target_pos=target)
    return Session("made", "made.mat", t, trains, table, tuple(channels), series)


def members(session: Session, units: str) -> list[np.ndarray]:
    first, second, *rest = session.spike_times
    merged = [np.concatenate([first, second]), *rest]
    return merged if units == "merged" else [first, second, *rest]


def present(times: np.ndarray, start: float, stop: float) -> bool:
    """Whether a spike falls into [start, stop), with the clock's nanoseconds left out."""
    return bool(((times >= start - 1e-7) & (times < stop - 1e-7)).any())


@pytest.mark.parametrize("units", ["all", "merged"])
@pytest.mark.parametrize(("bin_width", "presence"), [(0.004, 0.004), (0.08, 0.004), (0.064, 0.008)])
def test_presence_counts_the_intervals_that_hold_a_spike(units, bin_width, presence):
    session = made()
    counts = bin_session(session, bin_width=bin_width, presence=presence, units=units).counts
    each = round(bin_width / presence)
    expected = np.zeros_like(counts)
    for column, times in enumerate(members(session, units)):
        for k in range(len(counts)):
            for i in range(k * each, (k + 1) * each):
                begin = START + presence * i
                expected[k, column] += present(times, begin, begin + presence)
    np.testing.assert_array_equal(counts, expected)
    assert counts.max() <= each and counts.dtype == np.uint8
    # it differs from counting every spike
    assert (bin_session(session, bin_width=bin_width, units=units).counts > counts).any()


def test_sums_trail_and_never_overflow():
    counts = np.array([[1, 200], [2, 100], [3, 0], [4, 7]], np.uint8)
    np.testing.assert_array_equal(
        trailing_sums(counts, 3), [[1, 200], [3, 300], [6, 300], [9, 107]]
    )
    np.testing.assert_array_equal(trailing_sums(counts, 9)[-1], [10, 307])
    assert trailing_sums(counts, 1) is counts


def test_windows_every_4_ms_are_the_bins_of_80_ms_that_end_there():
    """Each window is binned again from the spike times: presence per 4 ms in five bins of 80 ms."""
    session = made(samples=301)
    binned = bin_session(session, **AEGRU)
    windows = Window("history", 5, 1, 0, step=20).bins(len(binned.counts))
    assert len(windows) == 300 - 80 and windows.shape[1] == 5
    trains = members(session, "merged")
    for w in range(19, len(windows), 7):  # the windows before see bins that are not whole
        end = binned.edges[windows[w, -1] + 1]  # of the window, 400 ms after its start
        fine = end - 0.4 + 0.004 * np.arange(101)
        for column, times in enumerate(trains):
            there = [present(times, *pair) for pair in pairwise(fine)]
            expected = np.reshape(there, (5, 20)).sum(axis=1)
            np.testing.assert_array_equal(binned.counts[windows[w], column], expected)


def test_the_central_difference_is_numpys_gradient_at_the_bins_last_sample():
    session = made()
    binned = bin_session(session, bin_width=0.004, source="cursor_pos", difference="central")
    per_sample = np.gradient(session.cursor_pos, axis=0)  # mm per 4 ms
    np.testing.assert_allclose(binned.kinematics, 250 * per_sample[1:], rtol=1e-4, atol=1e-3)
    wide = bin_session(session, bin_width=0.02, source="cursor_pos", difference="central")
    np.testing.assert_allclose(wide.kinematics, 250 * per_sample[5::5], rtol=1e-4, atol=1e-3)
    late = bin_session(session, bin_width=0.02, source="cursor_pos", difference="central", lag=0.04)
    np.testing.assert_allclose(late.kinematics, 250 * per_sample[15::5], rtol=1e-4, atol=1e-3)
    back = Scaler.fit(binned.kinematics, "per_sample").transform(binned.kinematics)
    np.testing.assert_allclose(back, per_sample[1:], rtol=1e-4, atol=1e-5)


def test_position_and_acceleration_have_a_central_difference_too():
    session, words = made(), {"bin_width": 0.004, "difference": "central"}
    position = bin_session(session, target="position", **words).kinematics
    np.testing.assert_array_equal(position, bin_session(session, **words | {
        "target": "position", "difference": "bin"}).kinematics)  # fmt: skip
    twice = np.gradient(np.gradient(session.finger_pos[:, :2], 0.004, axis=0), 0.004, axis=0)
    found = bin_session(session, target="acceleration", **words).kinematics
    np.testing.assert_allclose(found, twice[1:], rtol=1e-3, atol=20)


@pytest.mark.parametrize("lag", [0.0, 0.1])
@pytest.mark.parametrize("bin_width", [0.004, 0.02])
def test_reaches_begin_where_the_target_changes(bin_width, lag):
    session = made(changes=(200, 420, 421, 700))
    binned = bin_session(session, bin_width=bin_width, lag=lag)
    expected = {0}
    for change in (200, 420, 421, 700):
        seen = [
            k for k, end in enumerate(binned.edges[1:]) if end + lag >= session.t[change] - 1e-6
        ]
        expected |= {seen[0]}
    assert binned.reaches.tolist() == sorted(expected)


def test_a_missing_target_is_no_reach():
    session = made(changes=(200,))
    session.target_pos[50:60] = np.nan
    assert reach_starts(session, session.t).tolist() == [0, 199]


@pytest.mark.parametrize(("train", "val"), [(0.5, 0.25), (0.6, 0.2), (0.7, 0.0)])
@pytest.mark.parametrize("reaches", [4, 20, 21, 23, 1023])
def test_parts_are_whole_reaches_in_order(train, val, reaches):
    rng = np.random.default_rng(reaches)
    lengths = rng.integers(5, 40, reaches)
    starts = np.cumsum([0, *lengths[:-1]])
    bins = int(lengths.sum())
    config = SplitConfig(None, train, val, 0.0, by="reaches")
    found = split_by_reaches(starts, bins, 0.004, config, window_length=2)
    first = int(reaches * train + 1e-9)
    second = int((reaches - first) * val / (1 - train) + 1e-9)
    parts = [lengths[:first], lengths[first : first + second], lengths[first + second :]]
    names = [name for name in ("train", "val", "test") if name != "val" or val]
    begin = 0
    for name, part in zip(names, [p for p in parts if len(p)], strict=True):
        assert found[name] == slice(begin, begin + int(sum(part)))
        begin += int(sum(part))
    assert begin == bins
    if val == 0.25:  # NeuroBench halves what training leaves
        assert len(parts[1]) == (reaches - first) // 2


def config(**changes) -> DataConfig:
    base = DataConfig(
        **AEGRU,
        split=SplitConfig(None, 0.5, 0.25, 0.0, by="reaches"),
        scale=ScaleConfig("none", "per_sample"),
        window=WindowConfig("history", 3, 1, 0, step=20, learn=3),
    )
    return dataclasses.replace(base, **changes)


def test_no_spike_counts_in_two_parts_and_no_window_crosses_a_border():
    session = made(changes=range(40, 1000, 40))
    binned = bin_session(session, **AEGRU)
    data = prepare(binned, config())
    train, val, test = (data.slices[name] for name in ("train", "val", "test"))
    assert val.start - train.stop == test.start - val.stop == 19
    assert {train.stop, val.stop} <= set(binned.reaches)
    windows = data.window.bins(len(data.parts["train"]))
    assert windows.min() == 0 and windows.max() == train.stop - 1
    assert (np.diff(windows) == 20).all() and data.window.first_output == 0
    late = session.spike_times[0] >= binned.edges[train.stop]
    changed = dataclasses.replace(
        session,
        spike_times=(session.spike_times[0][~late], *session.spike_times[1:]),
    )
    other = prepare(bin_session(changed, **AEGRU), config())
    np.testing.assert_array_equal(other.parts["train"].counts, data.parts["train"].counts)
    assert (other.parts["val"].counts != data.parts["val"].counts).any()


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("difference", ["bin", "central"])
@pytest.mark.parametrize(
    ("target", "bin_width", "grids"),
    [("velocity", 0.02, 2), ("velocity", 0.004, 1), ("acceleration", 0.004, 1)],
)
def test_nothing_that_is_learned_from_depends_on_the_test_part(
    chained, difference, target, bin_width, grids
):
    """Change all spikes and samples from the test part's first bin on."""
    split = SplitConfig(None, 0.5, 0.25, 0.0)
    if chained:
        split = SplitConfig(val=0.25, gap=0.0, cuts=3, cut=1)
    keys = config(
        bin_width=bin_width,
        presence=None,
        count_window=None,
        target=target,
        difference=difference,
        split=split,
        scale=ScaleConfig(),
        window=WindowConfig("history", 3, 1, 0, grids=grids),
    )
    session = made()

    def dataset(session: Session):
        return prepare(bin_session(session, **keys.binning_kwargs(), grids=grids), keys)

    before = dataset(session)
    start = before.parts["test"].time[0] - bin_width
    path = session.finger_pos.copy()
    path[session.t > start + 1e-6] += 100.0
    trains = tuple(times[times < start] for times in session.spike_times)
    changed = dataclasses.replace(session, spike_times=trains).with_positions(finger_pos=path)
    after = dataset(changed)
    learned = [[data.parts["train"], data.parts["val"], *data.shifted] for data in (before, after)]
    for one, other in zip(*learned, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.target, other.target)
    assert (before.parts["test"].target != after.parts["test"].target).any()


def test_the_rate_of_a_unit_does_not_count_a_spike_twice():
    """60 Hz on average; presence in overlapping bins is still below that."""
    session = made(changes=range(40, 1000, 40))
    binned = bin_session(session, **AEGRU)
    prepare(binned, config(min_rate=40.0))
    with pytest.raises(BciDecodeError, match="no unit is left of 2"):
        prepare(binned, config(min_rate=130.0))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            {"bin_width": 0.01, "presence": 0.004},
            "data.presence: is 0.004 s, not a divisor of data.bin_width, 0.01 s; choose",
        ),
        ({"bin_width": 0.004, "presence": 0.008}, "data.presence: is 0.008 s, not a divisor"),
        (
            {"bin_width": 0.02, "count_window": 0.05},
            "data.count_window: is 0.05 s, not a multiple of data.bin_width, 0.02 s; choose",
        ),
        ({"bin_width": 0.02, "count_window": 0.004}, "data.count_window: is 0.004 s, not a multi"),
        ({"difference": "forward"}, "data.difference: is 'forward'; choose one of bin, central"),
    ],
)
def test_bad_options_name_their_key(words, line):
    with pytest.raises(BciDecodeError) as refusal:
        bin_session(made(), **words)
    assert line in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"changes": ()},
            "data.split.by: is reaches, but target_pos never changes; choose",
        ),
        ({"changes": (500,)}, "data.split.by: 2 reaches are too few for the parts 0.5 and 0.25"),
    ],
)
def test_a_recording_without_reaches_is_one_line(changes, line):
    binned = bin_session(made(**changes), **AEGRU)
    with pytest.raises(BciDecodeError) as refusal:
        prepare(binned, config())
    assert line in str(refusal.value) and str(refusal.value).startswith("made: ")


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ({"first_bins": 500}, "data.split.first_bins: is 500 beside data.split.by=reaches"),
        ({"val_from_test": 0.2}, "data.split.val_from_test: is 0.2 beside data.split.by=reaches"),
        ({"train": 0.8, "val": 0.3}, "data.split.train, val: are 0.8 and 0.3"),
    ],
)
def test_what_reaches_do_not_have_is_refused(split, line):
    with pytest.raises(BciDecodeError) as refusal:
        split_by_reaches(np.arange(9), 900, 0.1, SplitConfig(by="reaches", **split), 2)
    assert line in str(refusal.value)


def test_values_that_cannot_be_are_refused_at_once():
    with pytest.raises(BciDecodeError, match=r"data.window.learn: is 6 of 5 bins"):
        WindowConfig("history", 5, 1, 0, learn=6)
    with pytest.raises(BciDecodeError, match=r"data.scale.target: is per_sample, a unit of veloc"):
        DataConfig(target="position", scale=ScaleConfig("none", "per_sample"))


def test_a_session_without_known_reaches_is_refused():
    binned = bin_session(made(), **AEGRU)
    assert isinstance(binned, BinnedSession)
    with pytest.raises(BciDecodeError, match="neither target_pos nor trials"):
        prepare(dataclasses.replace(binned, reaches=None), config())


def test_trials_are_reaches_where_no_target_is_recorded():
    session = made()
    series = {name: values for name, values in session.series.items() if name != "target_pos"}
    trials = session.t[[300, 700, 900]]
    session = dataclasses.replace(session, series=series, trials=trials)
    starts = bin_session(session, bin_width=0.1).reaches
    np.testing.assert_array_equal(starts, [0, *np.ceil((trials - session.t[0]) / 0.1 - 1e-6) - 1])
